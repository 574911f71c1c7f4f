//! A response's head: from an upstream, or made by the gateway.
use crate::h1::body::Framing;
use crate::headers::{Headers, Span};
use crate::request::Version;
use crate::status;

/// A response head. Reused from request to request.
#[derive(Debug, Default, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Headers,
    pub version: Version,
    /// How the body is framed on the wire it came by.
    pub framing: Framing,
    /// Whether the upstream lets the connection live on.
    pub keep_alive: bool,
    /// Fields behind the body (gRPC's status, say), once they have come.
    pub trailers: Option<Box<Headers>>,
    pub(crate) reason: Span,
}

impl Response {
    /// Forgets the response, keeps the memory.
    pub fn clear(&mut self) {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        *self = Response { headers, ..Response::default() };
    }

    /// The reason phrase as it came, or the usual one.
    pub fn reason(&self) -> &[u8] {
        match self.reason.len {
            0 => status::reason(self.status).as_bytes(),
            _ => self.reason.get(&self.headers.buf),
        }
    }

    /// Changes the status; the reason phrase that belonged to the old one goes.
    pub fn set_status(&mut self, status: u16) {
        if status != self.status {
            self.status = status;
            self.reason = Span::default();
        }
    }

    /// 1xx but 101: more heads follow.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}
