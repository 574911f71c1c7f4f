//! `sluice version`.
use super::Output;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Version {
    /// `text` or `json`.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Version {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let version = env!("CARGO_PKG_VERSION");
        match self.output {
            Output::Text => println!("sluice {version} (APISIX {})", crate::boot::APISIX_VERSION),
            Output::Json => {
                println!("{}", serde_json::json!({"version": version, "apisix": crate::boot::APISIX_VERSION}))
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
