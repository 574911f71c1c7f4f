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

/// A request's body does not have the form that its decoder reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecodable;

/// Changes one request's body on its way to the node; hung into [`crate::UpstreamRequest::decoder`] by a plugin. Its length is
/// not known any more: `Content-Length` is not sent.
pub trait BodyDecoder {
    /// An attempt begins: the body comes from its beginning again.
    fn begin(&mut self);
    /// A piece of the body, without framing; what comes of it goes to `out`. `last`: nothing follows.
    fn piece(&mut self, payload: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), Undecodable>;
}
