//! Per-thread buffers: all bytes pass through them, so an idle connection owns none.
//!
//! A read lands in the thread's scratch, is parsed in place, and what goes on is written from there in the same poll. Only
//! what a socket refuses is copied into memory of the connection's own.
use sluice_net::Stream;
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of one read. Large, so that a response of 64 KiB with its head is two reads at most.
const READ: usize = 128 * 1024;
/// Up to this many body bytes are copied behind the head and sent with it in one piece; above, two pieces are sent
/// with one system call.
const COALESCE: usize = 8 * 1024;

/// The buffers of a thread.
pub struct Scratch {
    pub read: Box<[u8]>,
    pub out: Vec<u8>,
}

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
    read: vec![0; READ].into(),
    out: Vec::with_capacity(16 * 1024),
}));

/// Lends the thread's buffers. Not to be nested: code that runs inside must not ask for them again.
#[inline]
pub fn with<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with_borrow_mut(|s| {
        s.out.clear();
        let r = f(s);
        if s.out.capacity() > 1024 * 1024 {
            s.out.shrink_to(16 * 1024);
        }
        r
    })
}

/// One read. 0 is the end of the stream.
#[inline]
pub fn poll_read(stream: &mut Stream, task: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut read = ReadBuf::new(buffer);
    ready!(Pin::new(stream).poll_read(task, &mut read))?;
    Poll::Ready(Ok(read.filled().len()))
}

/// Sends `head` and `body` as far as the socket takes them now; what it does not take is appended to `pending`.
#[inline]
pub fn send(
    stream: &mut Stream,
    task: &mut Context<'_>,
    head: &mut Vec<u8>,
    body: &[u8],
    pending: &mut Vec<u8>,
) -> io::Result<()> {
    if !pending.is_empty() {
        pending.extend_from_slice(head);
        pending.extend_from_slice(body);
        return Ok(());
    }
    let result = if body.is_empty() {
        Pin::new(stream).poll_write(task, head)
    } else if body.len() <= COALESCE {
        head.extend_from_slice(body);
        let sent = match Pin::new(stream).poll_write(task, head) {
            Poll::Ready(sent) => sent?,
            Poll::Pending => 0,
        };
        pending.extend_from_slice(head.get(sent..).unwrap_or_default());
        return Ok(());
    } else {
        Pin::new(stream).poll_write_vectored(task, &[IoSlice::new(head), IoSlice::new(body)])
    };
    let sent = match result {
        Poll::Ready(sent) => sent?,
        Poll::Pending => 0,
    };
    if sent < head.len() + body.len() {
        pending.extend_from_slice(head.get(sent..).unwrap_or_default());
        pending.extend_from_slice(body.get(sent.saturating_sub(head.len())..).unwrap_or_default());
    }
    Ok(())
}

/// Sends what is pending, and flushes TLS.
pub fn poll_flush(stream: &mut Stream, task: &mut Context<'_>, pending: &mut Vec<u8>) -> Poll<io::Result<()>> {
    while !pending.is_empty() {
        let sent = ready!(Pin::new(&mut *stream).poll_write(task, pending))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        if sent == pending.len() {
            *pending = Vec::new();
        } else {
            pending.drain(..sent);
        }
    }
    if stream.is_tls() { Pin::new(stream).poll_flush(task) } else { Poll::Ready(Ok(())) }
}
