//! What `gzip`, `brotli` and `compress` share: media types, `Accept-Encoding`, the head of an encoded response, the encoders.
//!
//! The surprise: one response has one [`Encoding`], whichever plugin began it; who comes later sees `Content-Encoding` and
//! leaves the response alone.
mod accept;
mod conditions;
mod encoder;
mod types;

pub(crate) use accept::{Accept, quality};
pub(crate) use conditions::{Conditions, http11, schema, twenty};
pub(crate) use encoder::{Encoder, STREAM_WINDOW};
#[cfg(test)]
pub(crate) use encoder::{IDLE, idle_gzip};
pub(crate) use types::{Config as TypesConfig, one_type};

use sluice_http::{Headers, Known};
use sluice_plugin::{BodyChunk, Context};

/// An encoder at work on one response.
pub(crate) struct Encoding {
    /// The instance that began it; a global rule and a route may both have one.
    owner: usize,
    coding: &'static str,
    encoder: Encoder,
    /// Every piece is flushed.
    streams: bool,
    begun: bool,
}

/// The length that the response's head tells.
pub(crate) fn length(cx: &Context) -> Option<u64> {
    let text = std::str::from_utf8(cx.response.headers.known(Known::ContentLength)?).ok()?;
    text.parse().ok()
}

/// Whether nothing has encoded the body yet.
pub(crate) fn is_plain(headers: &Headers) -> bool {
    headers.get("content-encoding").is_none_or(<[u8]>::is_empty)
}

/// The client's `Accept-Encoding`, all of its fields.
pub(crate) fn accepts(cx: &Context, coding: &str) -> Accept {
    match cx.request.headers.joined("accept-encoding") {
        Some(value) => quality(&value, coding.as_bytes()),
        None => Accept::Unnamed,
    }
}

/// Changes the head for a body that `encoder` will encode, and has the body filtered. `length` is that of the plain body.
pub(crate) fn begin(cx: &mut Context, owner: usize, coding: &'static str, encoder: Encoder, length: Option<u64>) {
    let headers = &mut cx.response.headers;
    headers.remove("content-length");
    headers.remove("accept-ranges");
    headers.set("Content-Encoding", coding);
    weaken_tag(headers);
    // The gateway's own answers come in one piece.
    let streams = length.is_none() && !cx.own_response;
    cx.insert(Encoding { owner, coding, encoder, streams, begun: false });
    cx.filter_body();
}

/// The bytes are others than those that the tag was made for, the content is the same (RFC 9110, 8.8.1).
fn weaken_tag(headers: &mut Headers) {
    let weak = match headers.get("etag") {
        None => return,
        Some(tag) if !well_formed(tag) => None,
        Some(tag) if tag.starts_with(b"W/") => return,
        Some(tag) => Some([b"W/", tag].concat()),
    };
    match weak {
        Some(weak) => headers.set("ETag", weak),
        None => {
            headers.remove("etag");
        }
    }
}

/// `"x"` or `W/"x"`, without a quote inside (apisix/plugins/brotli.lua).
fn well_formed(tag: &[u8]) -> bool {
    match tag.strip_prefix(b"W/").unwrap_or(tag) {
        [b'"', inside @ .., b'"'] => !inside.contains(&b'"'),
        _ => false,
    }
}

/// Encodes a piece, where `owner` began the encoding of this response.
pub(crate) fn body_filter(cx: &mut Context, owner: usize, chunk: &mut BodyChunk) {
    let Some(found) = cx.get::<Encoding>().filter(|e| e.owner == owner) else { return };
    // Before the first piece a later plugin may have put another body in place.
    if !found.begun && cx.response.headers.get("content-encoding") != Some(found.coding.as_bytes()) {
        return;
    }
    let Some(encoding) = cx.get_mut::<Encoding>() else { return };
    encoding.begun = true;
    if chunk.data.is_empty() && !chunk.last {
        return;
    }
    let mut out = Vec::with_capacity(chunk.data.len() / 2 + 64);
    let input = std::mem::take(&mut chunk.data);
    let written = encoding.encoder.write(&input, encoding.streams, chunk.last, &mut out);
    // Writing to memory cannot fail; what is out so far is all there is.
    if let Err(error) = written {
        tracing::error!(%error, coding = encoding.coding, "compression failed");
    }
    chunk.data = out;
    if chunk.last {
        cx.take::<Encoding>();
    }
}
