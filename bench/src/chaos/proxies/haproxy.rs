//! HAProxy: active checks, errors of requests count too, retries on other servers where a connection or its answer fails.
//! It has no retry budget; fewer retries stand for it, and `observe layer7` for a breaker.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::Kind;
use crate::chaos::dns;
use crate::chaos::setup::{BREAKER_FAILURES, Feature, Setup, TIMEOUT, WORKERS};
use crate::peers::find;

pub const KIND: Kind = Kind { name: "haproxy", write, command, tell: Some(Signal::USR2) };

fn command(_: &crate::peers::Wanted, home: &Path) -> Result<Command> {
    let mut command = Command::new(find("haproxy").context("not installed (Debian: haproxy)")?);
    // Under a master process, which is what a reload wants.
    command.arg("-W").arg("-f").arg(home.join("haproxy.cfg"));
    Ok(command)
}

fn write(home: &Path, port: u16, setup: &Setup) -> Result<()> {
    let timeout = TIMEOUT.as_secs();
    let observe = match setup.feature {
        Feature::Breaker => format!("observe layer7 error-limit {BREAKER_FAILURES} on-error mark-down"),
        _ => "observe layer4 error-limit 2 on-error mark-down".to_owned(),
    };
    let balance = if setup.feature == Feature::Adaptive { "leastconn" } else { "roundrobin" };
    let conditions = match setup.feature {
        Feature::Retry500 => "conn-failure empty-response response-timeout 500",
        _ => "conn-failure empty-response response-timeout",
    };
    let retries = if setup.feature == Feature::Budget { 1 } else { setup.backends.len() - 1 };
    let mut servers = String::new();
    if setup.feature == Feature::Name {
        let (name, port, count) = (dns::NAME, setup.port(), setup.backends.len());
        let _ = writeln!(
            servers,
            "  server-template s {count} {name}:{port} resolvers r resolve-prefer ipv4 init-addr none"
        );
    } else {
        for (index, backend) in setup.backends.iter().enumerate() {
            let _ = writeln!(servers, "  server s{index} {backend} weight {}", setup.weight(index));
        }
    }
    let config = format!(
        "# version {version}
global
  nbthread {WORKERS}
  maxconn 9000
resolvers r
  nameserver own {resolver}
  resolve_retries 3
  timeout resolve 1s
  timeout retry 500ms
  hold valid 1s
  hold obsolete 0s
defaults
  mode http
  timeout connect {timeout}s
  timeout client 300s
  timeout server {timeout}s
  timeout check {timeout}s
  http-reuse always
  option redispatch 1
  retries {retries}
  retry-on {conditions}
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  balance {balance}
  option httpchk GET /health
  default-server check inter 1s fastinter 500ms fall 2 rise 1 {observe}
{servers}",
        version = setup.version,
        resolver = setup.resolver,
    );
    std::fs::write(home.join("haproxy.cfg"), config)?;
    Ok(())
}
