//! `cargo xtask bench`: builds Sluice and the benchmark in release mode and runs it; see `bench/`.

use anyhow::Result;

use crate::process;

/// CPU per request of Sluice and every peer found here. All arguments go to the benchmark.
#[derive(clap::Args)]
#[command(disable_help_flag = true, after_help = "Example: cargo xtask bench --only small,tls --rounds 5")]
pub struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    let cargo = process::cargo();
    process::run(
        &cargo,
        &["build", "--release", "--package", "sluice", "--bin", "sluice", "--package", "sluice-bench"],
    )?;
    let mut command = vec!["run", "--quiet", "--release", "--package", "sluice-bench", "--"];
    command.extend(args.rest.iter().map(String::as_str));
    process::run(&cargo, &command)
}
