//! Who made a response, as metrics, traces and logs tell it.
use crate::context::Context;

/// Who made the response (`get_response_source` of apisix/core/response.lua).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A plugin, or the gateway before it turned to an upstream.
    Apisix,
    /// The gateway in place of an upstream that did not answer.
    Nginx,
    Upstream,
}

impl Source {
    pub fn of(cx: &Context) -> Source {
        match cx.attempts.last() {
            None => Source::Apisix,
            Some(last) if cx.own_response || last.header_time.is_none() => Source::Nginx,
            Some(_) => Source::Upstream,
        }
    }
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Apisix => "apisix",
            Source::Nginx => "nginx",
            Source::Upstream => "upstream",
        }
    }
}
