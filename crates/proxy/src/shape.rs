//! What becomes of a request body's framing on its way to the node, and of its bytes where a plugin decodes them. The surprise: what
//! is there of a body is decoded anew with every attempt, what comes later only once, as it is kept in neither form.
use crate::client::BodyError;
use crate::exchange::Exchange;
use crate::send::{AttemptError, Outgoing};
use sluice_http::h1::{BodyReader, Framing, write};
use sluice_plugin::Context;

/// How a body's bytes change on their way to the node.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    /// Not at all.
    Same,
    /// HTTP/2's frames become chunks.
    Chunk,
    /// Chunks become HTTP/2's frames.
    Unchunk,
    /// A plugin makes another body of it.
    Decode,
}

impl Shape {
    pub fn of(cx: &Context, framing: Framing, outgoing: &Outgoing) -> Shape {
        match (framing, &outgoing.asked) {
            _ if cx.upstream.decoder.is_some() => Shape::Decode,
            (Framing::Close, None) => Shape::Chunk,
            (Framing::Chunked, Some(_)) => Shape::Unchunk,
            _ => Shape::Same,
        }
    }
}

impl Exchange<'_> {
    /// What a plugin's decoder makes of what is there of the body.
    #[cold]
    pub(crate) fn decoded(&mut self, cx: &mut Context, outgoing: &Outgoing) -> Result<Vec<u8>, AttemptError> {
        let Some(mut decoder) = cx.upstream.decoder.take() else { return Ok(Vec::new()) };
        decoder.begin();
        let (mut payload, mut out) = (Vec::new(), Vec::new());
        let result = match &cx.request_body {
            Some(body) => decoder.piece(body, true, &mut out),
            None => {
                let part = self.client.buffered.get(..self.first_part).unwrap_or_default();
                // What is malformed was refused before.
                let _ = BodyReader::new(cx.request.framing).decode(part, &mut payload);
                decoder.piece(&payload, self.body.is_done(), &mut out)
            }
        };
        cx.upstream.decoder = Some(decoder);
        result.map_err(|_| AttemptError::Body(BodyError::Malformed))?;
        if cx.request_body.is_some() || outgoing.asked.is_some() {
            return Ok(out);
        }
        let mut framed = Vec::with_capacity(out.len() + 32);
        frame(&out, self.body.is_done(), &mut framed);
        Ok(framed)
    }
}

/// A piece of a body without framing of its own, as chunks.
pub(crate) fn frame(part: &[u8], last: bool, out: &mut Vec<u8>) {
    write::chunk(part, out);
    if last {
        write::last_chunk(out);
    }
}
