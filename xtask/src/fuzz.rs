//! `cargo xtask fuzz`: runs the fuzz targets with the driver of `fuzz/`, which needs no nightly toolchain.

use std::path::PathBuf;

use anyhow::Result;

use crate::process;

/// Run the fuzz targets for a while on the stable toolchain.
#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask fuzz --seconds 600 --target request_head")]
pub struct Args {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Only this target
    #[arg(long)]
    pub target: Option<String>,
}

pub fn run(args: &Args) -> Result<()> {
    let seconds = args.seconds.to_string();
    let manifest = PathBuf::from("fuzz/Cargo.toml").display().to_string();
    let mut command = vec![
        "run",
        "--quiet",
        "--release",
        "--manifest-path",
        &manifest,
        "--bin",
        "driver",
        "--",
        "--seconds",
        &seconds,
    ];
    if let Some(target) = &args.target {
        command.extend(["--target", target.as_str()]);
    }
    process::run(&process::cargo(), &command)
}
