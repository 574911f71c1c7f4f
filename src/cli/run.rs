//! `sluice run`.
use super::ConfigArgument;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Run {
    #[command(flatten)]
    config: ConfigArgument,
    /// Where state is kept: the embedded store, the generated admin key. Configuration from files keeps none.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,
}

impl Default for Run {
    fn default() -> Run {
        Run { config: ConfigArgument::default(), data_dir: PathBuf::from("data") }
    }
}

impl Run {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let path = crate::boot::config_path(self.config.config)?;
        crate::boot::run(&path, &self.data_dir)?;
        Ok(ExitCode::SUCCESS)
    }
}
