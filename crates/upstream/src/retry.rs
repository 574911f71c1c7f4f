//! Whether a failed attempt may go to another node: nginx's `proxy_next_upstream error timeout` with APISIX's
//! `retries` and `retry_timeout`.
//!
//! The surprise: a connection of the pool that was found closed costs no try, as in nginx (`peer.cached`), but a POST
//! already sent on it is still not sent twice. A malformed response head is not an "error" in nginx's sense and is not
//! retried; once the response head came, nothing is.
use std::time::Duration;

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
    /// The status a client gets when no attempt is left: 504 for a time-out, else 502.
    pub fn status(&self) -> u16 {
        match (self.source, self.kind) {
            (FailureSource::Internal, _) => 500,
            (FailureSource::Downstream, _) => 400,
            (FailureSource::Upstream, FailureKind::Timeout) => 504,
            (FailureSource::Upstream, _) => 502,
        }
    }
}

/// `retries` and `retry_timeout` of an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RetryPolicy {
    /// `None`: the number of nodes less one.
    pub retries: Option<u32>,
    /// Zero: no limit.
    pub retry_timeout: Duration,
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

    /// Decides. A stale pooled connection does not count, so callers must open a fresh one for that retry: then the
    /// number of attempts is bounded by twice the counted ones.
    pub fn may_retry(&self, attempt: &Attempt<'_>) -> RetryDecision {
        let Failure { source, kind, sent_bytes } = attempt.failure;
        let transient = matches!(
            kind,
            FailureKind::Connect | FailureKind::Tls | FailureKind::Timeout | FailureKind::Reset | FailureKind::Closed
        );
        if source != FailureSource::Upstream || !transient || attempt.response_started {
            return RetryDecision::Stop;
        }
        if sent_bytes && (is_non_idempotent(attempt.method) || !attempt.body_replayable) {
            return RetryDecision::Stop;
        }
        let stale = attempt.pooled && matches!(kind, FailureKind::Reset | FailureKind::Closed);
        let limit = self.limit(attempt.nodes);
        if !stale && attempt.retried >= limit {
            return RetryDecision::Stop;
        }
        // APISIX sets the deadline only where there are retries
        if limit > 0 && !self.retry_timeout.is_zero() && attempt.elapsed > self.retry_timeout {
            return RetryDecision::TimedOut;
        }
        RetryDecision::Retry { counts: !stale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureKind::*;
    use FailureSource::*;
    use RetryDecision::*;

    const COUNTS: RetryDecision = Retry { counts: true };

    fn attempt(kind: FailureKind, sent_bytes: bool) -> Attempt<'static> {
        Attempt {
            failure: Failure { source: Upstream, kind, sent_bytes },
            method: b"GET",
            body_replayable: true,
            response_started: false,
            pooled: false,
            retried: 0,
            nodes: 2,
            elapsed: Duration::from_secs(3),
        }
    }

    fn decide(attempt: Attempt<'_>) -> RetryDecision {
        RetryPolicy::default().may_retry(&attempt)
    }

    #[test]
    fn kinds() {
        for (kind, wanted) in [
            (Connect, COUNTS),
            (Tls, COUNTS),
            (Timeout, COUNTS),
            (Reset, COUNTS),
            (Closed, COUNTS),
            (BadResponse, Stop),
            (NoNode, Stop),
            (Other, Stop),
        ] {
            assert_eq!(decide(attempt(kind, true)), wanted, "{kind:?}");
        }
    }

    #[test]
    fn methods() {
        for (method, sent, wanted) in [
            (&b"POST"[..], true, Stop),
            (b"POST", false, COUNTS),
            (b"PATCH", true, Stop),
            (b"LOCK", true, Stop),
            (b"PATCH", false, COUNTS),
            (b"PUT", true, COUNTS),
            (b"DELETE", true, COUNTS),
            (b"GET", true, COUNTS),
        ] {
            let got = decide(Attempt { method, ..attempt(Reset, sent) });
            assert_eq!(got, wanted, "{} {sent}", String::from_utf8_lossy(method));
        }
    }

    #[test]
    fn not_the_nodes_fault_or_too_late() {
        for source in [Downstream, Internal] {
            let failure = Failure { source, kind: Reset, sent_bytes: false };
            assert_eq!(decide(Attempt { failure, ..attempt(Reset, false) }), Stop);
        }
        assert_eq!(decide(Attempt { response_started: true, ..attempt(Reset, true) }), Stop);
        assert_eq!(decide(Attempt { body_replayable: false, ..attempt(Reset, true) }), Stop);
        assert_eq!(decide(Attempt { body_replayable: false, ..attempt(Connect, false) }), COUNTS);
    }

    #[test]
    fn counts() {
        assert_eq!(decide(Attempt { retried: 1, ..attempt(Connect, false) }), Stop);
        assert_eq!(decide(Attempt { nodes: 1, ..attempt(Connect, false) }), Stop);
        let three = RetryPolicy { retries: Some(3), ..RetryPolicy::default() };
        assert_eq!(three.may_retry(&Attempt { retried: 2, nodes: 1, ..attempt(Connect, false) }), COUNTS);
        assert_eq!(three.may_retry(&Attempt { retried: 3, nodes: 9, ..attempt(Connect, false) }), Stop);
        let never = RetryPolicy { retries: Some(0), ..RetryPolicy::default() };
        assert_eq!(never.may_retry(&attempt(Connect, false)), Stop);
    }

    #[test]
    fn a_stale_pooled_connection_costs_no_try() {
        let stale = Attempt { pooled: true, nodes: 1, ..attempt(Closed, true) };
        assert_eq!(decide(stale), Retry { counts: false });
        assert_eq!(decide(Attempt { method: b"POST", ..stale }), Stop);
        assert_eq!(decide(Attempt { failure: attempt(Timeout, true).failure, ..stale }), Stop);
    }

    #[test]
    fn retry_timeout() {
        let policy = |seconds| RetryPolicy { retries: None, retry_timeout: Duration::from_secs(seconds) };
        assert_eq!(policy(2).may_retry(&attempt(Connect, false)), TimedOut);
        assert_eq!(policy(3).may_retry(&attempt(Connect, false)), COUNTS);
        assert_eq!(policy(0).may_retry(&attempt(Connect, false)), COUNTS);
    }

    #[test]
    fn statuses() {
        assert_eq!(attempt(Timeout, false).failure.status(), 504);
        assert_eq!(attempt(Closed, false).failure.status(), 502);
        assert_eq!(Failure { source: Internal, kind: Other, sent_bytes: false }.status(), 500);
    }
}
