//! Memcached as a process (Debian's `memcached`). Where it is not installed [`Memcached::start`] gives None and says so.
#![allow(clippy::expect_used, reason = "a test that cannot have its server ends there")]

use crate::ports::free_port;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

/// A running server; it goes with this value.
pub struct Memcached {
    process: Child,
    pub port: u16,
}

impl Memcached {
    /// A server on a free port of 127.0.0.1.
    pub fn start() -> Option<Memcached> {
        let port = free_port();
        match spawn(port) {
            Ok(process) => Some(Memcached { process, port }),
            Err(error) => {
                eprintln!("skipped: memcached cannot be started ({error}); on Debian: apt-get install memcached");
                None
            }
        }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills it, and all it held with it.
    pub fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Starts it again on the same port.
    pub fn restart(&mut self) {
        self.process = spawn(self.port).expect("memcached");
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(port: u16) -> std::io::Result<Child> {
    let mut command = Command::new("memcached");
    command.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0", "-u", "nobody", "-m", "32"]);
    let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let until = Instant::now() + LIMIT;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < until, "memcached does not listen in time");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(process)
}
