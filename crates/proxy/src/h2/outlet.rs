//! The body that leaves on one stream: under the other side's flow control, ended once.
use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use std::io;
use std::task::{Context, Poll, ready};

pub(super) struct Outlet {
    stream: SendStream<Bytes>,
    /// Body bytes to come, where the head told.
    left: Option<u64>,
    ended: bool,
}

pub(super) fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}

impl Outlet {
    /// `ended`: the head was all. `left`: what `content-length` says.
    pub fn new(stream: SendStream<Bytes>, left: Option<u64>, ended: bool) -> Outlet {
        Outlet { stream, left, ended }
    }

    /// Sends as much as the other side's window takes now.
    pub fn poll_write(&mut self, task: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.reserve_capacity(data.len());
        let mut room = self.stream.capacity();
        while room == 0 {
            room = match ready!(self.stream.poll_capacity(task)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let part = data.get(..room).unwrap_or(data);
        let last = self.left == Some(part.len() as u64);
        self.left = self.left.map(|left| left.saturating_sub(part.len() as u64));
        self.stream.send_data(Bytes::copy_from_slice(part), last).map_err(broken)?;
        self.ended |= last;
        Poll::Ready(Ok(part.len()))
    }

    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// The message is whole.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> io::Result<()> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        match trailers {
            Some(trailers) => self.stream.send_trailers(trailers).map_err(broken),
            None => self.stream.send_data(Bytes::new(), true).map_err(broken),
        }
    }

    /// The message broke off: the other side must not take it for whole.
    pub fn abort(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.stream.send_reset(Reason::INTERNAL_ERROR);
        }
    }

    /// Ready once the other side has reset the stream or the connection is gone.
    pub fn poll_reset(&mut self, task: &mut Context<'_>) -> Poll<()> {
        if self.ended {
            return Poll::Pending;
        }
        self.stream.poll_reset(task).map(drop)
    }
}
