//! A backend that can be told to fail: a process of its own, so that it can be killed and stopped like a real one.
//!
//! A thread for each connection, blocking. Requests under `/chaos/` steer it, `/health` is the probe, everything else is
//! work that takes [`WORK`] and is counted as an attempt.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use memchr::memmem;

/// What a request takes on a healthy backend.
pub const WORK: Duration = Duration::from_millis(5);
/// Bytes of an answer's body.
const BODY: usize = 1024;

/// How it behaves. Changed by a request to `/chaos/set/MODE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Healthy,
    /// Everything, probes too, takes 20 times as long.
    Slow,
    /// 30 % of the requests get 500 at once.
    Failing,
    /// All requests get 500 at once; probes are answered well.
    Broken,
    /// All requests get half of their answer, then a reset.
    HalfBody,
    /// Every request and every probe gets a reset instead of an answer.
    Resetting,
}

const MODES: [(Mode, &str); 6] = [
    (Mode::Healthy, "healthy"),
    (Mode::Slow, "slow"),
    (Mode::Failing, "failing"),
    (Mode::Broken, "broken"),
    (Mode::HalfBody, "half-body"),
    (Mode::Resetting, "resetting"),
];

impl Mode {
    pub fn name(self) -> &'static str {
        MODES.iter().find(|(mode, _)| *mode == self).map_or("", |(_, name)| name)
    }
}

/// Run one backend of the chaos test.
#[derive(clap::Args)]
pub struct Args {
    /// Address to listen on
    listen: SocketAddr,
}

#[derive(Default)]
struct Shared {
    /// Index into [`MODES`].
    mode: AtomicU64,
    attempts: AtomicU64,
}

pub fn run(args: &Args) -> Result<()> {
    // Nothing is left behind when the test is killed. The kernel takes the end of the launching thread for the parent's.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let listener = TcpListener::bind(args.listen).with_context(|| format!("backend on {}", args.listen))?;
    let shared = Shared::default();
    std::thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            let shared = &shared;
            let started = std::thread::Builder::new().stack_size(128 * 1024).spawn_scoped(scope, move || {
                // The end of a connection is nobody's loss here.
                let _ = serve(stream, shared);
            });
            started?;
        }
        Ok(())
    })
}

fn serve(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut input = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        let end = loop {
            if let Some(end) = memmem::find(&input, b"\r\n\r\n") {
                break end;
            }
            let read = stream.read(&mut chunk)?;
            if read == 0 || input.len() > 64 * 1024 {
                return Ok(());
            }
            input.extend_from_slice(chunk.get(..read).unwrap_or_default());
        };
        let head = String::from_utf8_lossy(input.get(..end).unwrap_or_default()).into_owned();
        input.drain(..end + 4);
        let path = head.split(' ').nth(1).unwrap_or_default();
        if let Some(order) = path.strip_prefix("/chaos/") {
            stream.write_all(&obey(order, shared))?;
            continue;
        }
        let probe = path == "/health";
        let attempt = if probe { 0 } else { shared.attempts.fetch_add(1, Ordering::Relaxed) };
        let (mode, _) = MODES.get(shared.mode.load(Ordering::Relaxed) as usize).copied().unwrap_or(MODES[0]);
        match mode {
            Mode::Resetting => return reset(stream),
            Mode::Slow => std::thread::sleep(WORK * 20),
            Mode::Broken if !probe => {
                stream.write_all(&answer("500 Internal Server Error", b"broken"))?;
                continue;
            }
            // Spread evenly, and the same in every run.
            Mode::Failing if !probe && attempt * 7 % 10 < 3 => {
                stream.write_all(&answer("500 Internal Server Error", b"failing"))?;
                continue;
            }
            _ if probe => {}
            _ => std::thread::sleep(WORK),
        }
        let whole = answer("200 OK", &[b'x'; BODY]);
        if mode == Mode::HalfBody && !probe {
            stream.write_all(whole.get(..whole.len() - BODY / 2).unwrap_or_default())?;
            // The proxy is to see the half before it sees the reset.
            std::thread::sleep(Duration::from_millis(2));
            return reset(stream);
        }
        stream.write_all(&whole)?;
    }
}

fn reset(stream: TcpStream) -> Result<()> {
    // Closing with a linger of zero sends RST.
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    Ok(())
}

fn obey(order: &str, shared: &Shared) -> Vec<u8> {
    if let Some(name) = order.strip_prefix("set/")
        && let Some(index) = MODES.iter().position(|(_, known)| *known == name)
    {
        shared.mode.store(index as u64, Ordering::Relaxed);
        return answer("200 OK", b"ok");
    }
    if order == "attempts" {
        return answer("200 OK", shared.attempts.load(Ordering::Relaxed).to_string().as_bytes());
    }
    answer("404 Not Found", b"no such order")
}

fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Sends an order to a backend; its answer's body.
pub fn order(address: SocketAddr, order: &str) -> Result<String> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET /chaos/{order} HTTP/1.1\r\nHost: backend\r\n\r\n")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => bail!("backend {address} to {order}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(shared: &Shared, request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(request.as_bytes()).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = serve(server, shared);
        let mut bytes = Vec::new();
        let ended = client.read_to_end(&mut bytes);
        format!("{}{}", String::from_utf8_lossy(&bytes), ended.map_or(" reset", |_| ""))
    }

    #[test]
    fn every_mode_does_what_it_says() {
        let shared = Shared::default();
        let ask = |mode: Mode, path: &str| {
            talk(&shared, &format!("GET /chaos/set/{} HTTP/1.1\r\n\r\n", mode.name()));
            talk(&shared, &format!("GET {path} HTTP/1.1\r\n\r\n"))
        };
        assert!(ask(Mode::Healthy, "/").starts_with("HTTP/1.1 200 OK"));
        assert!(ask(Mode::Broken, "/").starts_with("HTTP/1.1 500 "));
        assert!(ask(Mode::Broken, "/health").starts_with("HTTP/1.1 200 "));
        let half = ask(Mode::HalfBody, "/");
        assert!(half.starts_with("HTTP/1.1 200 OK") && half.ends_with("x reset"), "{half}");
        assert_eq!(ask(Mode::Resetting, "/"), " reset");
        assert_eq!(ask(Mode::Resetting, "/health"), " reset");
        let failed = (0..10).filter(|_| ask(Mode::Failing, "/").starts_with("HTTP/1.1 500 ")).count();
        assert_eq!(failed, 3);
        let count = talk(&shared, "GET /chaos/attempts HTTP/1.1\r\n\r\n");
        assert!(count.ends_with("\r\n\r\n14"), "{count}");
    }
}
