//! The proxies under test as processes, each with the configuration that its manual recommends for what a story needs.

mod haproxy;
mod nginx;
mod sluice;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};

use super::setup::Setup;
use crate::peers::{Peer, Site, Wanted};
use crate::ports;

/// The names of all, in the order of the table.
pub const NAMES: [&str; 3] = ["sluice", "nginx", "haproxy"];

pub struct Proxy {
    pub addr: SocketAddr,
    peer: Peer,
    /// Writes the configuration into the folder; a signal where the process must be told.
    write: fn(&Path, u16, &Setup) -> Result<()>,
    tell: Option<Signal>,
}

/// The five stages of a proxy's start differ in these.
struct Kind {
    name: &'static str,
    write: fn(&Path, u16, &Setup) -> Result<()>,
    command: fn(&Wanted, &Path) -> Result<std::process::Command>,
    tell: Option<Signal>,
}

impl Proxy {
    pub fn start(name: &str, wanted: &Wanted, site: &Site, setup: &Setup) -> Result<Self> {
        let kind = match name {
            "nginx" => nginx::KIND,
            "haproxy" => haproxy::KIND,
            _ => sluice::KIND,
        };
        let home: PathBuf = site.home(kind.name)?;
        let port = ports::free(&[Ipv4Addr::LOCALHOST])?;
        (kind.write)(&home, port, setup)?;
        let command = (kind.command)(wanted, &home)?;
        // There is no TLS here: one port stands for both.
        let peer = Peer::start(kind.name, &home, port, port, command)?;
        Ok(Self { addr: peer.addr, peer, write: kind.write, tell: kind.tell })
    }

    /// Puts another configuration into force.
    pub fn reload(&mut self, setup: &Setup) -> Result<()> {
        (self.write)(&self.peer.home, self.addr.port(), setup)?;
        if let Some(signal) = self.tell
            && let Some(pid) = i32::try_from(self.peer.id()).ok().and_then(Pid::from_raw)
        {
            kill_process(pid, signal)?;
        }
        Ok(())
    }
}
