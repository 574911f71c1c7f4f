//! `cargo xtask chaos`: builds Sluice and the chaos test and runs it; see `bench/src/chaos/`. The short form takes development
//! builds, as it measures no time; with `--sluice` the gateway is not built.

use anyhow::Result;

use crate::process;

/// Break backends under load and tell what clients saw. All arguments go to the chaos test.
#[derive(clap::Args)]
#[command(disable_help_flag = true, after_help = "Example: cargo xtask chaos --story kill,freeze --peer sluice")]
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
    let mut command = vec!["run", "--quiet", "--profile", profile, "--package", "sluice-bench", "--", "chaos"];
    command.extend(args.rest.iter().map(String::as_str));
    process::run(&cargo, &command)
}
