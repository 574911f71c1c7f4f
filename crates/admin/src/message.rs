//! A request and its answer, as the APIs see them: whole, in memory, but for answers that go on ([`Stream`]).
use bytes::Bytes;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Decoded, without query.
    pub path: String,
    /// Name and value, decoded, in order; a name without `=` has an empty value.
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// The body was longer than allowed, and is not here.
    pub too_large: bool,
    pub peer: Option<IpAddr>,
}

impl Request {
    /// Without query, headers and body.
    pub fn new(method: &str, path: &str) -> Request {
        Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            too_large: false,
            peer: None,
        }
    }

    /// Segments of the path, without the empty one before the first slash.
    pub fn segments(&self) -> Vec<&str> {
        self.path.trim_start_matches('/').split('/').collect()
    }

    /// The last value of a query argument.
    pub fn arg(&self, name: &str) -> Option<&str> {
        self.query.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn cookie(&self, name: &str) -> Option<&str> {
        let pairs = self.header("cookie")?.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.filter(|(own, _)| *own == name).map(|(_, value)| value).next_back()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// What comes after `body`, for as long as it comes.
    pub stream: Option<Stream>,
}

/// Pieces of an answer as they are made. Whoever makes them learns by the channel that nobody reads any more.
#[derive(Clone, Debug)]
pub struct Stream(Arc<Mutex<Option<mpsc::Receiver<Bytes>>>>);

impl Stream {
    pub fn new(pieces: mpsc::Receiver<Bytes>) -> Stream {
        Stream(Arc::new(Mutex::new(Some(pieces))))
    }
    /// The pieces, once.
    pub(crate) fn take(&self) -> Option<mpsc::Receiver<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl PartialEq for Stream {
    fn eq(&self, other: &Stream) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Reply {
    pub fn empty(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Vec::new(), stream: None }
    }

    pub fn json(status: u16, body: &Value) -> Reply {
        // APISIX ends a table's JSON with a line end (apisix/core/response.lua).
        Reply::text(status, format!("{body}\n"))
    }

    pub fn text(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into(), stream: None }
    }

    /// 200 with pieces as they come.
    pub fn stream(pieces: mpsc::Receiver<Bytes>) -> Reply {
        Reply { stream: Some(Stream::new(pieces)), ..Reply::empty(200) }
    }

    /// `{"error_msg": message}`
    pub fn error(status: u16, message: impl Into<String>) -> Reply {
        Reply::json(status, &json!({"error_msg": message.into()}))
    }

    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
        self.headers.push((name, value.into()));
        self
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::Request;
    use crate::server::query;

    /// A request from this machine; `target` may have a query.
    pub fn request(method: &str, target: &str, body: &str) -> Request {
        let (path, args) = target.split_once('?').unwrap_or((target, ""));
        Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query(args),
            headers: Vec::new(),
            body: body.to_owned().into(),
            too_large: false,
            peer: Some([127, 0, 0, 1].into()),
        }
    }
}
