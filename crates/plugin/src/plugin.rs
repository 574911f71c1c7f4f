//! The trait that a plugin implements, and what a hook may answer.
use crate::context::{BodyChunk, Context};
use crate::reply::Reply;
use std::future::Future;
use std::pin::Pin;

/// What a hook that waited says in the end.
#[derive(Debug)]
pub enum Outcome {
    /// Go on with the next plugin.
    Next,
    /// Answer the client; the response phases still run.
    Reply(Box<Reply>),
}

/// What a hook says.
pub enum Flow<'a> {
    /// Go on with the next plugin.
    Next,
    /// Answer the client; the response phases still run.
    Reply(Box<Reply>),
    /// Not known yet. Futures run on the worker's own thread and need not be `Send`.
    Wait(Pin<Box<dyn Future<Output = Outcome> + 'a>>),
}

impl<'a> Flow<'a> {
    /// Answers the client.
    pub fn reply(reply: Reply) -> Flow<'a> {
        Flow::Reply(Box::new(reply))
    }
    /// Waits for `future`.
    pub fn wait(future: impl Future<Output = Outcome> + 'a) -> Flow<'a> {
        Flow::Wait(Box::pin(future))
    }
}

impl From<Outcome> for Flow<'_> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Next => Flow::Next,
            Outcome::Reply(r) => Flow::Reply(r),
        }
    }
}

/// A plugin as built from one configuration. Shared by all workers, so state lives in atomics, in
/// [`crate::Shared`] (survives reloads) or, per request, in [`Context::extensions`].
///
/// Hooks run in the phases that the plugin's [`crate::Info`] names, in order of priority.
#[allow(unused_variables, reason = "the names document the hooks that do nothing here")]
pub trait Plugin: Send + Sync + 'static {
    /// Whether this request's body must be in memory before the first hook runs; asked only where
    /// [`crate::Info::request_body`] says that the plugin may read it.
    fn wants_request_body(&self, cx: &Context) -> bool {
        false
    }
    /// Before the upstream is chosen: authentication and rewriting of the request.
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        Flow::Next
    }
    /// After `rewrite` of all plugins (and of the consumer's): limits and permissions.
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        Flow::Next
    }
    /// The upstream is known, nothing was sent yet.
    fn before_proxy<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        Flow::Next
    }
    /// The response's head is known ([`Context::response`]) and may be changed. A plugin that will change the body's
    /// length removes `Content-Length` here and calls [`Context::filter_body`].
    fn header_filter(&self, cx: &mut Context) {}
    /// A piece of the response's body; called with `chunk.last` once at the end. Runs only where
    /// [`Context::filter_body`] was called by some plugin's `header_filter`, or the plugin always filters.
    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {}
    /// After the last byte. Must not block.
    fn log(&self, cx: &mut Context) {}
    /// What the plugin would look at for such a request, for `explain`: nothing runs, and consumers are not known. An object.
    fn explain(&self, cx: &Context) -> Option<serde_json::Value> {
        None
    }
}
