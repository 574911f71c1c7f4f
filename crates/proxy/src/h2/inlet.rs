//! The body that comes on one stream.
//!
//! The surprise: the other side's window is opened by what was read, never by what has arrived, so that a slow reader holds its
//! writer back.
use super::outlet::broken;
use bytes::{Buf, Bytes};
use h2::RecvStream;
use std::io;
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;

#[derive(Debug)]
pub(super) struct Inlet {
    pub stream: RecvStream,
    /// Came, and was not read yet.
    rest: Bytes,
}

impl Inlet {
    /// `rest` was taken from the stream already.
    pub fn new(rest: Bytes, stream: RecvStream) -> Inlet {
        Inlet { stream, rest }
    }

    /// Reads on; true at the body's end.
    pub fn poll_read(&mut self, task: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        while self.rest.is_empty() {
            match ready!(self.stream.poll_data(task)) {
                None => return Poll::Ready(Ok(true)),
                Some(data) => self.rest = data.map_err(broken)?,
            }
        }
        let n = self.rest.len().min(out.remaining());
        out.put_slice(self.rest.get(..n).unwrap_or_default());
        self.rest.advance(n);
        // Fails only for more than was received.
        let _ = self.stream.flow_control().release_capacity(n);
        Poll::Ready(Ok(false))
    }
}
