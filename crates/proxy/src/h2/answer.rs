//! The answering side of one HTTP/2 request: head, body under flow control, end or reset.
//!
//! The surprise: a head is held back until there is a body, a flush or the end, so that an answer without a body is one frame.
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, Response};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

/// How the pipeline and the stream's writing side share it. Never contended: both live on one worker, but the type of streams
/// is one that may move between threads.
#[derive(Clone, Debug)]
pub(crate) struct Handle(Arc<Mutex<Answer>>);

impl Handle {
    pub fn new(respond: SendResponse<Bytes>) -> Handle {
        Handle(Arc::new(Mutex::new(Answer { respond, head: None, body: None, left: None, ended: false })))
    }

    pub fn get(&self) -> MutexGuard<'_, Answer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Answer {
    respond: SendResponse<Bytes>,
    /// Not sent yet.
    head: Option<Response<()>>,
    body: Option<SendStream<Bytes>>,
    /// Body bytes to come, where the head told.
    left: Option<u64>,
    ended: bool,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("ended", &self.ended).finish_non_exhaustive()
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}

impl Answer {
    /// The final head. It goes out with what follows.
    pub fn head(&mut self, head: Response<()>) {
        let length = head.headers().get(http::header::CONTENT_LENGTH);
        self.left = length.and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        self.head = Some(head);
    }

    /// A head of 1xx, at once.
    pub fn interim(&mut self, head: Response<()>) -> io::Result<()> {
        self.respond.send_informational(head).map_err(broken)
    }

    /// Sends the head, if that has not been done.
    pub fn start(&mut self, end: bool) -> io::Result<()> {
        let Some(head) = self.head.take() else { return Ok(()) };
        let body = self.respond.send_response(head, end).map_err(broken)?;
        match end {
            true => self.ended = true,
            false => self.body = Some(body),
        }
        Ok(())
    }

    /// Sends as much as the client's window takes now.
    pub fn poll_write(&mut self, task: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.start(false)?;
        let Some(body) = &mut self.body else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        body.reserve_capacity(data.len());
        let mut room = body.capacity();
        while room == 0 {
            room = match ready!(body.poll_capacity(task)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let part = data.get(..room).unwrap_or(data);
        let last = self.left == Some(part.len() as u64);
        self.left = self.left.map(|left| left.saturating_sub(part.len() as u64));
        body.send_data(Bytes::copy_from_slice(part), last).map_err(broken)?;
        self.ended = last;
        Poll::Ready(Ok(part.len()))
    }

    /// The answer is whole.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        self.start(trailers.is_none())?;
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        let Some(body) = &mut self.body else { return Ok(()) };
        match trailers {
            Some(trailers) => body.send_trailers(trailers).map_err(broken),
            None => body.send_data(Bytes::new(), true).map_err(broken),
        }
    }

    /// The answer broke off: the client must not take it for whole.
    pub fn abort(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        match &mut self.body {
            Some(body) => body.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    /// Ready once the client has reset the stream or the connection is gone.
    pub fn poll_reset(&mut self, task: &mut Context<'_>) -> Poll<()> {
        if self.ended {
            return Poll::Pending;
        }
        match &mut self.body {
            Some(body) => body.poll_reset(task).map(drop),
            None => self.respond.poll_reset(task).map(drop),
        }
    }
}
