//! A bare proxy given by `--prototype`, run as `BINARY PORT TLSPORT CERT KEY`: what a proxy without features costs.

use anyhow::{Context, Result};

use super::{Peer, Site, Wanted, pinned};

pub fn start(wanted: &Wanted, site: &Site) -> Result<Peer> {
    let program = wanted.prototype.as_ref().context("no --prototype given")?;
    let home = site.home("prototype")?;
    let mut command = pinned(program);
    command.args(["8013", "8413"]).arg(site.path("cert.pem")).arg(site.path("key.pem"));
    Peer::start("prototype", &home, 8013, 8413, command)
}
