//! A real TCP server a test programs path by path and asks afterwards what it saw.
//!
//! One thread per connection. A path without a behaviour echoes the request as JSON. Everything is written as the
//! behaviour says, right or wrong: this server exists to misbehave on purpose.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What to do with a request.
#[derive(Debug, Clone, Default)]
pub enum Behaviour {
    /// 200 with method, target, headers and body of the request as JSON.
    #[default]
    Echo,
    /// This status, these headers, this body with its Content-Length.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// Wait, then behave otherwise.
    Delay(Duration, Box<Behaviour>),
    /// 200, chunked, a pause between the chunks.
    Chunked { chunks: Vec<Vec<u8>>, pause: Duration },
    /// 200 `text/event-stream`, each event in a chunk of its own.
    Events { events: Vec<String>, pause: Duration },
    /// Announces `declared` bytes, sends `sent` of them and closes.
    CloseMidBody { declared: usize, sent: usize },
    /// Closes without a byte.
    Close,
    /// Never answers; the connection stays open until the other side closes it.
    Silence,
    /// These interim statuses, then the other behaviour.
    Interim(Vec<u16>, Box<Behaviour>),
    /// These bytes; the connection then serves on.
    Raw(Vec<u8>),
    /// These bytes, then close.
    RawClose(Vec<u8>),
    /// 101 to the protocol asked for, then echoes every byte until the other side closes.
    Upgrade,
    /// Each request takes the next one; the last repeats.
    Sequence(Vec<Behaviour>),
}

impl Behaviour {
    /// An answer with a text body.
    pub fn answer(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer { status, headers: Vec::new(), body: body.into() }
    }

    /// An answer with headers.
    pub fn with_headers(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Self::Answer { status, headers, body: body.into() }
    }
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// The request target as written: path and query.
    pub target: String,
    /// Minor version: 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor: u8,
    pub headers: Vec<(String, String)>,
    /// Chunked framing removed.
    pub body: Vec<u8>,
    /// The number of the connection, from 1: equal numbers mean that it was reused.
    pub connection: u64,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("")
    }

    fn json(&self) -> Value {
        let mut headers: BTreeMap<String, Value> = BTreeMap::new();
        for (name, value) in &self.headers {
            match headers.entry(name.to_ascii_lowercase()).or_insert(Value::Null) {
                Value::Array(all) => all.push(json!(value)),
                slot @ Value::Null => *slot = json!(value),
                slot => *slot = json!([slot.take(), value]),
            }
        }
        let query = self.target.split_once('?').map(|(_, q)| q);
        json!({
            "method": self.method, "target": self.target, "path": self.path(), "query": query,
            "version": format!("1.{}", self.minor), "headers": headers,
            "body": String::from_utf8_lossy(&self.body), "connection": self.connection,
        })
    }
}

#[derive(Default)]
struct State {
    paths: HashMap<String, (Behaviour, usize)>,
    default: Behaviour,
    seen: Vec<Seen>,
}

struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
    connections: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
    /// Requests are counted but not kept (long load runs).
    forget: AtomicBool,
    stopping: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server; stops accepting when dropped.
