//! A name server a test programs while it runs: A, AAAA, SRV and CNAME records over UDP and TCP.
//!
//! It answers what it is told and nothing else: no recursion, no additional records, no caching. A name without records is
//! denied (NXDOMAIN), or refused on request.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// One record of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Address(IpAddr),
    Srv { priority: u16, weight: u16, port: u16, target: String },
    Cname(String),
}

impl Record {
    /// From an address as text; panics on anything else.
    pub fn address(text: &str) -> Record {
        match text.parse() {
            Ok(ip) => Record::Address(ip),
            Err(error) => panic!("{text}: {error}"),
        }
    }

    pub fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Record {
        Record::Srv { priority, weight, port, target: target.to_owned() }
    }

    fn kind(&self) -> u16 {
        match self {
            Record::Address(IpAddr::V4(_)) => A,
            Record::Address(IpAddr::V6(_)) => AAAA,
            Record::Srv { .. } => SRV,
            Record::Cname(_) => CNAME,
        }
    }

    fn data(&self) -> Vec<u8> {
        match self {
            Record::Address(IpAddr::V4(ip)) => ip.octets().to_vec(),
            Record::Address(IpAddr::V6(ip)) => ip.octets().to_vec(),
            Record::Cname(target) => encode(target),
            Record::Srv { priority, weight, port, target } => {
                let mut data = Vec::new();
                for field in [priority, weight, port] {
                    data.extend_from_slice(&field.to_be_bytes());
                }
                data.extend_from_slice(&encode(target));
                data
            }
        }
    }
}

#[derive(Default)]
struct Shared {
    /// TTL and records by lower-case name.
    names: Mutex<HashMap<String, (u32, Vec<Record>)>>,
    /// Every question is answered with SERVFAIL.
    failing: AtomicBool,
    /// No question is answered.
    silent: AtomicBool,
    questions: AtomicU64,
    stopping: AtomicBool,
}

/// The server; stops when dropped.
pub struct NameServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl NameServer {
    /// On a free port of 127.0.0.1, the same for UDP and TCP.
    pub fn start() -> std::io::Result<NameServer> {
        let mut tries = 0;
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind(("127.0.0.1", 0))?;
            match UdpSocket::bind(tcp.local_addr()?) {
                Ok(udp) => break (udp, tcp),
                Err(error) if tries > 20 => return Err(error),
                Err(_) => tries += 1,
            }
        };
        let (addr, shared) = (tcp.local_addr()?, Arc::new(Shared::default()));
        udp.set_read_timeout(Some(Duration::from_millis(50)))?;
        tcp.set_nonblocking(true)?;
        let state = shared.clone();
        std::thread::spawn(move || serve_udp(&udp, &state));
        let state = shared.clone();
        std::thread::spawn(move || serve_tcp(&tcp, &state));
        Ok(NameServer { addr, shared })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on these are the records of a name; none: the name is denied. `ttl` in seconds.
    pub fn set(&self, name: &str, ttl: u32, records: &[Record]) {
        let mut names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if records.is_empty() {
            names.remove(&name);
        } else {
            names.insert(name, (ttl, records.to_vec()));
        }
    }

    /// Whether every question is answered with SERVFAIL.
    pub fn fail(&self, failing: bool) {
        self.shared.failing.store(failing, Ordering::SeqCst);
    }

    /// Whether questions are left without an answer.
    pub fn fall_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    /// Questions so far.
    pub fn questions(&self) -> u64 {
        self.shared.questions.load(Ordering::SeqCst)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
    }
}

fn serve_udp(socket: &UdpSocket, shared: &Shared) {
    let mut packet = [0u8; 1500];
    while !shared.stopping.load(Ordering::SeqCst) {
        let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
        if let Some(reply) = packet.get(..length).and_then(|query| answer(query, shared)) {
            let _ = socket.send_to(&reply, from);
        }
    }
}

fn serve_tcp(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stopping.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) => {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let _ = serve_connection(stream, &shared);
                });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn serve_connection(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    while !shared.stopping.load(Ordering::SeqCst) {
        let mut length = [0u8; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query)?;
        if let Some(reply) = answer(&query, shared) {
            stream.write_all(&u16::try_from(reply.len()).unwrap_or(u16::MAX).to_be_bytes())?;
            stream.write_all(&reply)?;
        }
    }
    Ok(())
}

/// Length-prefixed labels.
fn encode(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

/// The reply to a query of one question; `None`: no reply.
fn answer(query: &[u8], shared: &Shared) -> Option<Vec<u8>> {
    shared.questions.fetch_add(1, Ordering::SeqCst);
    if shared.silent.load(Ordering::SeqCst) {
        return None;
    }
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_ascii_lowercase());
        at += length + 1;
    }
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    let question = query.get(12..at + 5)?;
    let names = shared.names.lock().unwrap_or_else(PoisonError::into_inner);
    let mut records: Vec<(String, u32, Record)> = Vec::new();
    let mut name = labels.join(".");
    let known = names.contains_key(&name);
    for _ in 0..8 {
        let Some((ttl, all)) = names.get(&name) else { break };
        let alias = all.iter().find(|record| matches!(record, Record::Cname(_)));
        let wanted = all.iter().filter(|record| record.kind() == kind);
        records.extend(wanted.map(|record| (name.clone(), *ttl, record.clone())));
        match alias {
            Some(Record::Cname(target)) if kind != CNAME => {
                records.push((name.clone(), *ttl, Record::Cname(target.clone())));
                name = target.to_ascii_lowercase();
            }
            _ => break,
        }
    }
    let code: u16 = match (shared.failing.load(Ordering::SeqCst), known) {
        (true, _) => 2,
        (false, true) => 0,
        (false, false) => 3,
    };
    if code != 0 {
        records.clear();
    }
    let count = u16::try_from(records.len()).unwrap_or(u16::MAX);
    let mut reply = query.get(..2)?.to_vec();
    for field in [0x8580 | code, 1, count, 0, 0] {
        reply.extend_from_slice(&field.to_be_bytes());
    }
    reply.extend_from_slice(question);
    for (owner, ttl, record) in records {
        let data = record.data();
        reply.extend_from_slice(&encode(&owner));
        reply.extend_from_slice(&record.kind().to_be_bytes());
        reply.extend_from_slice(&1u16.to_be_bytes());
        reply.extend_from_slice(&ttl.to_be_bytes());
        reply.extend_from_slice(&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
        reply.extend_from_slice(&data);
    }
    Some(reply)
}
