//! `cargo xtask`: everything that is done to the repository rather than by the gateway. Each subcommand is a file.
//!
//! It depends on no crate of the workspace, so that it builds in seconds and can check a tree that does not compile.

mod bench;
mod cache_tests;
mod ci;
mod compat;
mod crs;
mod fuzz;
mod house_rules;
mod layers;
mod process;
mod reference;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the Sluice repository", after_help = "Example: cargo xtask test")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Ci(ci::Args),
    Layers(layers::Args),
    Gen(reference::Args),
    Bench(bench::Bench),
    CacheTests(cache_tests::Args),
    Chaos(bench::Chaos),
    Soak(bench::Soak),
    Test(test::Args),
    Compat(compat::Args),
    Crs(crs::Args),
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Ci(args) => ci::run(&args),
        Task::Layers(args) => layers::run(&args),
        Task::Gen(args) => reference::run(&args),
        Task::Bench(args) => args.run(),
        Task::CacheTests(args) => cache_tests::run(&args),
        Task::Chaos(args) => args.run(),
        Task::Soak(args) => args.run(),
        Task::Test(args) => test::run(&args),
        Task::Compat(args) => compat::run(&args),
        Task::Crs(args) => crs::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
