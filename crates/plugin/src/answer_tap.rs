//! Standing between a node's answer and the response phases (`proxy-cache`): what came may be kept, or another answer may stand
//! in for it. The surprise: none of it is on the way of a request for which no plugin has asked.
use crate::context::Context;
use crate::reply::Reply;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::pin::Pin;

/// What becomes of a node's answer.
pub enum Answer {
    /// It goes to the client.
    Pass,
    /// It goes to the client, and the tap sees its body.
    Watch,
    /// The tap alone sees it: nobody waits for it.
    Keep,
    /// This goes to the client instead, through the response phases.
    Replace(Box<Reply>),
}

/// Watches one request's answer; hung into [`Context::answer_tap`] by a plugin.
pub trait AnswerTap {
    /// The final head is in [`Context::response`] as the node sent it; no retry follows. It may be changed.
    fn head(&mut self, cx: &mut Context) -> Answer;
    /// A piece of the body, without framing, before any filter.
    fn body(&mut self, payload: &[u8]);
    /// The whole answer has come. A tap dropped before it saw only a part.
    fn end(self: Box<Self>);
    /// No node gave an answer, and this would be said; another reply may be.
    fn failed(&mut self, cx: &mut Context, reply: Reply) -> Reply;
}

/// What is left to do for a request whose answer has been given already: asking its upstream, for a tap alone. Hung into
/// [`Context::background`] by a plugin that answers from `access`.
pub struct Background {
    pub tap: Box<dyn AnswerTap>,
    /// Where the phase goes on: the next hook, and whether of the global rules. The gateway sets it.
    pub resume: (usize, bool),
}

impl Background {
    pub fn new(tap: Box<dyn AnswerTap>) -> Box<Background> {
        Box::new(Background { tap, resume: (0, false) })
    }
}

/// A piece of a body to come; none at its end.
pub type Piece<'a> = Pin<Box<dyn Future<Output = io::Result<Option<Bytes>>> + 'a>>;

/// A reply's body that comes piece by piece, such as from a file; hung into [`Context::body_source`].
pub trait BodySource {
    fn next(&mut self) -> Piece<'_>;
}
