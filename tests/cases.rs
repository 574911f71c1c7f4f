//! One test per file of `tests/cases/`: `cargo nextest run --test cases key-auth/`. The format is in CONTRIBUTING.md.

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use sluice_testkit::{Gateway, cases};

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let found = match cases::discover(&root) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = found
        .into_iter()
        .map(|(name, file)| {
            Trial::test(name, move || {
                let start = |dir| Gateway::start(Path::new(env!("CARGO_BIN_EXE_sluice")), dir);
                cases::run(&file, &start).map_err(|e| Failed::from(format!("{e:#}")))
            })
        })
        .collect();
    libtest_mimic::run(&args, trials).exit_code()
}
