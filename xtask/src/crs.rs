//! `cargo xtask crs`: builds Sluice and runs the tests of the OWASP Core Rule Set through it, or measures what its rules cost; see
//! `bench/src/crs.rs`. The tests take a development build, the figures a release build; with `--sluice` the gateway is not built.

use anyhow::Result;

use crate::process;

/// The Core Rule Set's tests through the gateway, and what its rules cost. All arguments go to the tool.
#[derive(clap::Args)]
#[command(disable_help_flag = true, after_help = "Example: cargo xtask crs --checkout ../coreruleset --only 942")]
pub struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    let cargo = process::cargo();
    let given = |wanted: &[&str]| args.rest.iter().any(|a| wanted.contains(&a.split('=').next().unwrap_or_default()));
    let profile = if given(&["--cost"]) { "release" } else { "dev" };
    if !given(&["--sluice", "--help", "-h"]) {
        process::run(&cargo, &["build", "--profile", profile, "--package", "sluice", "--bin", "sluice"])?;
    }
    let mut command = vec!["run", "--quiet", "--profile", profile, "--package", "sluice-bench", "--", "crs"];
    command.extend(args.rest.iter().map(String::as_str));
    process::run(&cargo, &command)
}
