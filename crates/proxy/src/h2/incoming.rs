//! One HTTP/2 request as a stream: reading yields its body, writing sends the answer's. Surprise: who may write and who is gone is the answer's
//! to say.
use super::answer::Handle;
use super::inlet::Inlet;
use bytes::Bytes;
use h2::RecvStream;
use sluice_net::{Readable, Substream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Debug)]
pub(super) struct Exchanged {
    body: Inlet,
    answer: Handle,
}

impl Exchanged {
    pub fn new(body: RecvStream, answer: Handle) -> Exchanged {
        Exchanged { body: Inlet::new(Bytes::new(), body), answer }
    }
}

impl AsyncRead for Exchanged {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().body.poll_read(task, out).map_ok(drop)
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
