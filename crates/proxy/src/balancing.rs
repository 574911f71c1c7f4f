//! What balancing beyond the pick needs of a request and its answer: the sticky cookie both ways, and the load that a node
//! reports. Surprise: both are handled before `header_filter`, so plugins see the cookie and may hide the report.
use sluice_plugin::Context;
use sluice_upstream::sticky::Token;
use sluice_upstream::{Balancer, LoadReport, Upstream};
use std::sync::Arc;

/// Of the attempt under way.
#[derive(Default)]
pub(crate) struct Balancing {
    /// `Set-Cookie` for the answer: the client has no cookie yet, or one of a node that is out.
    cookie: Option<String>,
    report: Option<Arc<LoadReport>>,
    /// What the node said, once its answer is there.
    pub load: Option<f32>,
}

impl Balancing {
    /// The node that the client's cookie names.
    #[inline]
    pub fn asked(balancer: &Balancer, cx: &Context) -> Option<Token> {
        let sticky = balancer.settings().sticky.as_ref()?;
        Token::parse(cx.request.cookie(sticky.name())?)
    }

    /// A node was chosen for the next attempt.
    #[inline]
    pub fn chosen(&mut self, upstream: &Upstream, balancer: &Balancer, index: u32, asked: Option<Token>) {
        if let Some(sticky) = &balancer.settings().sticky {
            let token = balancer.token(index);
            self.cookie = token.filter(|token| asked != Some(*token)).map(|token| sticky.set_cookie(token));
        }
        if upstream.load_report.is_some() {
            self.report.clone_from(&upstream.load_report);
        }
    }

    /// The node's final head is there.
    #[inline]
    pub fn head(&mut self, cx: &mut Context) {
        if let Some(report) = &self.report {
            self.load = cx.response.headers.get(&report.header).and_then(|value| report.read(value));
        }
        if let Some(cookie) = self.cookie.take() {
            cx.response.headers.append("Set-Cookie", cookie);
        }
    }
}
