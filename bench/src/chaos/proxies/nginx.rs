//! nginx: passive checks in a zone that workers share, retries on errors and time-outs (its default). There are no active
//! checks, no retry budget and no breaker in the open-source edition; `max_fails` stands for all of them. Names that change
//! are resolved through a variable, which leaves out keep-alive and `max_fails`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::Kind;
use crate::chaos::dns;
use crate::chaos::setup::{Feature, Setup, TIMEOUT, WORKERS};
use crate::peers::find;

pub const KIND: Kind = Kind { name: "nginx", write, command, tell: Some(Signal::HUP) };

fn command(_: &crate::peers::Wanted, home: &Path) -> Result<Command> {
    let mut command = Command::new(find("nginx").context("not installed (Debian: nginx-light)")?);
    command.arg("-e").arg(home.join("error.log")).arg("-c").arg(home.join("nginx.conf"));
    Ok(command)
}

fn write(home: &Path, port: u16, setup: &Setup) -> Result<()> {
    let (root, timeout) = (home.display(), TIMEOUT.as_secs());
    let mut servers = String::new();
    for (index, backend) in setup.backends.iter().enumerate() {
        let _ = write!(servers, "server {backend} weight={} max_fails=2 fail_timeout=2s; ", setup.weight(index));
    }
    let balance = if setup.feature == Feature::Adaptive { "random two least_conn; " } else { "" };
    let next = match setup.feature {
        Feature::Retry500 | Feature::Breaker => "error timeout http_500",
        _ => "error timeout",
    };
    let tries = if setup.feature == Feature::Budget { 2 } else { 0 };
    let target = match setup.feature {
        Feature::Name => format!(
            "resolver {} valid=1s ipv6=off; set $backend {}:{}; proxy_pass http://$backend;",
            setup.resolver,
            dns::NAME,
            setup.port()
        ),
        _ => "proxy_pass http://u;".to_owned(),
    };
    let config = format!(
        "worker_processes {WORKERS}; daemon off; pid {root}/nginx.pid; error_log {root}/error.log crit; worker_rlimit_nofile 40000;
# version {version}
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_timeout 300s; keepalive_requests 100000000;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
  upstream u {{ zone u 256k; {balance}{servers}keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      {target} proxy_http_version 1.1; proxy_set_header Connection \"\";
      proxy_connect_timeout {timeout}s; proxy_send_timeout {timeout}s; proxy_read_timeout {timeout}s;
      proxy_next_upstream {next}; proxy_next_upstream_tries {tries};
    }}
  }}
}}
",
        version = setup.version,
    );
    std::fs::write(home.join("nginx.conf"), config)?;
    Ok(())
}
