//! Seeing a request as it goes to the upstream (`proxy-mirror`). The surprise: a tap sees each request once, however many
//! attempts follow, and it cannot hold anything up: its hooks take what they want and return.
use crate::context::Context;

/// Watches one request on its way; hung into [`Context::tap`] by a plugin.
pub trait RequestTap {
    /// Before the head is sent. `host` is the `Host` field that the node gets.
    fn head(&mut self, cx: &Context, host: &[u8]);
    /// A piece of the body, without chunk framing, as it is passed on.
    fn body(&mut self, payload: &[u8]);
    /// The whole request has been passed on. A tap dropped before it saw only a part.
    fn end(self: Box<Self>);
}
