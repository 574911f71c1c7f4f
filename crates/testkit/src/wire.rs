//! A client that sends exactly the bytes it is given and shows exactly what came back.
//!
//! It never repairs, follows, retries or reuses by itself. Every read has the same overall deadline, counted from the call.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use rustls::HandshakeKind;

/// Default time for one whole answer; generous because CI machines stall.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Why an answer could not be read. `got` is what had arrived until then.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("no complete answer within the deadline; got {:?}", show(.got))]
    Timeout { got: Vec<u8> },
    #[error("connection closed before a complete answer; got {:?}", show(.got))]
    Closed { got: Vec<u8> },
    #[error("malformed answer ({why}); got {:?}", show(.got))]
    Malformed { why: String, got: Vec<u8> },
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..2000).unwrap_or(bytes)).into_owned()
}

/// One final answer, with the interim (1xx) statuses that came before it.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    /// Minor version: 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor: u8,
    /// In the order and case of the wire.
    pub headers: Vec<(String, String)>,
    /// Chunked framing removed.
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub interim: Vec<u16>,
}

impl Answer {
    /// The first value of a header, by any case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// All values of a header in order.
    pub fn header_all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The body as text; invalid UTF-8 shows as U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics with the body shown when it is not.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("answer is not JSON ({e}): {}", self.text()))
    }
}

enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Transport {
    fn set_read_timeout(&self, limit: Duration) -> std::io::Result<()> {
        let limit = Some(limit.max(Duration::from_millis(1)));
        match self {
            Self::Tcp(s) => s.set_read_timeout(limit),
            Self::Unix(s) => s.set_read_timeout(limit),
            Self::Tls(s) => s.sock.set_read_timeout(limit),
        }
    }
}

/// One connection.
pub struct Wire {
    transport: Transport,
    /// Bytes received and not yet part of an answer.
    pending: Vec<u8>,
    pub deadline: Duration,
}

impl Wire {
    /// Connects over TCP.
    pub fn connect(addr: impl ToSocketAddrs) -> Result<Self, WireError> {
        Ok(Self::over(Transport::Tcp(tcp(addr)?)))
    }

