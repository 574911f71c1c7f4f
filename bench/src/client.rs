//! One connection of the generator: sends a prepared request, reads one answer, says when it is complete.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use memchr::memmem;

use crate::upstream::content_length;
use crate::wire::Wire;

/// The name in certificate, SNI and Host.
pub const NAME: &str = "api.example.com";

enum Body {
    /// The head is not complete yet.
    Unknown,
    Left(usize),
    /// Chunked: the last bytes, to see the end. A body that holds the end mark itself does not occur here.
    Chunked([u8; 7]),
}

pub struct Client {
    pub wire: Wire,
    head: Vec<u8>,
    body: Body,
    sent: usize,
    pub busy: bool,
    pub dead: bool,
    pub start: Instant,
    /// Status of the last answer.
    pub status: u16,
}

impl Client {
    pub fn connect(addr: SocketAddr, tls: Option<&Arc<rustls::ClientConfig>>) -> Result<Self> {
        let wire = Wire::connect(addr, tls)?;
        let (head, body, start) = (Vec::with_capacity(1024), Body::Unknown, Instant::now());
        Ok(Self { wire, head, body, sent: 0, busy: false, dead: false, start, status: 0 })
    }

    pub fn fire(&mut self, request: &[u8], start: Instant) {
        self.busy = true;
        self.start = start;
        self.head.clear();
        self.body = Body::Unknown;
        self.sent = 0;
        self.write(request);
    }

    /// Whether any byte of the current answer has come.
    pub fn answered(&self) -> bool {
        !self.head.is_empty()
    }

    /// Whether the answer says that its connection ends with it.
    pub fn closes(&self) -> bool {
        self.head.split(|b| *b == b'\n').any(|line| line.trim_ascii().eq_ignore_ascii_case(b"connection: close"))
    }

    /// Sends what is left of the request, as far as the socket takes it.
    pub fn write(&mut self, request: &[u8]) {
        if !self.busy {
            return;
        }
        while let Some(rest) = request.get(self.sent..).filter(|r| !r.is_empty()) {
            match self.wire.write(rest) {
                Ok(0) => break,
                Ok(n) => self.sent += n,
                Err(e) => {
                    self.dead |= e.kind() != ErrorKind::WouldBlock;
                    break;
                }
            }
            self.flush_tls();
        }
        self.flush_tls();
    }

    fn flush_tls(&mut self) {
        self.dead |= self.wire.flush().is_err();
    }

    /// Reads until the socket is empty; true when the answer is complete.
    pub fn read(&mut self, chunk: &mut [u8]) -> bool {
        let mut complete = false;
        loop {
            match self.wire.read(chunk) {
                Ok(0) => {
                    self.dead = true;
                    return complete;
                }
                Ok(n) => {
                    complete |= self.take(chunk.get(..n).unwrap_or_default());
                    // A short read has emptied the socket: the edge will come again.
                    if self.dead || (self.wire.tls.is_none() && n < chunk.len()) {
                        return complete;
                    }
                }
                Err(e) => {
                    self.dead |= e.kind() != ErrorKind::WouldBlock;
                    return complete;
                }
            }
        }
    }

    /// Takes bytes of the answer; true when it is complete. More than the answer kills the connection.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        if !self.busy {
            self.dead = true;
            return false;
        }
        if let Body::Unknown = self.body {
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            let Some(end) = memmem::find(&self.head, b"\r\n\r\n") else {
                self.dead |= self.head.len() > 64 * 1024;
                return false;
            };
            let head = self.head.get(..end).unwrap_or_default();
            self.status =
                std::str::from_utf8(head.get(9..12).unwrap_or_default()).ok().and_then(|s| s.parse().ok()).unwrap_or(0);
            self.body = match content_length(head) {
                Some(length) => Body::Left(length),
                None if memmem::find(head, b"chunked").is_some() => Body::Chunked([b'x'; 7]),
                None => {
                    self.dead = true;
                    return false;
                }
            };
            bytes = bytes.get(end + 4 - before..).unwrap_or_default();
        }
        let complete = match &mut self.body {
            Body::Unknown => false,
            Body::Left(left) if bytes.len() > *left => {
                self.dead = true;
                false
            }
            Body::Left(left) => {
                *left -= bytes.len();
                *left == 0
            }
            Body::Chunked(tail) => {
                for byte in bytes.iter().skip(bytes.len().saturating_sub(7)) {
                    tail.rotate_left(1);
                    tail[6] = *byte;
                }
                tail == b"\r\n0\r\n\r\n"
            }
        };
        self.busy = !complete && !self.dead;
        complete
    }
}
