//! Shows a request to its tap while it is sent (`sluice_plugin::RequestTap`). The surprise: a retry sends bytes again, and the
//! tap must not see them twice; the place that it has reached is kept apart from the attempts.
use crate::exchange::Exchange;
use crate::send::host_field;
use sluice_http::h1::BodyReader;
use sluice_plugin::{Context, RequestTap};

impl Exchange<'_> {
    /// Shows the head and what is there of the body; the first attempt only.
    #[cold]
    pub(crate) fn tap_begin(&mut self, cx: &mut Context, host: Option<&str>) {
        if self.tapped.is_some() {
            return;
        }
        let Some(mut tap) = cx.tap.take() else { return };
        tap.head(cx, host_field(cx, host));
        let mut at = BodyReader::new(cx.request.framing);
        let whole = match cx.upstream.body.as_deref().or(cx.request_body.as_deref()) {
            Some(body) => {
                tap.body(body);
                true
            }
            None => {
                let part = self.client.buffered.get(..self.first_part).unwrap_or_default();
                let mut payload = Vec::new();
                // What is malformed was refused before.
                let _ = at.decode(part, &mut payload);
                tap.body(&payload);
                at.is_done()
            }
        };
        self.tapped = Some(at);
        match whole {
            true => tap.end(),
            false => cx.tap = Some(tap),
        }
    }
}

/// Shows a part of the body as it came over the wire.
#[cold]
pub(crate) fn follow(tap: &mut Box<dyn RequestTap>, at: &mut Option<BodyReader>, part: &[u8]) {
    let Some(at) = at else { return };
    let mut payload = Vec::with_capacity(part.len());
    // What is malformed was refused before.
    let _ = at.decode(part, &mut payload);
    tap.body(&payload);
}

/// The body has been passed on.
pub(crate) fn finish(cx: &mut Context) {
    if let Some(tap) = cx.tap.take() {
        tap.end();
    }
}
