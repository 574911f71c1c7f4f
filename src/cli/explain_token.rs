//! `sluice explain-token`: a token that makes `debug-logger` explain a request. The surprise: there is no option for the key
//! itself, since other users of the machine see command lines.
use anyhow::Context as _;
use sluice_plugins_observe::debug_logger::token;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

#[derive(clap::Args)]
pub struct ExplainToken {
    /// File with the plugin's `key`; without it the key is taken from SLUICE_EXPLAIN_KEY.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Seconds for which the token is valid; the plugin takes no more than its `max_age`.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    valid: u64,
}

impl ExplainToken {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let key = match &self.key_file {
            Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
            None => std::env::var("SLUICE_EXPLAIN_KEY").context("no key: give --key-file or SLUICE_EXPLAIN_KEY")?,
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        println!("{}", token(key.trim(), now.saturating_add(self.valid)));
        Ok(ExitCode::SUCCESS)
    }
}
