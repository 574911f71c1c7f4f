//! `sluice check`: everything that is wrong with a configuration, at once.
use super::{ConfigArgument, Output};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Check {
    #[command(flatten)]
    config: ConfigArgument,
    /// `text` or `json`.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Check {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let path = crate::boot::config_path(self.config.config)?;
        let mut found = sluice_config::check::check(&path, &sluice_config::environment::Environment::Process);
        if let (Some(settings), Some(raw)) = (&found.settings, &found.config) {
            let mut compiler = crate::boot::compiler(settings, crate::boot::Services::default())?;
            let applied = compiler.replace_all(crate::source::objects(raw));
            found.errors.extend(crate::source::errors(raw, &applied.problems));
            let broken = crate::certificates::check(&settings.apisix.ssl, &applied.snapshot)?;
            found.errors.extend(crate::source::errors(raw, &broken));
        }
        match self.output {
            Output::Text => print!("{found}"),
            Output::Json => println!("{}", serde_json::to_string_pretty(&found)?),
        }
        Ok(if found.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
