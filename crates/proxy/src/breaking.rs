//! What stands between a request and its upstream's nodes: the concurrency limit before them, the circuit breaker around each
//! attempt, and who serves while the breaker lets nothing pass.
//!
//! The surprise: a result is told when the response's head is there, not at the body's end: an endless body would hold a probe's
//! place for ever. A place under the concurrency limit is kept to the end.
use crate::exchange::{Exchange, Gone};
use crate::rescue::{self, Trouble};
use sluice_net::timer;
use sluice_plugin::{Context, Reply};
use sluice_upstream::breaker::{BreakResponse, Breaking, Fallback, Permit, Scope, Transition};
use sluice_upstream::concurrency::{Admission, ConcurrencyLimit, Slot, Ticket};
use sluice_upstream::{Endpoint, Failure, FailureKind, FailureSource, Upstream};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Whether an attempt on a node may be made.
pub(crate) enum Gate {
    /// The permit, where something is watched, is in [`Exchange::permit`].
    Open,
    /// This node is broken; others may not be.
    Node,
    /// The upstream is.
    Shut,
}

impl Exchange<'_> {
    /// Takes a place among the upstream's requests under way, after a wait if need be. A reply is the refusal.
    pub(crate) async fn enter(&mut self, limit: &ConcurrencyLimit) -> Result<Result<Slot, Reply>, Gone> {
        match limit.enter() {
            Admission::Passed(slot) => return Ok(Ok(slot)),
            Admission::Waits(ticket) => {
                if let Some(slot) = Box::pin(self.wait(limit, ticket)).await? {
                    return Ok(Ok(slot));
                }
                limit.count_given_up();
            }
            Admission::Refused => {}
        }
        let refusal = Reply::status(limit.settings.rejected_code);
        let seconds = limit.settings.retry_after;
        Ok(Err(if seconds == 0 { refusal } else { refusal.header("Retry-After", seconds.to_string()) }))
    }

    /// Waits for a place. `None`: for too long.
    async fn wait(&mut self, limit: &ConcurrencyLimit, mut ticket: Ticket) -> Result<Option<Slot>, Gone> {
        self.waited = true;
        let (client, drain, kept) = (&mut *self.client, &self.worker.drain, self.first_part);
        client.timeout.arm(limit.settings.queue.timeout);
        poll_fn(|task| {
            if let Poll::Ready(slot) = ticket.poll(task) {
                return Poll::Ready(Ok(Some(slot)));
            }
            if client.is_gone(task, kept) || drain.is_forced() {
                return Poll::Ready(Err(Gone));
            }
            client.timeout.poll(task).map(|()| Ok(None))
        })
        .await
    }

    /// Asks the breaker for an attempt on this node.
    #[inline]
    pub(crate) fn gate(&mut self, upstream: &Upstream, endpoint: &Endpoint, now_ms: u64) -> Gate {
        let Some(breaking) = &upstream.breaking else { return Gate::Open };
        match breaking.admit(endpoint, now_ms) {
            Ok(permit) => {
                self.permit = permit;
                Gate::Open
            }
            Err(_) if breaking.scope == Scope::Node => Gate::Node,
            Err(_) => Gate::Shut,
        }
    }

    /// The head of a response is there.
    #[inline]
    pub(crate) fn heard(&mut self, upstream: &Upstream, status: u16, latency: Duration) {
        if upstream.breaking.is_none() && upstream.concurrency.is_none() {
            return;
        }
        let now_ms = timer::unix_ms_coarse();
        if let Some(limit) = &upstream.concurrency {
            limit.sample(latency, now_ms);
        }
        if let Some((permit, breaking)) = self.watched(upstream) {
            tell(upstream, breaking.answered(permit, status, self.grpc_status, now_ms));
        }
    }

    /// An attempt ended without a response.
    pub(crate) fn unheard(&mut self, upstream: &Upstream, failure: &Failure, elapsed: Duration) {
        let now_ms = timer::unix_ms_coarse();
        if let Some(limit) = &upstream.concurrency
            && failure.kind == FailureKind::Timeout
        {
            limit.sample(elapsed, now_ms);
        }
        if let Some((permit, breaking)) = self.watched(upstream)
            && failure.source == FailureSource::Upstream
        {
            tell(upstream, permit.fail(&breaking.limits, now_ms));
        }
    }

    fn watched<'u>(&mut self, upstream: &'u Upstream) -> Option<(Permit, &'u Breaking)> {
        Some((self.permit.take()?, upstream.breaking.as_deref()?))
    }

    /// Who serves instead of this upstream.
    pub(crate) fn fallback(&self, upstream: &Upstream) -> Option<Arc<Upstream>> {
        match upstream.breaking.as_ref()?.fallback.as_ref()? {
            Fallback::Inline(other) => Some(other.clone()),
            Fallback::Id(id) => {
                let other = self.snapshot.upstreams.get(id).cloned();
                if other.is_none() {
                    tracing::warn!(upstream = %upstream.key, "circuit_breaker.fallback names no upstream: {id}");
                }
                other
            }
        }
    }

    /// Counts a request that found every node broken.
    pub(crate) fn count_refused(&self, upstream: &Upstream, trouble: &Trouble) {
        if let Some(breaking) = &upstream.breaking
            && breaking.scope == Scope::Node
            && *trouble == Trouble::Broken
        {
            breaking.whole.count_refused();
        }
    }

    /// What to say where no node could be asked and nobody serves instead.
    pub(crate) fn nobody(&self, cx: &Context, upstream: &Upstream, trouble: Trouble) -> Result<Option<Reply>, Gone> {
        match &upstream.breaking {
            Some(breaking) => Ok(Some(canned(&breaking.response, cx))),
            None => rescue::reply(&trouble).map(Some).ok_or(Gone),
        }
    }
}

/// `break_response_*`.
fn canned(response: &BreakResponse, cx: &Context) -> Reply {
    let reply = match &response.body {
        Some(body) => Reply::text(response.code, body.as_bytes()),
        None => Reply::status(response.code),
    };
    let with = |reply: Reply, (name, value): &(Arc<str>, sluice_expr::Template)| {
        reply.header(name.to_string(), value.render(cx, ""))
    };
    response.headers.iter().fold(reply, with)
}

fn tell(upstream: &Upstream, transition: Option<Transition>) {
    match transition {
        None => {}
        Some(Transition::Opened { cool_down }) => {
            tracing::warn!(upstream = %upstream.key, ?cool_down, "circuit breaker opened");
        }
        Some(Transition::Closed) => tracing::warn!(upstream = %upstream.key, "circuit breaker closed"),
    }
}
