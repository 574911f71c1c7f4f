//! Decisions after a failure.
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
        wait: Duration::ZERO,
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
    let policy = |seconds| RetryPolicy { retry_timeout: Duration::from_secs(seconds), ..RetryPolicy::default() };
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