pub struct Upstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Plain HTTP on a free port of 127.0.0.1.
    pub fn start() -> std::io::Result<Self> {
        Self::start_with(None)
    }

    /// HTTPS with this configuration (see [`crate::certificates::Pair::server_config`]).
    pub fn start_tls(config: Arc<rustls::ServerConfig>) -> std::io::Result<Self> {
        Self::start_with(Some(config))
    }

    fn start_with(tls: Option<Arc<rustls::ServerConfig>>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            arrived: Condvar::new(),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            forget: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        let server = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if server.stopping.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (server, tls) = (server.clone(), tls.clone());
                std::thread::spawn(move || serve(&server, stream, tls));
            }
        });
        Ok(Self { addr, shared })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Sets what happens on this path (query not included).
    pub fn on(&self, path: &str, behaviour: Behaviour) -> &Self {
        self.shared.lock().paths.insert(path.to_owned(), (behaviour, 0));
        self
    }

    /// Sets what happens on every other path.
    pub fn otherwise(&self, behaviour: Behaviour) -> &Self {
        self.shared.lock().default = behaviour;
        self
    }

    /// Counts requests without keeping them.
    pub fn forget_requests(&self) -> &Self {
        self.shared.forget.store(true, Ordering::Relaxed);
        self
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> u64 {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Complete requests so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// All complete requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// The complete requests since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.lock().seen)
    }

    /// Waits until at least `count` requests have been seen; false when the limit passes first.
    pub fn wait_for(&self, count: usize, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut state = self.shared.lock();
        while state.seen.len() < count {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        // Wakes the accept loop so that it sees the mark; a failure means that it is gone already.
        let _ = TcpStream::connect(self.addr);
    }
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

fn serve(shared: &Shared, stream: TcpStream, tls: Option<Arc<rustls::ServerConfig>>) {
    let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
    shared.open.fetch_add(1, Ordering::Relaxed);
    let _ = stream.set_nodelay(true);
    let closer = stream.try_clone();
    let mut duplex: Box<dyn Duplex> = match tls.map(rustls::ServerConnection::new) {
        None => Box::new(stream),
        Some(Ok(session)) => Box::new(rustls::StreamOwned::new(session, stream)),
        Some(Err(_)) => return,
    };
    // An error is the other side's doing; tests look at what arrived.
    let _ = exchange(shared, duplex.as_mut(), number);
    if let Ok(stream) = closer {
        let _ = stream.shutdown(Shutdown::Both);
    }
    shared.open.fetch_sub(1, Ordering::Relaxed);
}

fn exchange(shared: &Shared, stream: &mut dyn Duplex, number: u64) -> std::io::Result<()> {
    let mut pending = Vec::new();
    while let Some(seen) = read_request(stream, &mut pending, number)? {
        let behaviour = {
            let mut state = shared.lock();
            let behaviour = match state.paths.get_mut(seen.path()) {
                Some((behaviour, calls)) => {
                    *calls += 1;
                    match behaviour {
                        Behaviour::Sequence(all) => {
                            all.get((*calls - 1).min(all.len().saturating_sub(1))).cloned().unwrap_or_default()
                        }
                        other => other.clone(),
                    }
                }
                None => state.default.clone(),
            };
            if !shared.forget.load(Ordering::Relaxed) {
                state.seen.push(seen.clone());
            }
            behaviour
        };
        shared.requests.fetch_add(1, Ordering::Relaxed);
        shared.arrived.notify_all();
        if !act(stream, &behaviour, &seen, &mut pending)? {
            return Ok(());
        }
        if seen.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) {
            return Ok(());
        }
    }
    Ok(())
}

/// Does as told; false when the connection is to be closed.
fn act(stream: &mut dyn Duplex, behaviour: &Behaviour, seen: &Seen, pending: &mut Vec<u8>) -> std::io::Result<bool> {
    let head_only = seen.method == "HEAD";
    match behaviour {
        Behaviour::Echo => {
            let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
            answer(stream, 200, &headers, seen.json().to_string().as_bytes(), head_only)?;
        }
        Behaviour::Answer { status, headers, body } => answer(stream, *status, headers, body, head_only)?,
        Behaviour::Delay(time, then) => {
            std::thread::sleep(*time);
            return act(stream, then, seen, pending);
        }
        Behaviour::Chunked { chunks, pause } => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            write_chunks(stream, chunks, *pause)?;
        }
        Behaviour::Events { events, pause } => {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            let chunks: Vec<Vec<u8>> = events.iter().map(|e| format!("data: {e}\n\n").into_bytes()).collect();
            write_chunks(stream, &chunks, *pause)?;
        }
        Behaviour::CloseMidBody { declared, sent } => {
            let mut message = format!("HTTP/1.1 200 OK\r\nContent-Length: {declared}\r\n\r\n").into_bytes();
            message.extend(std::iter::repeat_n(b'x', *sent));
            stream.write_all(&message)?;
            return Ok(false);
        }
        Behaviour::Close => return Ok(false),
        Behaviour::Silence => {
            let mut rest = [0u8; 4096];
            while stream.read(&mut rest)? > 0 {}
            return Ok(false);
        }
        Behaviour::Interim(statuses, then) => {
            for status in statuses {
                stream.write_all(format!("HTTP/1.1 {status} Interim\r\nX-Interim: {status}\r\n\r\n").as_bytes())?;
            }
            return act(stream, then, seen, pending);
        }
        Behaviour::Raw(bytes) => stream.write_all(bytes)?,
        Behaviour::RawClose(bytes) => {
            stream.write_all(bytes)?;
            return Ok(false);
        }
        Behaviour::Upgrade => {
            let protocol = seen.header("upgrade").unwrap_or("websocket");
            let head =
                format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            stream.write_all(pending)?;
            let mut chunk = [0u8; 4096];
            loop {
                let n = stream.read(&mut chunk)?;
                if n == 0 {
                    return Ok(false);
                }
                stream.write_all(chunk.get(..n).unwrap_or_default())?;
                stream.flush()?;
            }
        }
        // Sequences do not nest.
        Behaviour::Sequence(_) => return Ok(false),
    }
    stream.flush()?;
    Ok(true)
}

