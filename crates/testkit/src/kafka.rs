//! A Kafka-compatible broker as a process: Tansu, with its memory as storage, so that a restart loses what it held.
//!
//! The surprise: `SLUICE_TEST_TANSU` names its binary, which `cargo xtask test` fetches; without it and without a `tansu` in
//! PATH [`KafkaBroker::start`] gives None and says so.
#![allow(clippy::expect_used, reason = "a test that cannot have its server ends there")]

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::ports::free_port;

const LIMIT: Duration = Duration::from_secs(20);

/// A running broker; it goes with this value.
pub struct KafkaBroker {
    binary: PathBuf,
    process: Child,
    pub port: u16,
    topic: String,
}

impl KafkaBroker {
    /// With one topic.
    pub fn start(topic: &str) -> Option<KafkaBroker> {
        let Some(binary) = binary() else {
            eprintln!("skipped: no Kafka broker (`cargo xtask test` fetches one; else name it in SLUICE_TEST_TANSU)");
            return None;
        };
        let port = free_port();
        let broker = KafkaBroker { process: spawn(&binary, port), binary, port, topic: topic.to_owned() };
        broker.wait();
        Some(broker)
    }

    pub fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Starts it again on the same port, empty.
    pub fn restart(&mut self) {
        self.process = spawn(&self.binary, self.port);
        self.wait();
    }

    fn wait(&self) {
        let until = Instant::now() + LIMIT;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "the broker does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        let url = url(self.port);
        let made = Command::new(&self.binary).args(["topic", "create", &self.topic, "--broker", &url]).output();
        let made = made.expect("the broker's binary runs");
        assert!(made.status.success(), "no topic: {}", String::from_utf8_lossy(&made.stderr));
    }
}

impl Drop for KafkaBroker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn binary() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SLUICE_TEST_TANSU") {
        return Some(named.into());
    }
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|dir| dir.join("tansu")).find(|file| file.is_file())
}

fn url(port: u16) -> String {
    format!("tcp://127.0.0.1:{port}")
}

fn spawn(binary: &PathBuf, port: u16) -> Child {
    let url = url(port);
    Command::new(binary)
        .arg("broker")
        .args(["--listener-url", &url, "--advertised-listener-url", &url, "--storage-engine", "memory://tansu/"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the broker's binary runs")
}
