//! The gateway as a process: started on a configuration folder, waited for, signalled, ended with the test.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::directory::ConfigDir;
use crate::wire::{Wire, WireError};

/// How long a start may take before it counts as failed.
const START: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

/// A running process, killed when dropped.
pub struct Gateway {
    child: Child,
    addr: SocketAddr,
    log: Arc<Log>,
    /// Kept so that it lives as long as the process does.
    dir: Option<ConfigDir>,
}

impl Gateway {
    /// `BINARY run -c conf/config.yaml --data-dir data` in the folder above `conf`, ready when its port accepts.
    pub fn start(binary: &Path, dir: ConfigDir) -> anyhow::Result<Self> {
        Self::start_with(binary, dir, &[])
    }

    /// The same with environment variables.
    pub fn start_with(binary: &Path, dir: ConfigDir, environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        command.arg("run").arg("-c").arg(dir.config_file()).arg("--data-dir").arg(dir.data_dir());
        command.envs(environment.iter().copied()).current_dir(dir.path());
        let addr = SocketAddr::from(([127, 0, 0, 1], dir.port));
        let mut gateway = Self::spawn(command, addr)?;
        gateway.dir = Some(dir);
        Ok(gateway)
    }

    /// Any command that will listen on `addr`; its stdout and stderr become the log.
    pub fn spawn(mut command: Command, addr: SocketAddr) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let log = Arc::new(Log::default());
        follow(child.stdout.take(), &log);
        follow(child.stderr.take(), &log);
        let mut gateway = Self { child, addr, log, dir: None };
        let until = Instant::now() + START;
        while TcpStream::connect_timeout(&addr, Duration::from_millis(500)).is_err() {
            if let Some(status) = gateway.child.try_wait()? {
                bail!("{command:?} ended at once with {status}:\n{}", gateway.log_text());
            }
            if Instant::now() > until {
                bail!("{command:?} does not listen on {addr} after {START:?}:\n{}", gateway.log_text());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(gateway)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The folder it was started on; panics for a process started by [`Gateway::spawn`].
    pub fn dir(&self) -> &ConfigDir {
        match &self.dir {
            Some(dir) => dir,
            None => panic!("this process has no configuration folder"),
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A fresh connection.
    pub fn connect(&self) -> Result<Wire, WireError> {
        Wire::connect(self.addr)
    }

    /// Everything it printed.
    pub fn log_text(&self) -> String {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// Waits until a line of the log holds `part`.
    pub fn wait_for_log(&self, part: &str, limit: Duration) -> anyhow::Result<String> {
        let until = Instant::now() + limit;
        let mut lines = self.log.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = lines.iter().find(|l| l.contains(part)) {
                return Ok(line.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no line with {part:?} within {limit:?}:\n{}", lines.join("\n"));
            }
            lines = self.log.grown.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks for `target` on fresh connections until `accept` likes the answer: how a test sees that a change is in force.
    pub fn wait_until(
        &self,
        target: &str,
        limit: Duration,
        accept: impl Fn(&crate::Answer) -> bool,
    ) -> anyhow::Result<Duration> {
        let start = Instant::now();
        loop {
            let last = self.connect().and_then(|mut c| c.get(target));
            if let Ok(answer) = &last
                && accept(answer)
            {
                return Ok(start.elapsed());
            }
            if start.elapsed() > limit {
                bail!("{target} is not as expected after {limit:?}; last: {last:?}\n{}", self.log_text());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends SIGTERM (drain and exit).
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends SIGHUP (reload).
    pub fn hang_up(&self) -> anyhow::Result<()> {
        self.signal(Signal::HUP)
    }

    /// Sends SIGUSR1 (reopen log files).
    pub fn reopen_logs(&self) -> anyhow::Result<()> {
        self.signal(Signal::USR1)
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to {pid:?}"))
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the exit.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("still running after {limit:?}:\n{}", self.log_text());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The log keeps its first lines only: a process that floods it must not fill the test's memory.
fn follow(pipe: Option<impl std::io::Read + Send + 'static>, log: &Arc<Log>) {
    const KEPT: usize = 20_000;
    let Some(pipe) = pipe else { return };
    let log = log.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut lines = log.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() < KEPT {
                lines.push(line);
            }
            drop(lines);
            log.grown.notify_all();
        }
    });
}
