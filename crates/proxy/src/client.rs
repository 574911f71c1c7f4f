//! The client's side of a connection: reading heads and bodies, writing responses, time limits.
use crate::h2;
use crate::scratch;
use crate::worker::Worker;
use sluice_http::h1::{BodyReader, Framing, Reject, parse_request};
use sluice_net::{Readable, Stream, Timeout};
use sluice_plugin::{Connection, Context};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};

/// Most bytes that a TLS client may send ahead of the answer to its request before its connection is not looked at any more.
const READ_AHEAD: usize = 16 * 1024;

/// What came of waiting for a request.
pub enum Head {
    /// A request; its body, as far as it came along, is in the client's buffer.
    Request(Box<Context>),
    /// The client is done, or idled too long, or the gateway drains.
    Closed,
    /// The head is malformed: answer and close.
    Refused(Box<Context>, Reject),
    /// The client speaks HTTP/2; what it has sent is in the buffer.
    Http2,
}

/// A client connection.
pub struct Client {
    pub stream: Stream,
    pub connection: Rc<Connection>,
    /// Bytes read and not consumed: a partial head, a body's beginning, pipelined requests.
    pub buffered: Vec<u8>,
    /// Bytes that the socket has not taken yet.
    pub pending: Vec<u8>,
    pub timeout: Timeout,
    /// Body bytes may still come that nobody has read.
    pub unread_body: bool,
    /// Its first bytes may be HTTP/2's preface.
    pub(crate) prior_knowledge: bool,
    /// The end of the body was seen, where nothing but the stream's end tells it.
    pub(crate) body_ended: bool,
    /// Where the answer goes, if this is a request of HTTP/2.
    pub(crate) h2: Option<h2::Handle>,
}

impl Client {
    pub fn new(stream: Stream, connection: Rc<Connection>) -> Client {
        Client {
            stream,
            connection,
            buffered: Vec::new(),
            pending: Vec::new(),
            timeout: Timeout::new(),
            unread_body: false,
            prior_knowledge: false,
            body_ended: false,
            h2: None,
        }
    }

    /// Waits for the next request. An idle connection holds no buffer and no context meanwhile.
    pub async fn head(&mut self, worker: &Worker) -> Head {
        let settings = &worker.settings;
        let first = self.connection.requests.get() == 0;
        self.timeout.arm(if first { settings.header_timeout } else { settings.keepalive_timeout });
        let mut look = !self.buffered.is_empty();
        let mut started = look;
        if started {
            self.timeout.arm(settings.header_timeout);
        }
        poll_fn(|task| self.poll_head(task, worker, &mut look, &mut started)).await
    }

