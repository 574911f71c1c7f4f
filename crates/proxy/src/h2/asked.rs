//! One request to an upstream that speaks HTTP/2, as a stream: writing sends its body, reading yields the answer's.
//!
//! The surprise: trailers are looked for when the body's end is read, before the reader is told of the end.
use super::inlet::Inlet;
use super::outlet::{Outlet, broken};
use super::pool::Place;
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request};
use sluice_net::{Readable, Substream};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Shared by the pipeline (head, trailers, end) and the stream (bodies).
#[derive(Clone, Debug)]
pub(crate) struct Asked(Arc<Mutex<Inner>>);

struct Inner {
    place: Place,
    request: Option<Outlet>,
    response: Option<ResponseFuture>,
    /// Came before it was asked for.
    head: Option<http::Response<RecvStream>>,
    /// The body's beginning, where the head waited for it.
    first: Bytes,
    /// The head waited, and nothing but trailers followed: they are in the head.
    bare: bool,
    body: Option<Inlet>,
    trailers: Option<HeaderMap>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked").finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct NoAnswer {
    /// The upstream has done nothing with the request.
    pub unprocessed: bool,
    pub error: h2::Error,
}

impl From<h2::Error> for NoAnswer {
    fn from(error: h2::Error) -> NoAnswer {
        let refused = error.reason() == Some(Reason::REFUSED_STREAM);
        NoAnswer { unprocessed: refused || error.is_go_away() && error.reason() == Some(Reason::NO_ERROR), error }
    }
}

impl Asked {
    /// A request that has not been sent.
    pub fn new(place: Place) -> Asked {
        Asked(Arc::new(Mutex::new(Inner {
            place,
            request: None,
            response: None,
            head: None,
            first: Bytes::new(),
            bare: false,
            body: None,
            trailers: None,
        })))
    }

    fn get(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the head. `end`: there is no body.
    pub fn send(&self, head: Request<()>, end: bool) -> Result<(), NoAnswer> {
        let mut own = self.get();
        let length = head.headers().get(http::header::CONTENT_LENGTH);
        let left = length.and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let (response, body) = own.place.sender.send_request(head, end)?;
        own.request = Some(Outlet::new(body, left, end));
        own.response = Some(response);
        Ok(())
    }

    /// The request's body is whole.
    pub fn finish(&self) -> io::Result<()> {
        self.get().request.as_mut().map_or(Ok(()), |request| request.finish(None))
    }

    /// Whether nothing of the request is left to send.
    pub fn is_sent(&self) -> bool {
        self.get().request.as_ref().is_none_or(Outlet::is_ended)
    }

    /// A head of 1xx, where one has come.
    pub fn poll_interim(&self, task: &mut Context<'_>) -> Option<http::Response<()>> {
        let mut own = self.get();
        match own.response.as_mut()?.poll_informational(task) {
            Poll::Ready(Some(Ok(head))) => Some(head),
            _ => None,
        }
    }

    /// The answer's head, and whether it is all of the answer. `awaits_message`: not before there is some of the body; where there
    /// is none, its trailers count as the head's.
    pub fn poll_head(
        &self,
        task: &mut Context<'_>,
        awaits_message: bool,
    ) -> Poll<Result<(http::response::Parts, bool), NoAnswer>> {
        let mut own = self.get();
        ready!(own.poll_response(task))?;
        if awaits_message {
            ready!(own.poll_first(task))?;
        }
        let Some(head) = own.head.take() else { return Poll::Pending };
        let (head, body) = head.into_parts();
        let ended = own.bare || own.first.is_empty() && body.is_end_stream();
        let first = std::mem::take(&mut own.first);
        own.body = Some(Inlet::new(first, body));
        Poll::Ready(Ok((head, ended)))
    }

    /// What came behind the body.
    pub fn take_trailers(&self) -> Option<HeaderMap> {
        self.get().trailers.take()
    }
}

impl Inner {
    fn poll_response(&mut self, task: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if self.head.is_none()
            && let Some(response) = &mut self.response
        {
            let head = ready!(Pin::new(response).poll(task))?;
            self.head = Some(head);
            self.response = None;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_first(&mut self, task: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let Some(head) = &mut self.head else { return Poll::Ready(Ok(())) };
        while self.first.is_empty() && !head.body().is_end_stream() {
            match ready!(head.body_mut().poll_data(task)) {
                Some(data) => self.first = data?,
                None => {
                    if let Some(trailers) = ready!(head.body_mut().poll_trailers(task))? {
                        head.headers_mut().extend(trailers);
                    }
                    self.bare = true;
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, task: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
        if ready!(body.poll_read(task, out))? {
            self.trailers = ready!(body.stream.poll_trailers(task)).map_err(broken)?;
            self.body = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Asked {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get().poll_read(task, out)
    }
}

impl AsyncWrite for Asked {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get().request {
            _ if data.is_empty() => Poll::Ready(Ok(0)),
            Some(request) => request.poll_write(task, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }
}

impl Substream for Asked {
    /// `Data` once the answer has begun.
    fn poll_readable(&mut self, task: &mut Context<'_>) -> Poll<Readable> {
        self.get().poll_response(task).map(|result| match result {
            Ok(()) => Readable::Data,
            Err(_) => Readable::Error,
        })
    }
}
