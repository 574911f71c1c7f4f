//! `cargo xtask soak`: builds Sluice and the soak test and runs it; see `bench/src/soak.rs`. The short form takes development
//! builds, as it measures no time.

use anyhow::Result;

use crate::process;

/// Full load with every logger on, into sinks of every kind: memory flat, nothing lost uncounted. All arguments go to the soak test.
#[derive(clap::Args)]
#[command(disable_help_flag = true, after_help = "Example: cargo xtask soak --minutes 10")]
pub struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// The form that a change must pass.
pub fn short() -> Result<()> {
    run(&Args { rest: vec!["--short".to_owned()] })
}

pub fn run(args: &Args) -> Result<()> {
    let cargo = process::cargo();
    let given = |wanted: &[&str]| args.rest.iter().any(|a| wanted.contains(&a.split('=').next().unwrap_or_default()));
    let profile = if given(&["--short", "--help", "-h"]) { "dev" } else { "release" };
    if !given(&["--sluice", "--help", "-h"]) {
        process::run(&cargo, &["build", "--profile", profile, "--package", "sluice", "--bin", "sluice"])?;
    }
    let mut command = vec!["run", "--quiet", "--profile", profile, "--package", "sluice-bench", "--", "soak"];
    command.extend(args.rest.iter().map(String::as_str));
    process::run(&cargo, &command)
}
