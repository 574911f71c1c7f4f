//! The proxies under test: each a process with one worker on core 0, a plain and a TLS port, and the processes whose CPU
//! is counted. A peer that is not installed is left out, by name.

mod apisix;
mod envoy;
mod haproxy;
mod nginx;
mod prototype;
pub mod sluice;

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::accounting;
use crate::setup::Setup;

pub use sluice::write as write_sluice;

/// The port the upstream listens on; the prototype has it built in.
pub const UPSTREAM: u16 = 9000;
/// The one for gRPC.
pub const CALLS: u16 = 9001;

/// Where everything a peer needs lies.
pub struct Site {
    pub folder: tempfile::TempDir,
    pub cert: String,
    pub key: String,
}

impl Site {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A fresh folder for one peer.
    pub fn home(&self, name: &str) -> Result<PathBuf> {
        let home = self.path(name);
        if home.exists() {
            std::fs::remove_dir_all(&home)?;
        }
        std::fs::create_dir_all(&home)?;
        Ok(home)
    }
}

/// Which peers to look for, and where.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub sluice: Option<PathBuf>,
    pub apisix: Option<PathBuf>,
    pub prototype: Option<PathBuf>,
    pub envoy: Option<PathBuf>,
    /// Only these names.
    pub only: Vec<String>,
}

/// A running proxy; ended when dropped.
pub struct Peer {
    pub name: &'static str,
    pub addr: SocketAddr,
    pub tls: SocketAddr,
    /// HTTP/2 without TLS.
    pub h2: SocketAddr,
    /// What is counted: workers, not masters.
    pub pids: Vec<u32>,
    process: Child,
    /// Where its configuration lies.
    pub home: PathBuf,
}

impl Peer {
    /// Starts it and waits until both ports accept.
    pub fn start(name: &'static str, home: &Path, port: u16, tls: u16, mut command: Command) -> Result<Self> {
        let log = std::fs::File::create(home.join("output.log"))?;
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let pids = vec![process.id()];
        let (addr, tls) = (([127, 0, 0, 1], port).into(), ([127, 0, 0, 1], tls).into());
        let mut peer = Self { name, addr, tls, h2: addr, pids, process, home: home.to_owned() };
        // 100,000 routes take APISIX a while.
        let until = Instant::now() + Duration::from_secs(60);
        for addr in [peer.addr, peer.tls] {
            while TcpStream::connect(addr).is_err() {
                let ended = peer.process.try_wait()?;
                if ended.is_some() || Instant::now() > until {
                    let log = std::fs::read_to_string(home.join("output.log")).unwrap_or_default();
                    bail!(
                        "{name} does not listen on {addr} ({}):\n{log}",
                        ended.map_or("running".into(), |s| s.to_string())
                    );
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(peer)
    }

    /// The process that was started: of a master and its workers, the master.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// It takes HTTP/2 on a port of its own.
    pub fn h2_on(mut self, port: u16) -> Self {
        self.h2.set_port(port);
        self
    }

    /// Counts its workers instead of the master.
    pub fn count_children(mut self) -> Result<Self> {
        // A master listens before it forks.
        let until = Instant::now() + Duration::from_secs(5);
        let mut workers = accounting::children(self.process.id());
        while workers.is_empty() {
            if Instant::now() > until {
                bail!("{} has no worker", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
            workers = accounting::children(self.process.id());
        }
        self.pids = workers;
        Ok(self)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A master is asked, so that it takes its workers with it.
        if let Ok(pid) = i32::try_from(self.process.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A command pinned to core 0.
pub fn pinned(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg("0").arg(program);
    command
}

/// The program on the PATH or where Debian keeps daemons.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.into_iter().map(|folder| folder.join(program)).find(|file| file.is_file())
}

type Starter<'a> = &'a dyn Fn() -> Result<Peer>;

/// Starts every wanted peer that can do this; why the others are missing goes to stderr.
pub fn start(wanted: &Wanted, setup: Setup, site: &Site) -> Vec<Peer> {
    // nginx without plugins is the measure in every setup.
    let gateway_only = !matches!(setup, Setup::Plain | Setup::Http2 | Setup::Rsa);
    let http2 = matches!(setup, Setup::Http2 | Setup::Rsa);
    let all: [(&str, bool, Starter<'_>); 6] = [
        ("nginx", false, &|| nginx::start(site)),
        ("sluice", false, &|| sluice::start(wanted, setup, site)),
        ("prototype", true, &|| prototype::start(wanted, site)),
        ("haproxy", true, &|| haproxy::start(site)),
        ("envoy", true, &|| envoy::start(wanted, site)),
        ("apisix", false, &|| apisix::start(wanted, setup, site)),
    ];
    let mut peers = Vec::new();
    for (name, plain_only, start) in all {
        let chosen = wanted.only.is_empty() || wanted.only.iter().any(|only| only == name);
        // APISIX would need a listener of its own, and the bare proxy speaks HTTP/1 alone.
        let silent = http2 && matches!(name, "prototype" | "apisix");
        if !chosen || silent || (plain_only && gateway_only) {
            continue;
        }
        match start() {
            Ok(peer) => peers.push(peer),
            Err(why) => eprintln!("without {name}: {why:#}"),
        }
    }
    peers
}
