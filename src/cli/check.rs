//! `sluice check`: everything that is wrong with a configuration, at once.
use super::{ConfigArgument, Output};
use sluice_config::{Compiler, Problem};
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
            let mut applied = compiler.replace_all(crate::source::objects(raw));
            applied.problems.retain(|problem| !waits_for_secret(&compiler, problem));
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

/// Whether a certificate or key is missing that a secret manager has: none is asked here.
fn waits_for_secret(compiler: &Compiler, problem: &Problem) -> bool {
    let parts = ["certificate: ", "private key: ", "CA certificate: "];
    let body = compiler.object(problem.kind, &problem.id).map(|body| body.value().to_string());
    parts.iter().any(|part| problem.message.starts_with(part)) && body.is_some_and(|body| body.contains("$secret://"))
}
