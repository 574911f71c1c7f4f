//! One HTTP/2 request as a stream: reading yields its body, writing sends the answer's.
//!
//! The surprise: the client's window is opened by what was read, never by what has arrived, so that a slow upstream holds its
//! client back.
use crate::h2::answer::Handle;
use bytes::{Buf, Bytes};
use h2::RecvStream;
use sluice_net::{Readable, Substream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Debug)]
pub(super) struct Exchanged {
    body: RecvStream,
    /// Came, and was not read yet.
    rest: Bytes,
    answer: Handle,
}

impl Exchanged {
    pub fn new(body: RecvStream, answer: Handle) -> Exchanged {
        Exchanged { body, rest: Bytes::new(), answer }
    }
}

impl AsyncRead for Exchanged {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let own = self.get_mut();
        while own.rest.is_empty() {
            own.rest = match ready!(own.body.poll_data(task)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => data,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error))),
            };
        }
        let n = own.rest.len().min(out.remaining());
        out.put_slice(own.rest.get(..n).unwrap_or_default());
        own.rest.advance(n);
        // Fails only for more than was received.
        let _ = own.body.flow_control().release_capacity(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Exchanged {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.answer.get().poll_write(task, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.answer.get().start(false))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.answer.get().finish(None))
    }
}

impl Substream for Exchanged {
    fn poll_readable(&mut self, task: &mut Context<'_>) -> Poll<Readable> {
        self.answer.get().poll_reset(task).map(|()| Readable::Error)
    }
}
