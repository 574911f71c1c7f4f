//! A client's connection below HTTP/2: what was read of it to find out what is spoken comes first, and what is read is watched for
//! floods. Surprise: one too many ends the reading for good, so that the flag is all that is left to look at.
use super::flood::Flood;
use sluice_net::Stream;
use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Debug)]
pub(super) struct Rewound {
    first: Vec<u8>,
    stream: Stream,
    flood: Flood,
    flooded: Rc<Cell<bool>>,
}

impl Rewound {
    /// `flooded` is set once the client has sent more than `limit` frames that are about no request.
    pub fn new(first: Vec<u8>, stream: Stream, limit: u32, flooded: Rc<Cell<bool>>) -> Rewound {
        Rewound { first, stream, flood: Flood::new(limit), flooded }
    }

    fn poll_more(&mut self, task: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(task, out);
        }
        let n = self.first.len().min(out.remaining());
        out.put_slice(self.first.get(..n).unwrap_or_default());
        crate::client::consume(&mut self.first, n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Rewound {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let own = self.get_mut();
        if own.flooded.get() {
            return Poll::Pending;
        }
        let before = out.filled().len();
        let read = own.poll_more(task, out);
        if read.is_ready() && own.flood.is_reached(out.filled().get(before..).unwrap_or_default()) {
            own.flooded.set(true);
            task.waker().wake_by_ref();
        }
        read
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(task, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(task, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}
