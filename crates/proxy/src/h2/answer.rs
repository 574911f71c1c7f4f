//! The answering side of one HTTP/2 request: head, body, end or reset.
//!
//! The surprise: a head is held back until there is a body, a flush or the end, so that an answer without a body is one frame.
use super::outlet::{Outlet, broken};
use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, Response};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// How the pipeline and the stream's writing side share it. Never contended: both live on one worker, but the type of streams
/// is one that may move between threads.
#[derive(Clone, Debug)]
pub(crate) struct Handle(Arc<Mutex<Answer>>);

impl Handle {
    pub fn new(respond: SendResponse<Bytes>) -> Handle {
        Handle(Arc::new(Mutex::new(Answer { respond, head: None, body: None, ended: false, request_trailers: None })))
    }

    pub fn get(&self) -> MutexGuard<'_, Answer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Answer {
    respond: SendResponse<Bytes>,
    /// Not sent yet.
    head: Option<Response<()>>,
    body: Option<Outlet>,
    /// Without a body.
    ended: bool,
    /// What came behind the request's body.
    pub request_trailers: Option<Box<HeaderMap>>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Answer {
    /// The final head. It goes out with what follows.
    pub fn head(&mut self, head: Response<()>) {
        self.head = Some(head);
    }

    /// A head of 1xx, at once.
    pub fn interim(&mut self, head: Response<()>) -> io::Result<()> {
        self.respond.send_informational(head).map_err(broken)
    }

    /// Sends the head, if that has not been done.
    pub fn start(&mut self, end: bool) -> io::Result<()> {
        let Some(head) = self.head.take() else { return Ok(()) };
        let length = head.headers().get(http::header::CONTENT_LENGTH);
        let left = length.and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let body = self.respond.send_response(head, end).map_err(broken)?;
        self.ended = end;
        self.body = Some(Outlet::new(body, left, end));
        Ok(())
    }

    pub fn poll_write(&mut self, task: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.start(false)?;
        match &mut self.body {
            Some(body) => body.poll_write(task, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// The answer is whole.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> io::Result<()> {
        self.start(trailers.is_none())?;
        self.body.as_mut().map_or(Ok(()), |body| body.finish(trailers))
    }

    /// The answer broke off: the client must not take it for whole.
    pub fn abort(&mut self) {
        match &mut self.body {
            Some(body) => body.abort(),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    /// Ready once the client has reset the stream or the connection is gone.
    pub fn poll_reset(&mut self, task: &mut Context<'_>) -> Poll<()> {
        match &mut self.body {
            Some(body) => body.poll_reset(task),
            None => self.respond.poll_reset(task).map(drop),
        }
    }
}