    fn poll_head(&mut self, task: &mut Task<'_>, worker: &Worker, look: &mut bool, started: &mut bool) -> Poll<Head> {
        scratch::with(|scratch| {
            loop {
                let mut n = 0;
                if !std::mem::take(look) {
                    n = match scratch::poll_read(&mut self.stream, task, &mut scratch.read) {
                        Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Head::Closed),
                        Poll::Ready(Ok(n)) => n,
                        Poll::Pending => return self.poll_idle(task, worker, *started),
                    };
                    if !self.buffered.is_empty() {
                        self.buffered.extend_from_slice(&scratch.read[..n]);
                    }
                }
                let data: &[u8] = if self.buffered.is_empty() { &scratch.read[..n] } else { &self.buffered };
                let mut cx = worker.context(&self.connection);
                let parsed = match parse_request(data, &worker.settings.limits, &mut cx.request) {
                    Err(_) if self.prior_knowledge && h2::may_be_preface(data) => Ok(None),
                    parsed => parsed,
                };
                match parsed {
                    Ok(Some(head)) => {
                        if self.buffered.is_empty() {
                            if head < n {
                                self.buffered.extend_from_slice(&scratch.read[head..n]);
                            }
                        } else if head == self.buffered.len() {
                            self.buffered = Vec::new();
                        } else {
                            self.buffered.drain(..head);
                        }
                        return Poll::Ready(Head::Request(cx));
                    }
                    Ok(None) => {
                        worker.recycle(cx);
                        if self.buffered.is_empty() {
                            self.buffered.extend_from_slice(&scratch.read[..n]);
                        }
                        if !std::mem::replace(started, true) {
                            self.timeout.arm(worker.settings.header_timeout);
                        }
                    }
                    Err(_) if self.prior_knowledge && h2::is_preface(data) => {
                        worker.recycle(cx);
                        if self.buffered.is_empty() {
                            self.buffered.extend_from_slice(&scratch.read[..n]);
                        }
                        return Poll::Ready(Head::Http2);
                    }
                    Err(reject) => return Poll::Ready(Head::Refused(cx, reject)),
                }
            }
        })
    }

    /// Nothing to read now: is there still a reason to wait?
    fn poll_idle(&mut self, task: &mut Task<'_>, worker: &Worker, started: bool) -> Poll<Head> {
        if !started && worker.drain.is_draining() || worker.drain.is_forced() {
            return Poll::Ready(Head::Closed);
        }
        ready!(self.timeout.poll(task));
        if started {
            let cx = worker.context(&self.connection);
            return Poll::Ready(Head::Refused(cx, Reject { status: 408, reason: "request head timed out" }));
        }
        Poll::Ready(Head::Closed)
    }

    /// Reads the next part of the body into `out` (payload only). Ready with the number of wire bytes consumed.
    pub async fn read_body(
        &mut self,
        body: &mut BodyReader,
        limit: Duration,
        out: &mut Vec<u8>,
    ) -> Result<u64, BodyError> {
        if !self.buffered.is_empty() {
            let used = body.decode(&self.buffered, out).map_err(|_| BodyError::Malformed)?;
            consume(&mut self.buffered, used);
            return Ok(used as u64);
        }
        self.timeout.arm(limit);
        poll_fn(|task| {
            scratch::with(|scratch| {
                let n = match scratch::poll_read(&mut self.stream, task, &mut scratch.read) {
                    Poll::Pending => return self.timeout.poll(task).map(|()| Err(BodyError::Timeout)),
                    Poll::Ready(Ok(0)) if body.end_of_input().is_ok() => return Poll::Ready(Ok(0)),
                    Poll::Ready(Err(_)) | Poll::Ready(Ok(0)) => return Poll::Ready(Err(BodyError::Closed)),
                    Poll::Ready(Ok(n)) => n,
                };
                let data = scratch.read.get(..n).unwrap_or_default();
                let used = body.decode(data, out).map_err(|_| BodyError::Malformed)?;
                self.buffered.extend_from_slice(data.get(used..).unwrap_or_default());
                Poll::Ready(Ok(used as u64))
            })
        })
        .await
    }

    /// Whether the client has left while something else is waited for. On TLS that shows only in reading: what comes, such as a
    /// pipelined request, is kept, beside `kept` bytes that are there for another reason.
    pub fn is_gone(&mut self, task: &mut Task<'_>, kept: usize) -> bool {
        if !self.stream.is_tls() {
            return matches!(self.stream.poll_readable(task), Poll::Ready(Readable::Eof | Readable::Error));
        }
        while self.buffered.len() < READ_AHEAD.saturating_add(kept) {
            let mut bytes = [0; 1024];
            let mut part = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(task, &mut part) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) if !part.filled().is_empty() => self.buffered.extend_from_slice(part.filled()),
                Poll::Ready(_) => return true,
            }
        }
        false
    }

    /// Sends all that is pending.
    pub async fn flush(&mut self, limit: Duration) -> io::Result<()> {
        if self.pending.is_empty() && !self.stream.is_tls() {
            return Ok(());
        }
        self.timeout.arm(limit);
        let mut left = usize::MAX;
        poll_fn(|task| match scratch::poll_flush(&mut self.stream, task, &mut self.pending) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => {
                // The limit is between two writes, not on the whole.
                if self.pending.len() < left {
                    left = self.pending.len();
                    self.timeout.arm(limit);
                }
                self.timeout.poll(task).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
        })
        .await
    }

    /// Writes bytes and waits until they are sent.
    pub async fn write(&mut self, bytes: &[u8], limit: Duration) -> io::Result<()> {
        let mut head = bytes.to_vec();
        poll_fn(|task| Poll::Ready(scratch::send(&mut self.stream, task, &mut head, &[], &mut self.pending))).await?;
        self.flush(limit).await
    }

    /// Skips the rest of a body that has already arrived; says whether that was all of it.
    pub fn skip_buffered_body(&mut self, body: &mut BodyReader) -> bool {
        if body.is_done() {
            return true;
        }
        match body.scan(&self.buffered) {
            Ok(used) => consume(&mut self.buffered, used),
            Err(_) => return false,
        }
        body.is_done()
    }

    /// Closes. Where the client may still be sending, our answer must not be lost to a reset: the writing side is shut
    /// and what comes is read for a while (nginx: lingering_close).
    pub async fn close(mut self) {
        use tokio::io::AsyncWriteExt;
        let linger = self.unread_body || !self.buffered.is_empty();
        if self.stream.shutdown().await.is_err() || !linger {
            return;
        }
        const LINGER: Duration = Duration::from_secs(5);
        const LINGER_BYTES: usize = 8 * 1024 * 1024;
        self.timeout.arm(LINGER);
        let mut total = 0;
        poll_fn(|task| {
            scratch::with(|scratch| {
                loop {
                    match scratch::poll_read(&mut self.stream, task, &mut scratch.read) {
                        Poll::Pending => return self.timeout.poll(task),
                        Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(()),
                        Poll::Ready(Ok(n)) => total += n,
                    }
                    if total > LINGER_BYTES {
                        return Poll::Ready(());
                    }
                }
            })
        })
        .await;
    }
}

/// Why a request's body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    Malformed,
    Timeout,
    Closed,
    TooLarge,
}

/// Forgets the first `n` bytes; an emptied buffer gives its memory back.
pub fn consume(buffer: &mut Vec<u8>, n: usize) {
    if n >= buffer.len() {
        *buffer = Vec::new();
    } else {
        buffer.drain(..n);
    }
}

/// Whether a framing has bytes to come.
pub fn has_body(framing: Framing) -> bool {
    framing != Framing::None
}
