//! The constant upstream: one of a few prepared answers to whatever is asked, hosted by the generator's own loop so that no
//! proxy pays for waking a sleeping peer. `/64k…` answers 64 KiB, `/keep…` 1 KiB that may be kept, `/socket` switches to
//! WebSocket and says no more, everything else answers 1 KiB. Not a general server: it reads
//! Content-Length bodies only, which is what proxies send here.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use memchr::memmem;

/// Bytes of the small answer's body.
pub const SMALL: usize = 1024;
const INPUT: usize = 16 * 1024;

fn prepared(length: usize, cache_control: &str) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nServer: constant\r\nDate: Mon, 23 Nov 2026 11:00:00 GMT\r\nContent-Type: application/json; charset=utf-8\r\n\
         Content-Length: {length}\r\nCache-Control: {cache_control}\r\nETag: \"5f2b1a7c9d\"\r\n\
         X-Upstream-Id: 0f3c1f6e-7a0b-4c39-b1c7-1d2e3f4a5b6c\r\nVary: Accept-Encoding\r\n\r\n"
    )
    .into_bytes();
    answer.extend((0..length).map(|i| b'a' + (i % 26) as u8));
    answer
}

/// The length is for the generator, which wants to know where an answer ends.
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nContent-Length: 0\r\n\r\n";

pub struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
    kept: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Which {
    Small,
    Large,
    Kept,
    Socket,
}

pub struct Connection {
    pub stream: TcpStream,
    input: Vec<u8>,
    /// Body bytes of the request still to be dropped.
    skip: usize,
    which: Which,
    /// What has been sent of the current answer; `None` when none is due.
    sent: Option<usize>,
}

impl Answers {
    pub fn new() -> Self {
        let private = "no-cache, private";
        Self {
            small: prepared(SMALL, private),
            large: prepared(65536, private),
            kept: prepared(SMALL, "max-age=86400"),
        }
    }

    /// Reads, answers, and says whether the connection is to be kept.
    pub fn serve(&self, c: &mut Connection) -> bool {
        let mut chunk = [0u8; INPUT];
        loop {
            if !self.flush(c) || !self.process(c) {
                return false;
            }
            if c.sent.is_some() {
                return true;
            }
            match c.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(n) => c.input.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    /// Answers every complete request in the input; false for what is not a request.
    fn process(&self, c: &mut Connection) -> bool {
        while c.sent.is_none() {
            if c.skip > 0 {
                let drop = c.skip.min(c.input.len());
                c.input.drain(..drop);
                c.skip -= drop;
                if c.skip > 0 {
                    return true;
                }
                c.sent = Some(0);
            } else {
                let Some(end) = memmem::find(&c.input, b"\r\n\r\n") else { return c.input.len() < INPUT };
                let head = c.input.get(..end).unwrap_or_default();
                let line = head.get(..40.min(head.len())).unwrap_or_default();
                c.which = match () {
                    () if memmem::find(line, b" /64k").is_some() => Which::Large,
                    () if memmem::find(line, b" /keep").is_some() => Which::Kept,
                    () if memmem::find(line, b" /socket").is_some() => Which::Socket,
                    () => Which::Small,
                };
                c.skip = if head.starts_with(b"P") { content_length(head).unwrap_or(0) } else { 0 };
                c.input.drain(..end + 4);
                if c.skip > 0 {
                    continue;
                }
                c.sent = Some(0);
            }
            if !self.flush(c) {
                return false;
            }
        }
        true
    }

    fn flush(&self, c: &mut Connection) -> bool {
        let answer: &[u8] = match c.which {
            Which::Small => &self.small,
            Which::Large => &self.large,
            Which::Kept => &self.kept,
            Which::Socket => SWITCHED,
        };
        while let Some(sent) = c.sent {
            match c.stream.write(answer.get(sent..).unwrap_or_default()) {
                Ok(n) if sent + n >= answer.len() => c.sent = None,
                Ok(n) => c.sent = Some(sent + n),
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
        true
    }
}

/// The next connection, if one is waiting.
pub fn accept(listener: &TcpListener) -> Option<Connection> {
    let (stream, _) = listener.accept().ok()?;
    stream.set_nonblocking(true).ok()?;
    stream.set_nodelay(true).ok()?;
    Some(Connection { stream, input: Vec::new(), skip: 0, which: Which::Small, sent: None })
}

/// The value of Content-Length in a head, by any case of its name.
pub fn content_length(head: &[u8]) -> Option<usize> {
    for line in head.split(|b| *b == b'\n') {
        let Some(at) = memchr::memchr(b':', line) else { continue };
        let (name, value) = line.split_at(at);
        if name.eq_ignore_ascii_case(b"content-length") {
            return std::str::from_utf8(value.get(1..)?).ok()?.trim().parse().ok();
        }
    }
    None
}
