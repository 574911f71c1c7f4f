//! `cargo xtask bench`, `chaos` and `soak`: build Sluice and the program of `bench/`, and run it. The short forms of the latter two
//! take development builds, as they measure no time; with `--sluice` the gateway is not built.

use anyhow::Result;

use crate::process;

/// CPU per request of Sluice and every peer found here. All arguments go to the benchmark.
#[derive(clap::Args)]
#[command(disable_help_flag = true, after_help = "Example: cargo xtask bench --only small,tls --rounds 5")]
pub struct Bench {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Break backends under load and tell what clients saw. All arguments go to the chaos test.
#[derive(clap::Args)]
#[command(disable_help_flag = true, after_help = "Example: cargo xtask chaos --story kill,freeze --peer sluice")]
pub struct Chaos {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Full load with every logger on, into sinks of every kind: memory flat, nothing lost uncounted. All arguments go to the soak test.
#[derive(clap::Args)]
#[command(disable_help_flag = true, after_help = "Example: cargo xtask soak --minutes 10")]
pub struct Soak {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

impl Bench {
    pub fn run(&self) -> Result<()> {
        run(None, &self.rest)
    }
}

impl Chaos {
    pub fn run(&self) -> Result<()> {
        run(Some("chaos"), &self.rest)
    }
}

impl Soak {
    pub fn run(&self) -> Result<()> {
        run(Some("soak"), &self.rest)
    }
}

/// The form of a test that a change must pass.
pub fn short(test: &str) -> Result<()> {
    run(Some(test), &["--short".to_owned()])
}

fn run(test: Option<&str>, rest: &[String]) -> Result<()> {
    let cargo = process::cargo();
    let given = |wanted: &[&str]| rest.iter().any(|a| wanted.contains(&a.split('=').next().unwrap_or_default()));
    let timed = test.is_none() || !given(&["--short", "--help", "-h"]);
    let profile = if timed { "release" } else { "dev" };
    if test.is_none() || !given(&["--sluice", "--help", "-h"]) {
        process::run(&cargo, &["build", "--profile", profile, "--package", "sluice", "--bin", "sluice"])?;
    }
    let mut command = vec!["run", "--quiet", "--profile", profile, "--package", "sluice-bench", "--"];
    command.extend(test);
    command.extend(rest.iter().map(String::as_str));
    process::run(&cargo, &command)
}
