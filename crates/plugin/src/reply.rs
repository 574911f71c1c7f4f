//! A response made by the gateway, in the forms of `core.response.exit` (apisix/core/response.lua).

use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;

/// Fields that many replies have in common.
pub type SharedFields = Arc<[(Box<str>, Box<[u8]>)]>;

/// The body of a [`Reply`].
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ReplyBody {
    /// nginx's small HTML page for an error status, nothing for others.
    #[default]
    Default,
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes, which others have too: they are not copied.
    Shared(Bytes),
    /// So many bytes from [`crate::Context::body_source`].
    Streamed(u64),
}

/// A response to the client instead of the upstream's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    pub status: u16,
    /// They come before [`Reply::headers`].
    pub shared: Option<SharedFields>,
    pub headers: Vec<(Cow<'static, str>, Vec<u8>)>,
    pub body: ReplyBody,
}

impl Reply {
    /// Only a status: an error status gets nginx's page.
    pub fn status(status: u16) -> Reply {
        Reply { status, ..Reply::default() }
    }
    /// Text or bytes as they are (`text/plain` unless a header says otherwise).
    pub fn text(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, body: ReplyBody::Bytes(body.into()), ..Reply::default() }
    }
    /// A JSON body with a line end after it, as APISIX prints tables.
    pub fn json(status: u16, body: &serde_json::Value) -> Reply {
        let mut text = body.to_string().into_bytes();
        text.push(b'\n');
        Reply::text(status, text)
    }
    /// `{"message": …}`, the usual form of plugins.
    pub fn message(status: u16, message: &str) -> Reply {
        Reply::json(status, &serde_json::json!({ "message": message }))
    }
    /// `{"error_msg": …}`, the usual form of the core.
    pub fn error_msg(status: u16, message: &str) -> Reply {
        Reply::json(status, &serde_json::json!({ "error_msg": message }))
    }
    /// Adds a header.
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Vec<u8>>) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }
}
