//! HAProxy with one thread.

use anyhow::{Context, Result};

use super::{CALLS, Peer, Site, UPSTREAM, find, pinned};

pub fn start(site: &Site) -> Result<Peer> {
    let program = find("haproxy").context("not installed (Debian: haproxy)")?;
    let home = site.home("haproxy")?;
    let both = home.join("both.pem");
    std::fs::write(&both, format!("{}{}", site.cert, site.key))?;
    let config = format!(
        "global
  nbthread 1
  maxconn 9000
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  http-reuse always
frontend f
  bind 127.0.0.1:8012
  bind 127.0.0.1:8212 proto h2
  bind 127.0.0.1:8412 ssl crt {} alpn h2,http/1.1
  option forwardfor
  use_backend g if {{ path_beg /bench.Echo/ }}
  default_backend b
backend b
  server s1 127.0.0.1:{UPSTREAM} pool-max-conn 512
backend g
  server s1 127.0.0.1:{CALLS} proto h2 pool-max-conn 512
",
        both.display()
    );
    let file = home.join("haproxy.cfg");
    std::fs::write(&file, config)?;
    let mut command = pinned(&program);
    command.arg("-f").arg(&file);
    Ok(Peer::start("haproxy", &home, 8012, 8412, command)?.h2_on(8212))
}
