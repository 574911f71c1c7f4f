//! Whether a failed attempt may go to another node: nginx's `proxy_next_upstream error timeout` with APISIX's
//! `retries` and `retry_timeout`, and what an upstream's `retry_on`, `retry_backoff` and `retry_budget` add.
//!
//! The surprise: a connection of the pool that was found closed costs no try, as in nginx (`peer.cached`), but a POST
//! already sent on it is still not sent twice. A malformed response head is not an "error" in nginx's sense and is not
//! retried; once the response's head went to the client, nothing is.
mod backoff;
mod budget;
mod conditions;

use std::time::Duration;

pub use backoff::Backoff;
pub use budget::{Budget, BudgetWindow};
pub use conditions::{BadCondition, RetryOn};

/// Who failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureSource {
    Upstream,
    /// The client went away or sent a broken body.
    Downstream,
    /// This gateway: a limit, no file descriptor, a bug.
    Internal,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No connection: refused, unreachable.
    Connect,
    /// The TLS handshake with the node.
    Tls,
    /// Connecting, sending or waiting for the response head took too long.
    Timeout,
    /// Reset while sending or before the response head was whole.
    Reset,
    /// Closed before the response head was whole.
    Closed,
    /// A response head that is no HTTP or breaks a limit.
    BadResponse,
    /// The node said that it has done nothing with the request (HTTP/2: `REFUSED_STREAM`, or beyond what `GOAWAY` names).
    Refused,
    /// A call that ended with this status of gRPC before anything of it was passed on.
    Grpc(u8),
    /// An answer whose status is none to pass on while another node may have a better one.
    Status(u16),
    /// No node to choose: none configured, none resolved, or all tried.
    NoNode,
    Other,
}

/// A failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub source: FailureSource,
    pub kind: FailureKind,
    /// Whether any byte of the request may have reached the node.
    pub sent_bytes: bool,
}

impl Failure {
    /// A node's answer with a status that is to be retried.
    pub fn status_of(status: u16) -> Failure {
        Failure { source: FailureSource::Upstream, kind: FailureKind::Status(status), sent_bytes: true }
    }

    /// A call that a node ended with a status of gRPC that is to be retried.
    pub fn of_call(status: u8) -> Failure {
        Failure { source: FailureSource::Upstream, kind: FailureKind::Grpc(status), sent_bytes: true }
    }

    /// The status a client gets when no attempt is left: 504 for a time-out, the node's own, else 502.
    pub fn status(&self) -> u16 {
        match (self.source, self.kind) {
            (FailureSource::Internal, _) => 500,
            (FailureSource::Downstream, _) => 400,
            (FailureSource::Upstream, FailureKind::Timeout) => 504,
            (FailureSource::Upstream, FailureKind::Status(status)) => status,
            (FailureSource::Upstream, _) => 502,
        }
    }
}

/// Most bytes of a request's body that are kept for a retry, where `retry_body_limit` is not set.
pub const DEFAULT_BODY_LIMIT: usize = 64 * 1024;

/// What an upstream says about retries. The default is APISIX's behaviour.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// `None`: the number of nodes less one.
    pub retries: Option<u32>,
    /// Zero: no limit.
    pub retry_timeout: Duration,
    /// `retry_on`
    pub on: RetryOn,
    /// `retry_backoff`; `None`: another node is asked at once, as nginx does.
    pub backoff: Option<Backoff>,
    /// When every node was tried and `retries` allow more: begin anew, after a wait (ours), or answer 502 (APISIX's).
    pub rounds: bool,
    /// `retry_budget`
    pub budget: Option<Budget>,
    /// `retry_body_limit`: bytes of a body that is still coming which are kept to be sent again.
    pub body_limit: usize,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            retries: None,
            retry_timeout: Duration::ZERO,
            on: RetryOn::default(),
            backoff: None,
            rounds: false,
            budget: None,
            body_limit: DEFAULT_BODY_LIMIT,
        }
    }
}

