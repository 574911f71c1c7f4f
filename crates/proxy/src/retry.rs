//! Whether and when a failed attempt is followed by another: the upstream's policy asked with what the exchange knows.
//!
//! The surprise: an answer is dropped only once the next attempt is certain (budget taken, deadline looked at), so that a
//! client never gets less than what the last node said.
use crate::exchange::{Exchange, Gone};
use sluice_http::h1::Framing;
use sluice_net::timer;
use sluice_plugin::Context;
use sluice_upstream::{Attempt, Failure, FailureKind, RetryDecision, Tried, Upstream};
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

/// So often a request that nodes did nothing with goes out again for nothing. A node of few streams may refuse it on a new
/// connection too, where others were faster.
const FREE_REFUSALS: u8 = 3;

/// What an exchange remembers of its attempts.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    /// Nodes that are not asked again while others are left.
    pub tried: Tried,
    /// Retries that counted.
    pub retried: u32,
    /// Nodes of the balancer in use.
    pub nodes: u32,
    /// What the next attempt waits for first.
    pub wait: Duration,
    /// The node tried last.
    last: u32,
    /// Every node was tried, and they are gone through again.
    again: bool,
    /// The connection came from the pool.
    pub pooled: bool,
    /// How often a node had done nothing with the request, and the try was not counted.
    pub refused: u8,
    /// The number of the shared connection that was used last.
    pub connection: u64,
    /// The body is kept while it is sent.
    pub keep_body: bool,
    /// How long the attempt took to connect; none for a pooled connection, `None` without one.
    pub connect_time: Option<Duration>,
}

impl Tries {
    /// This node is not asked again while others are left.
    pub fn failed(&mut self, node: u32) {
        self.last = node;
        self.tried.insert(node);
    }

    /// No node is left: allows all again, the last one not before others. False where that has been done in vain.
    pub fn begin_again(&mut self) -> bool {
        let tried = self.tried.len();
        self.tried.clear();
        if tried > 1 {
            self.tried.insert(self.last);
        }
        self.again = true;
        tried > 0
    }

    /// Another upstream is asked: its nodes have not been, and its retries are its own.
    pub fn begin_elsewhere(&mut self) {
        self.tried.clear();
        self.again = false;
        self.retried = 0;
    }
}

impl Exchange<'_> {
    /// Decides about another attempt, and counts it.
    #[cold]
    pub(crate) fn decide(&mut self, cx: &Context, upstream: &Upstream, failure: Failure) -> RetryDecision {
        let policy = &upstream.retry;
        let tries = &self.tries;
        let again = tries.again || tries.tried.len() + 1 >= tries.nodes;
        let attempt = Attempt {
            failure,
            method: cx.request.method_text().as_bytes(),
            body_replayable: self.replayable(cx),
            response_started: self.answered,
            pooled: tries.pooled || failure.kind == FailureKind::Refused && tries.refused < FREE_REFUSALS,
            retried: tries.retried,
            nodes: tries.nodes,
            elapsed: cx.started.elapsed(),
            wait: policy.wait(tries.retried, again, self.worker.random()),
        };
        let figures = &self.worker.figures.retries;
        let decision = policy.may_retry(&attempt);
        match decision {
            RetryDecision::Retry { counts: true } => {
                let limit = self.own_timeouts(upstream).request;
                if limit.is_some_and(|limit| attempt.elapsed + attempt.wait >= limit) {
                    figures.refused_deadline.inc();
                    return RetryDecision::Stop;
                }
                if policy.budget.as_ref().is_some_and(|budget| !budget.take(timer::unix_ms_coarse())) {
                    figures.refused_budget.inc();
                    return RetryDecision::Stop;
                }
                match failure.kind {
                    FailureKind::Timeout => figures.timeout.inc(),
                    FailureKind::Status(_) | FailureKind::Grpc(_) => figures.status.inc(),
                    _ => figures.connection_error.inc(),
                }
                self.tries.retried += 1;
                self.tries.wait = attempt.wait;
            }
            RetryDecision::Retry { counts: false } => {
                figures.stale.inc();
                self.tries.refused += u8::from(failure.kind == FailureKind::Refused);
            }
            RetryDecision::TimedOut => figures.refused_deadline.inc(),
            RetryDecision::Stop if !attempt.body_replayable => {
                let whole = Attempt { body_replayable: true, ..attempt };
                if matches!(policy.may_retry(&whole), RetryDecision::Retry { .. }) {
                    figures.refused_body.inc();
                }
            }
            RetryDecision::Stop => {}
        }
        decision
    }

    /// Whether the body can be sent again from its start.
    fn replayable(&self, cx: &Context) -> bool {
        cx.upstream.body.is_some() || cx.request_body.is_some() || !self.streamed
    }

    /// Whether an answer with this status is given up for another node's. The attempt is in the log already.
    #[cold]
    pub(crate) fn drops(&mut self, cx: &Context, upstream: &Upstream, status: u16) -> bool {
        matches!(self.decide(cx, upstream, Failure::status_of(status)), RetryDecision::Retry { .. })
    }

    /// The same of a call that ended with a status of gRPC.
    #[cold]
    pub(crate) fn drops_call(&mut self, cx: &Context, upstream: &Upstream, status: u8) -> bool {
        matches!(self.decide(cx, upstream, Failure::of_call(status)), RetryDecision::Retry { .. })
    }

    /// Whether to keep the body that is still coming while it is sent to the node. `refusable`: the node may say that it has done
    /// nothing with the request.
    pub(crate) fn keeps_body(&self, cx: &Context, upstream: &Upstream, refusable: bool) -> bool {
        let Tries { retried, nodes, pooled, .. } = self.tries;
        let length = match cx.request.framing {
            Framing::Length(length) => Some(length),
            _ => None,
        };
        let policy = &upstream.retry;
        let repeatable = refusable || policy.repeatable(cx.request.method_text().as_bytes());
        policy.keeps_body(repeatable, length, retried, nodes, pooled || refusable)
    }

    /// Waits before the next attempt; ends early where the client goes away.
    #[cold]
    pub(crate) async fn back_off(&mut self) -> Result<(), Gone> {
        let wait = std::mem::take(&mut self.tries.wait);
        let (client, kept) = (&mut *self.client, self.first_part);
        client.timeout.arm(wait);
        poll_fn(|task| {
            if client.is_gone(task, kept) || self.worker.drain.is_forced() {
                return Poll::Ready(Err(Gone));
            }
            client.timeout.poll(task).map(Ok)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_begin_with_another_node_and_end() {
        let mut tries = Tries::default();
        assert!(!tries.begin_again(), "nothing was tried: there is no node at all");
        (0..3).for_each(|node| tries.failed(node));
        assert!(tries.begin_again());
        assert!(tries.tried.contains(2) && tries.tried.len() == 1);
        assert!(tries.begin_again() && tries.tried.is_empty(), "others are ill: the same once more");
        assert!(!tries.begin_again());
    }
}
