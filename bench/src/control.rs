//! 100,000 routes through the Admin API on the embedded store: loading them, starting with them, their memory, and how
//! long a change takes to be in force while requests run.
//!
//! A change is timed from the first byte of the `PUT` to the first 200 of the new route, its fsync included. The writer
//! shares core 1 with the generator, which costs the generator's latency more than the proxy's.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::accounting;
use crate::engine::{Engine, Load};
use crate::peers::{Peer, Site, UPSTREAM, Wanted, sluice};
use crate::setup::route_path;

const ROUTES: usize = 100_000;
const CHANGES: usize = 100;
const ADMIN: u16 = 8517;
const KEY: &str = "key-of-the-benchmark";

/// Milliseconds, KiB and microseconds.
pub struct Control {
    /// One transaction with all routes, until its answer.
    pub load_ms: f64,
    /// From the start of the process to the first 200.
    pub start_ms: f64,
    pub kib_per_route: f64,
    pub in_force_p50_ms: f64,
    pub in_force_p99_ms: f64,
    /// The slowest requests (p99, open loop) before and while routes change.
    pub quiet_p99_us: f64,
    pub changing_p99_us: f64,
}

pub fn measure(engine: &mut Engine, wanted: &Wanted, site: &Site, rate: f64) -> Result<Control> {
    let home = site.home("sluice-control")?;
    let mut peer = sluice::start_with_admin(wanted, &home, ADMIN)?;
    let empty = accounting::resident_kib(&peer.pids)?;
    admin("PUT", "/apisix/admin/upstreams/u", &upstream())?;
    let all: Vec<Value> =
        (0..ROUTES).map(|i| json!({"method": "PUT", "path": format!("routes/r{i}"), "body": route(i)})).collect();
    let begin = Instant::now();
    admin("POST", "/apisix/admin/transactions?wait=true", &Value::Array(all))?;
    let load_ms = begin.elapsed().as_secs_f64() * 1e3;
    ask(engine, &peer, &route_path(ROUTES - 1), Duration::from_secs(10))?;

    // Started anew, so that what the load itself needed is not counted.
    drop(peer);
    let begin = Instant::now();
    peer = sluice::start_with_admin(wanted, &home, ADMIN)?;
    ask(engine, &peer, &route_path(ROUTES / 2), Duration::from_secs(60))?;
    let start_ms = begin.elapsed().as_secs_f64() * 1e3;
    let kib_per_route = (accounting::resident_kib(&peer.pids)? - empty) / ROUTES as f64;

    let path = route_path(1);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", crate::client::NAME);
    let load = Load {
        addr: peer.addr,
        tls: None,
        request: request.as_bytes(),
        shared: None,
        connections: 64,
        rate: Some(rate),
        seconds: 6.0,
        warm_up: 0.5,
        pids: &peer.pids,
    };
    let quiet_p99_us = engine.run(&load)?.p99;
    let addr = peer.addr;
    let writer = std::thread::spawn(move || changes(addr));
    let changing_p99_us = engine.run(&load)?.p99;
    let mut times = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get(((times.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied();
    Ok(Control {
        load_ms,
        start_ms,
        kib_per_route,
        in_force_p50_ms: at(0.5).unwrap_or_default(),
        in_force_p99_ms: at(0.99).unwrap_or_default(),
        quiet_p99_us,
        changing_p99_us,
    })
}

fn upstream() -> Value {
    let node = format!("127.0.0.1:{UPSTREAM}");
    json!({"type": "roundrobin", "nodes": {node: 1}, "keepalive_pool": {"size": 256, "idle_timeout": 300, "requests": 100_000_000}})
}

fn route(i: usize) -> Value {
    json!({"uri": route_path(i), "name": format!("service-{i}"), "methods": ["GET", "POST"], "upstream_id": "u"})
}

/// Changes one route after another; milliseconds until each was in force.
fn changes(proxy: std::net::SocketAddr) -> Result<Vec<f64>> {
    // After the generator's warm-up.
    std::thread::sleep(Duration::from_millis(600));
    let mut times = Vec::with_capacity(CHANGES);
    let mut client = TcpStream::connect(proxy)?;
    client.set_nodelay(true)?;
    for n in 0..CHANGES {
        let mut body = route(n * 997);
        body["uri"] = format!("/changed/{n}").into();
        let begin = Instant::now();
        admin("PUT", &format!("/apisix/admin/routes/r{}", n * 997), &body)?;
        while exchange(&mut client, "GET", &format!("/changed/{n}"), &[])? != 200 {
            ensure!(begin.elapsed() < Duration::from_secs(10), "a changed route is not in force after 10 s");
        }
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(Duration::from_millis(40));
    }
    Ok(times)
}

/// Asks until a path answers 200.
fn ask(engine: &mut Engine, peer: &Peer, path: &str, limit: Duration) -> Result<()> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", crate::client::NAME);
    let client = engine.connect(peer.addr, None)?;
    let begin = Instant::now();
    while engine.ask(client, request.as_bytes(), limit)? != 200 {
        ensure!(begin.elapsed() < limit, "{path} does not answer");
    }
    engine.hang_up();
    Ok(())
}

/// One write; anything but success is an error.
fn admin(method: &str, path: &str, body: &Value) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", ADMIN))?;
    stream.set_nodelay(true)?;
    let status = exchange(&mut stream, method, path, body.to_string().as_bytes())?;
    ensure!((200..300).contains(&status), "{method} {path}: {status}");
    Ok(())
}

/// One request and its whole answer; the status.
fn exchange(stream: &mut TcpStream, method: &str, path: &str, body: &[u8]) -> Result<u16> {
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nX-API-KEY: {KEY}\r\nContent-Length: {}\r\n\r\n",
        crate::client::NAME,
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    stream.write_all(&request)?;
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    let end = loop {
        if let Some(end) = memchr::memmem::find(&answer, b"\r\n\r\n") {
            break end + 4;
        }
        let n = stream.read(&mut chunk)?;
        if n == 0 {
            bail!("{method} {path}: the connection was closed");
        }
        answer.extend_from_slice(chunk.get(..n).unwrap_or_default());
    };
    let head = answer.get(..end).unwrap_or_default();
    let length = crate::upstream::content_length(head).unwrap_or(0);
    while answer.len() < end + length {
        let n = stream.read(&mut chunk)?;
        ensure!(n > 0, "{method} {path}: the answer broke off");
        answer.extend_from_slice(chunk.get(..n).unwrap_or_default());
    }
    let status = answer.get(9..12).and_then(|text| std::str::from_utf8(text).ok());
    let status = status.and_then(|text| text.parse().ok()).context("no status")?;
    if status >= 400 && status != 404 {
        eprintln!("{method} {path}: {}", String::from_utf8_lossy(&answer).chars().take(400).collect::<String>());
    }
    Ok(status)
}
