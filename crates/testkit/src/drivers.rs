//! The programs of `tests/conformance` (Python) as processes: drivers that ask cases and say how they went, servers that answer.
//!
//! The surprise: `SLUICE_TEST_PYTHONPATH` names the folder with their packages, which `cargo xtask test` fills; without it they must be
//! installed. Where one is missing a test fails: it would prove nothing.
#![allow(clippy::expect_used, reason = "a test that cannot have its programs ends there")]

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// What the drivers need besides Python.
const PACKAGES: &str = "grpc, h2, hpack, hyperframe, websockets";

/// The folder with the programs.
pub struct Drivers(PathBuf);

impl Drivers {
    /// `root`: the repository.
    pub fn new(root: &Path) -> Drivers {
        let drivers = Drivers(root.join("tests/conformance"));
        let found = drivers.python().args(["-c", &format!("import {PACKAGES}")]).output().expect("python3");
        let why = String::from_utf8_lossy(&found.stderr);
        assert!(
            found.status.success(),
            "run tests by `cargo xtask test`, or pip3 install -r tests/conformance/requirements.txt: {why}"
        );
        drivers
    }

    fn python(&self) -> Command {
        let mut command = Command::new("python3");
        command.current_dir(&self.0).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
        if let Some(packages) = std::env::var_os("SLUICE_TEST_PYTHONPATH") {
            command.env("PYTHONPATH", packages);
        }
        command
    }

    /// Runs a driver to its end; fails with all it said where a case failed, or where it did not run `wanted`: labels and how many
    /// cases they have at least.
    pub fn run(&self, program: &str, args: &[String], wanted: &[(&str, usize)]) {
        let mut driver = self.start(program, args);
        let said: Vec<String> = driver.lines.by_ref().map_while(Result::ok).collect();
        driver.end(&said.join("\n"), wanted);
    }

    /// Starts a driver whose lines the test reads.
    pub fn start(&self, program: &str, args: &[String]) -> Driver {
        let mut process = self.python().arg(program).args(args).stdout(Stdio::piped()).spawn().expect("python3");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        Driver { process, lines }
    }

    /// Starts a server, which says on which port it listens.
    pub fn server(&self, program: &str, args: &[String]) -> Server {
        let mut driver = self.start(program, args);
        let first = driver.lines.next().and_then(Result::ok).unwrap_or_default();
        let port = first.strip_prefix("listening ").and_then(|port| port.parse().ok());
        Server { port: port.unwrap_or_else(|| panic!("{program} does not listen: {first:?}")), _driver: driver }
    }
}

/// A driver under way, killed when dropped.
pub struct Driver {
    process: Child,
    pub lines: Lines<BufReader<ChildStdout>>,
}

impl Driver {
    /// Waits for the end and judges what it `said`.
    pub fn end(&mut self, said: &str, wanted: &[(&str, usize)]) {
        let status = self.process.wait().expect("it ends");
        assert!(status.success(), "{status}\n{said}");
        for (label, least) in wanted {
            let summary = said.lines().find_map(|line| line.strip_prefix(&format!("summary  {label}  ")));
            let count: usize = summary.and_then(|s| s.split(' ').next()?.parse().ok()).unwrap_or(0);
            assert!(count >= *least, "{label}: {count} cases, at least {least} were wanted\n{said}");
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A server of `tests/conformance`; it goes with this value.
pub struct Server {
    pub port: u16,
    _driver: Driver,
}

impl Server {
    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}