fn answer(
    stream: &mut dyn Duplex,
    status: u16,
    headers: &[(String, String)],
    body: &[u8],
    head_only: bool,
) -> std::io::Result<()> {
    let mut message = format!("HTTP/1.1 {status} Status\r\n").into_bytes();
    for (name, value) in headers {
        message.extend(format!("{name}: {value}\r\n").bytes());
    }
    let framed = headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-length"));
    if !framed && status != 204 && status != 304 {
        message.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
    }
    message.extend(b"\r\n");
    if !head_only && status != 204 && status != 304 {
        message.extend(body);
    }
    stream.write_all(&message)
}

fn write_chunks(stream: &mut dyn Duplex, chunks: &[Vec<u8>], pause: Duration) -> std::io::Result<()> {
    for (i, chunk) in chunks.iter().enumerate() {
        if i > 0 && !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let mut framed = format!("{:x}\r\n", chunk.len()).into_bytes();
        framed.extend(chunk);
        framed.extend(b"\r\n");
        stream.write_all(&framed)?;
        stream.flush()?;
    }
    stream.write_all(b"0\r\n\r\n")
}

/// The next request; `None` when the other side closed between requests or sent what is not HTTP.
fn read_request(stream: &mut dyn Duplex, pending: &mut Vec<u8>, number: u64) -> std::io::Result<Option<Seen>> {
    let Some(end) = until(stream, pending, b"\r\n\r\n")? else { return Ok(None) };
    let head: Vec<u8> = pending.drain(..end).collect();
    let mut slots = [httparse::EMPTY_HEADER; 256];
    let mut request = httparse::Request::new(&mut slots);
    if request.parse(&head).is_err() {
        return Ok(None);
    }
    let mut seen = Seen {
        method: request.method.unwrap_or("").to_owned(),
        target: request.path.unwrap_or("").to_owned(),
        minor: request.version.unwrap_or(0),
        headers: crate::wire::owned(request.headers),
        body: Vec::new(),
        connection: number,
    };
    if seen.header("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue")) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        stream.flush()?;
    }
    if seen.header("transfer-encoding").is_some() {
        loop {
            let Some(end) = until(stream, pending, b"\r\n")? else { return Ok(None) };
            let line: Vec<u8> = pending.drain(..end).collect();
            let text = String::from_utf8_lossy(&line).into_owned();
            let digits = text.trim_end().split(';').next().unwrap_or("");
            let Ok(size) = usize::from_str_radix(digits, 16) else { return Ok(None) };
            if size == 0 {
                break;
            }
            let Some(mut chunk) = exactly(stream, pending, size + 2)? else { return Ok(None) };
            chunk.truncate(size);
            seen.body.extend(chunk);
        }
        loop {
            let Some(end) = until(stream, pending, b"\r\n")? else { return Ok(None) };
            let line: Vec<u8> = pending.drain(..end).collect();
            if line == b"\r\n" {
                break;
            }
        }
    } else if let Some(length) = seen.header("content-length").and_then(|v| v.parse().ok()) {
        let Some(body) = exactly(stream, pending, length)? else { return Ok(None) };
        seen.body = body;
    }
    Ok(Some(seen))
}

fn until(stream: &mut dyn Duplex, pending: &mut Vec<u8>, mark: &[u8]) -> std::io::Result<Option<usize>> {
    loop {
        if let Some(at) = pending.windows(mark.len()).position(|w| w == mark) {
            return Ok(Some(at + mark.len()));
        }
        if !fill(stream, pending)? {
            return Ok(None);
        }
    }
}

fn exactly(stream: &mut dyn Duplex, pending: &mut Vec<u8>, length: usize) -> std::io::Result<Option<Vec<u8>>> {
    while pending.len() < length {
        if !fill(stream, pending)? {
            return Ok(None);
        }
    }
    Ok(Some(pending.drain(..length).collect()))
}

fn fill(stream: &mut dyn Duplex, pending: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut chunk = [0u8; 16384];
    let n = stream.read(&mut chunk)?;
    pending.extend_from_slice(chunk.get(..n).unwrap_or_default());
    Ok(n > 0)
}