/// Where the request stands after a failure.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    pub failure: Failure,
    /// Request method, upper case.
    pub method: &'a [u8],
    /// Whether the body (or that there is none) can be sent again from the start.
    pub body_replayable: bool,
    /// Whether any byte of a response has gone to the client, or the response head was taken.
    pub response_started: bool,
    /// Whether the connection came from the pool.
    pub pooled: bool,
    /// Retries already made that count.
    pub retried: u32,
    /// Configured nodes (resolved addresses) of the upstream.
    pub nodes: u32,
    /// Since the first attempt began.
    pub elapsed: Duration,
    /// How long a retry would wait first, see [`RetryPolicy::wait`].
    pub wait: Duration,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Pick again. `counts`: whether it uses up one of `retries`.
    Retry { counts: bool },
    /// Answer with [`Failure::status`].
    Stop,
    /// `retry_timeout` has passed: answer 502 whatever the failure was (apisix/balancer.lua).
    TimedOut,
}

/// nginx's list: what must not happen twice (ngx_http_upstream.c, `non_idempotent`).
pub fn is_non_idempotent(method: &[u8]) -> bool {
    matches!(method, b"POST" | b"LOCK" | b"PATCH")
}

impl RetryPolicy {
    /// How many retries an upstream of so many nodes has.
    #[inline]
    pub fn limit(&self, nodes: u32) -> u32 {
        self.retries.unwrap_or_else(|| nodes.saturating_sub(1))
    }

    /// How long to wait before retry number `retried` (from 0). `again`: no node is left that was not tried.
    pub fn wait(&self, retried: u32, again: bool, random: u64) -> Duration {
        match &self.backoff {
            Some(backoff) => backoff.wait(retried, random),
            None if again && self.rounds => Backoff::SAME_NODE.wait(retried, random),
            None => Duration::ZERO,
        }
    }

    /// Whether a request with this method may be sent again after the node may have seen it.
    #[inline]
    pub fn repeatable(&self, method: &[u8]) -> bool {
        self.on.non_idempotent || !is_non_idempotent(method)
    }

    /// Whether a body that is still coming, of so many bytes where that is known, is worth keeping while it is sent.
    /// `repeatable`: as [`RetryPolicy::repeatable`], or for another reason.
    pub fn keeps_body(&self, repeatable: bool, length: Option<u64>, retried: u32, nodes: u32, pooled: bool) -> bool {
        repeatable
            && (pooled || retried < self.limit(nodes) && self.on.after_sending())
            && length.unwrap_or(1) <= self.body_limit as u64
    }

    /// Decides. A stale pooled connection does not count, so callers must open a fresh one for that retry: then the
    /// number of attempts is bounded by twice the counted ones. The budget is asked last, by the caller.
    pub fn may_retry(&self, attempt: &Attempt<'_>) -> RetryDecision {
        let Failure { source, kind, sent_bytes } = attempt.failure;
        if source != FailureSource::Upstream || attempt.response_started {
            return RetryDecision::Stop;
        }
        // Every call of gRPC is a POST: who names a status of it says that calls which end with it may be repeated.
        let named = matches!(kind, FailureKind::Grpc(_));
        if sent_bytes && !((named || self.repeatable(attempt.method)) && attempt.body_replayable) {
            return RetryDecision::Stop;
        }
        let stale = attempt.pooled && matches!(kind, FailureKind::Reset | FailureKind::Closed | FailureKind::Refused);
        let limit = self.limit(attempt.nodes);
        if !stale && (!self.on.covers(&attempt.failure) || attempt.retried >= limit) {
            return RetryDecision::Stop;
        }
        // APISIX sets the deadline only where there are retries
        if limit > 0 && !self.retry_timeout.is_zero() && attempt.elapsed + attempt.wait > self.retry_timeout {
            return RetryDecision::TimedOut;
        }
        RetryDecision::Retry { counts: !stale }
    }
}

#[cfg(test)]
mod tests;
