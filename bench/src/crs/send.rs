//! Sends the tests. Each request comes from an address of its own in 127.0.0.0/8, so that a proxy's logs tell which one they
//! speak of; no request waits for a log.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use memchr::memmem;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use super::corpus::Test;
use crate::upstream::content_length;

const PATIENCE: Duration = Duration::from_secs(10);
const SENDERS: usize = 4;
/// Rules that report in phase 5 are not audited: they stand in the error log alone, and Sluice's takes ten lines a second from
/// one place. So their requests are sent last, each after a second of silence.
const LATE: &str = "RESPONSE-980";
const PAUSE: Duration = Duration::from_millis(1200);
/// Of an answer's bytes, those that are kept.
const ANSWER: usize = 1 << 20;

/// The address that a request is sent from: 127.1.0.1 and up.
pub fn source(request: usize) -> Ipv4Addr {
    let number = u32::try_from(request).unwrap_or(u32::MAX).saturating_add(0x7f01_0001);
    Ipv4Addr::from(number)
}

/// The status of each request's answer, by its number; none where there was no answer.
pub fn all(tests: &[Test], proxy: SocketAddr) -> Vec<Option<u16>> {
    let requests: Vec<&[u8]> = tests.iter().flat_map(|t| t.stages.iter().map(|(bytes, _)| bytes.as_slice())).collect();
    let late: Vec<bool> = tests.iter().flat_map(|t| t.stages.iter().map(|_| t.group.contains(LATE))).collect();
    let (last, first): (Vec<usize>, Vec<usize>) =
        (0..requests.len()).partition(|number| late.get(*number).copied().unwrap_or(false));
    let statuses = Mutex::new(vec![None; requests.len()]);
    some(&first, &requests, proxy, &statuses);
    for number in last {
        std::thread::sleep(PAUSE);
        some(&[number], &requests, proxy, &statuses);
    }
    statuses.into_inner().unwrap_or_default()
}

fn some(numbers: &[usize], requests: &[&[u8]], proxy: SocketAddr, statuses: &Mutex<Vec<Option<u16>>>) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                loop {
                    let Some(&number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    let Some(bytes) = requests.get(number) else { return };
                    let status = one(bytes, source(number), proxy).ok().flatten();
                    if let Ok(mut statuses) = statuses.lock()
                        && let Some(place) = statuses.get_mut(number)
                    {
                        *place = status;
                    }
                }
            });
        }
    });
}

fn one(bytes: &[u8], from: Ipv4Addr, to: SocketAddr) -> Result<Option<u16>> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(from, 0))?;
    connect(&socket, &to)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // a proxy that refuses early may close before it has read everything
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    while answer.len() < ANSWER && !is_complete(&answer) {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    Ok(status(&answer))
}

fn is_complete(answer: &[u8]) -> bool {
    let Some(end) = memmem::find(answer, b"\r\n\r\n") else { return false };
    let (head, body) = answer.split_at(end + 4);
    match content_length(head) {
        Some(length) => body.len() >= length,
        None => body.ends_with(b"0\r\n\r\n") || matches!(status(answer), Some(204 | 304)),
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.get(..12).filter(|l| l.starts_with(b"HTTP/1."))?;
    std::str::from_utf8(line.get(9..)?).ok()?.parse().ok()
}
