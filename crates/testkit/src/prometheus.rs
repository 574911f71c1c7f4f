//! Prometheus as a process that scrapes gateways, asked through its HTTP API.
//!
//! The surprise: unlike other servers of the kit it is never skipped: without Debian's `prometheus` the test fails and says so.
#![allow(clippy::expect_used, reason = "a test that cannot have its server ends there")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ports::free_port;
use crate::wire::Wire;

const LIMIT: Duration = Duration::from_secs(30);

/// A running Prometheus; it goes with this value, its data too.
pub struct Prometheus {
    process: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Prometheus {
    /// Scrapes these targets (`127.0.0.1:9091`) under the job `sluice` four times a second, at APISIX's path.
    pub fn start(targets: &[String]) -> Prometheus {
        let folder = tempfile::tempdir().expect("a folder");
        let config = json!({
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "1s"},
            "scrape_configs": [{
                "job_name": "sluice",
                "metrics_path": "/apisix/prometheus/metrics",
                "static_configs": [{"targets": targets}],
            }],
        });
        std::fs::write(folder.path().join("prometheus.yml"), config.to_string()).expect("a file");
        let port = free_port();
        let prometheus = Prometheus { process: spawn(&folder, port), folder, port };
        prometheus.wait();
        prometheus
    }

    /// Kills it without a chance to write anything down.
    pub fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Starts it again on its data.
    pub fn restart(&mut self) {
        self.process = spawn(&self.folder, self.port);
        self.wait();
    }

    fn wait(&self) {
        let until = Instant::now() + LIMIT;
        while !Wire::connect(("127.0.0.1", self.port))
            .and_then(|mut w| w.get("/-/ready"))
            .is_ok_and(|a| a.status == 200)
        {
            assert!(Instant::now() < until, "prometheus is not ready");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The samples of an expression now; an error is Prometheus' own message.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let target = format!("/api/v1/query?query={}", encoded(expression));
        let answer =
            Wire::connect(("127.0.0.1", self.port)).and_then(|mut w| w.get(&target)).map_err(|e| e.to_string())?;
        let answer = answer.json();
        match answer["data"]["result"].as_array() {
            Some(samples) if answer["status"] == "success" => Ok(samples.clone()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// Whether an expression gives at least one sample that is a number.
    pub fn has_data(&self, expression: &str) -> Result<bool, String> {
        let samples = self.query(expression)?;
        Ok(samples.iter().any(|sample| sample["value"][1].as_str().is_some_and(|value| value != "NaN")))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(folder: &tempfile::TempDir, port: u16) -> Child {
    Command::new("prometheus")
        .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--log.level=error")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus is missing (Debian: prometheus; `cargo xtask test` installs it)")
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}