    /// Connects over a Unix socket.
    pub fn connect_unix(path: &Path) -> Result<Self, WireError> {
        let stream = UnixStream::connect(path)?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self::over(Transport::Unix(stream)))
    }

    /// Connects over TLS and completes the handshake, so that its failure shows here.
    pub fn connect_tls(addr: SocketAddr, sni: &str, config: Arc<rustls::ClientConfig>) -> Result<Self, WireError> {
        let name = rustls::pki_types::ServerName::try_from(sni.to_owned())
            .map_err(|e| WireError::Malformed { why: format!("server name {sni}: {e}"), got: Vec::new() })?;
        let mut connection = rustls::ClientConnection::new(config, name)?;
        let mut stream = tcp(addr)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(Self::over(Transport::Tls(Box::new(rustls::StreamOwned::new(connection, stream)))))
    }

    fn over(transport: Transport) -> Self {
        Self { transport, pending: Vec::new(), deadline: DEADLINE }
    }

    /// The TLS session of this connection, if it is one.
    pub fn tls(&self) -> Option<&rustls::ClientConnection> {
        match &self.transport {
            Transport::Tls(s) => Some(&s.conn),
            _ => None,
        }
    }

    /// Sends these bytes and nothing else.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), WireError> {
        let bytes = bytes.as_ref();
        match &mut self.transport {
            Transport::Tcp(s) => s.write_all(bytes)?,
            Transport::Unix(s) => s.write_all(bytes)?,
            Transport::Tls(s) => {
                s.write_all(bytes)?;
                s.flush()?;
            }
        }
        Ok(())
    }

    /// Half-closes our direction.
    pub fn finish(&mut self) -> Result<(), WireError> {
        match &mut self.transport {
            Transport::Tcp(s) => s.shutdown(Shutdown::Write)?,
            Transport::Unix(s) => s.shutdown(Shutdown::Write)?,
            Transport::Tls(s) => {
                s.conn.send_close_notify();
                s.flush()?;
            }
        }
        Ok(())
    }

    /// Sends a request and reads its answer. The method, which decides whether the answer has a body, is read from the bytes.
    pub fn request(&mut self, bytes: impl AsRef<[u8]>) -> Result<Answer, WireError> {
        let bytes = bytes.as_ref();
        // A server may answer and close before it took all of it; the answer is what matters.
        let sent = self.send(bytes);
        match (self.read_answer(bytes.starts_with(b"HEAD ")), sent) {
            (Err(WireError::Closed { got }), Err(e)) if got.is_empty() => Err(e),
            (answer, _) => answer,
        }
    }

    /// `GET target` with this Host and keep-alive.
    pub fn get(&mut self, target: &str) -> Result<Answer, WireError> {
        self.request(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    /// Reads one final answer; `head` says that it answers a HEAD request and has no body.
    pub fn read_answer(&mut self, head: bool) -> Result<Answer, WireError> {
        let until = Instant::now() + self.deadline;
        let mut answer = Answer::default();
        loop {
            self.read_head(&mut answer, until)?;
            if (100..200).contains(&answer.status) && answer.status != 101 {
                answer.interim.push(answer.status);
                continue;
            }
            break;
        }
        if head || answer.status == 101 || answer.status == 204 || answer.status == 304 {
            return Ok(answer);
        }
        if answer.header_all("transfer-encoding").iter().any(|v| v.eq_ignore_ascii_case("chunked")) {
            self.read_chunked(&mut answer, until)?;
        } else if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().map_err(|_| self.malformed("content-length"))?;
            answer.body = self.take(length, until)?;
        } else {
            answer.body = self.read_to_end_until(until)?;
        }
        Ok(answer)
    }

    /// Everything until the peer closes. A reset counts as a close: its bytes so far are returned.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>, WireError> {
        self.read_to_end_until(Instant::now() + self.deadline)
    }

    /// Exactly `length` bytes (after an upgrade, or of a body that is cut off on purpose).
    pub fn read_exact(&mut self, length: usize) -> Result<Vec<u8>, WireError> {
        self.take(length, Instant::now() + self.deadline)
    }

    /// Everything up to and including `mark`: to watch a stream arrive piece by piece.
    pub fn read_past(&mut self, mark: &[u8]) -> Result<Vec<u8>, WireError> {
        let until = Instant::now() + self.deadline;
        let end = self.find(mark, until)?;
        Ok(self.pending.drain(..end).collect())
    }

    /// Whether the peer closed and left nothing unread. Waits for the close up to the deadline.
    pub fn closed(&mut self) -> bool {
        matches!(self.read_to_end(), Ok(rest) if rest.is_empty())
    }

    /// Bytes that came after the last answer.
    pub fn leftover(&self) -> &[u8] {
        &self.pending
    }

    fn malformed(&self, why: impl ToString) -> WireError {
        WireError::Malformed { why: why.to_string(), got: self.pending.clone() }
    }

    fn read_to_end_until(&mut self, until: Instant) -> Result<Vec<u8>, WireError> {
        while self.fill(until)? {}
        Ok(std::mem::take(&mut self.pending))
    }

    fn read_head(&mut self, answer: &mut Answer, until: Instant) -> Result<(), WireError> {
        let end = self.find(b"\r\n\r\n", until)?;
        let head: Vec<u8> = self.pending.drain(..end).collect();
        let mut slots = [httparse::EMPTY_HEADER; 256];
        let mut response = httparse::Response::new(&mut slots);
        if let Err(e) = response.parse(&head) {
            return Err(WireError::Malformed { why: e.to_string(), got: head });
        }
        answer.status = response.code.unwrap_or(0);
        answer.reason = response.reason.unwrap_or("").to_owned();
        answer.minor = response.version.unwrap_or(0);
        answer.headers = owned(response.headers);
        Ok(())
    }

    fn read_chunked(&mut self, answer: &mut Answer, until: Instant) -> Result<(), WireError> {
        loop {
            let end = self.find(b"\r\n", until)?;
            let line: Vec<u8> = self.pending.drain(..end).collect();
            let text = String::from_utf8_lossy(&line);
            let digits = text.trim_end().split(';').next().unwrap_or("").to_owned();
            let size =
                usize::from_str_radix(&digits, 16).map_err(|_| self.malformed(format!("chunk size {digits:?}")))?;
            if size == 0 {
                break;
            }
            answer.body.extend(self.take(size, until)?);
            if self.take(2, until)? != b"\r\n" {
                return Err(self.malformed("no CRLF after a chunk"));
            }
        }
        loop {
            let end = self.find(b"\r\n", until)?;
            let line: Vec<u8> = self.pending.drain(..end).collect();
            if line == b"\r\n" {
                return Ok(());
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            let Some((name, value)) = text.trim_end().split_once(':') else { return Err(self.malformed("trailer")) };
            answer.trailers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn take(&mut self, length: usize, until: Instant) -> Result<Vec<u8>, WireError> {
        while self.pending.len() < length {
            if !self.fill(until)? {
                return Err(WireError::Closed { got: std::mem::take(&mut self.pending) });
            }
        }
        Ok(self.pending.drain(..length).collect())
    }

    /// The end of the first occurrence of `mark`.
    fn find(&mut self, mark: &[u8], until: Instant) -> Result<usize, WireError> {
        loop {
            if let Some(at) = self.pending.windows(mark.len()).position(|w| w == mark) {
                return Ok(at + mark.len());
            }
            if !self.fill(until)? {
                return Err(WireError::Closed { got: std::mem::take(&mut self.pending) });
            }
        }
    }

    /// Reads once; false at the end of the stream.
    fn fill(&mut self, until: Instant) -> Result<bool, WireError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(WireError::Timeout { got: self.pending.clone() });
        }
        self.transport.set_read_timeout(left)?;
        let mut chunk = [0u8; 65536];
        let read = match &mut self.transport {
            Transport::Tcp(s) => s.read(&mut chunk),
            Transport::Unix(s) => s.read(&mut chunk),
            Transport::Tls(s) => s.read(&mut chunk),
        };
        match read {
            Ok(n) => {
                self.pending.extend_from_slice(chunk.get(..n).unwrap_or_default());
                Ok(n > 0)
            }
            Err(e) => match e.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(WireError::Timeout { got: self.pending.clone() }),
                ErrorKind::Interrupted => Ok(true),
                ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => Ok(false),
                _ => Err(e.into()),
            },
        }
    }
}

fn tcp(addr: impl ToSocketAddrs) -> Result<TcpStream, WireError> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

pub(crate) fn owned(headers: &[httparse::Header<'_>]) -> Vec<(String, String)> {
    headers.iter().map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned())).collect()
}
