//! `cargo xtask ci`: everything a change must pass, cheapest first, with the time each step took.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::{bench, fuzz, layers, process, reference, test};

/// Everything a change must pass: format, lints, layers, references, a little fuzzing, failing backends, failing log sinks, tests.
#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask ci --fuzz-seconds 10")]
pub struct Args {
    /// Seconds for each fuzz target
    #[arg(long, default_value_t = 15)]
    fuzz_seconds: u64,
}

pub fn run(args: &Args) -> Result<()> {
    let cargo = process::cargo();
    step("format", || process::run(&cargo, &["fmt", "--all", "--check"]))?;
    step("layers", || layers::run(&layers::Args {}))?;
    step("programs", || test::install(test::NEEDED))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    step("clippy", || process::run(&cargo, &clippy))?;
    step("reference", || reference::run(&reference::Args { check: true }))?;
    step("fuzz", || fuzz::run(&fuzz::Args { seconds: args.fuzz_seconds, target: None }))?;
    step("chaos", || bench::short("chaos"))?;
    step("soak", || bench::short("soak"))?;
    // Last, so that its summary is the last line.
    let summary = step("test", || test::tests(&[]))?;
    println!("{summary}");
    Ok(())
}

fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    eprintln!("\n=== {name}");
    let result = work().with_context(|| format!("step `{name}`"))?;
    eprintln!("=== {name}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(result)
}
