//! `sluice run`.
use super::ConfigArgument;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args, Default)]
pub struct Run {
    #[command(flatten)]
    config: ConfigArgument,
    /// Where state is kept. Configuration from files keeps none, so that nothing is written there yet.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Run {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let quickstart = self.config.config.is_none() && !std::path::Path::new("conf/config.yaml").exists();
        let path = crate::boot::config_path(self.config.config)?;
        crate::boot::run(&path, quickstart)?;
        Ok(ExitCode::SUCCESS)
    }
}
