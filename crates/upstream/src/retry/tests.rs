//! Decisions after a failure.
use super::*;
use FailureKind::*;
use FailureSource::*;
use RetryDecision::*;
use proptest::prelude::*;

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
    let refused = Attempt { method: b"POST", failure: attempt(Refused, false).failure, ..stale };
    assert_eq!(decide(refused), Retry { counts: false }, "the node has done nothing with it");
    assert_eq!(decide(Attempt { pooled: false, nodes: 2, ..refused }), COUNTS);
    assert_eq!(decide(Attempt { body_replayable: false, failure: attempt(Refused, true).failure, ..refused }), Stop);
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

#[test]
fn statuses_are_retried_where_named() {
    let policy = RetryPolicy { on: RetryOn::parse(&["http_503"]).unwrap(), ..RetryPolicy::default() };
    let answer = |status| Attempt { failure: Failure::status_of(status), ..attempt(Closed, true) };
    assert_eq!(policy.may_retry(&answer(503)), COUNTS);
    assert_eq!(policy.may_retry(&answer(500)), Stop);
    assert_eq!(policy.may_retry(&Attempt { retried: 1, ..answer(503) }), Stop);
    assert_eq!(policy.may_retry(&Attempt { method: b"POST", ..answer(503) }), Stop);
    assert_eq!(policy.may_retry(&Attempt { body_replayable: false, ..answer(503) }), Stop);
    // what is not named is not retried, but a stale connection is no failure of the node
    assert_eq!(policy.may_retry(&attempt(Connect, false)), Stop);
    assert_eq!(policy.may_retry(&Attempt { pooled: true, ..attempt(Closed, true) }), Retry { counts: false });
    assert_eq!(decide(answer(503)), Stop);
    let policy = RetryPolicy { on: RetryOn::parse(&["grpc-unavailable"]).unwrap(), ..RetryPolicy::default() };
    let call = |status| Attempt { method: b"POST", failure: Failure::of_call(status), ..attempt(Closed, true) };
    assert_eq!(policy.may_retry(&call(14)), COUNTS, "a POST, as every call");
    assert_eq!(policy.may_retry(&call(13)), Stop);
    assert_eq!(policy.may_retry(&Attempt { body_replayable: false, ..call(14) }), Stop);
    assert_eq!(policy.may_retry(&Attempt { pooled: true, retried: 1, ..call(14) }), Stop);
    assert_eq!(Failure::status_of(503).status(), 503);
}

#[test]
fn non_idempotent_where_asked_for() {
    let on = RetryOn::parse(&["connection_error", "non_idempotent"]).unwrap();
    let policy = RetryPolicy { on, ..RetryPolicy::default() };
    for method in [&b"POST"[..], b"PATCH", b"LOCK"] {
        assert_eq!(policy.may_retry(&Attempt { method, ..attempt(Reset, true) }), COUNTS);
        assert_eq!(policy.may_retry(&Attempt { method, body_replayable: false, ..attempt(Reset, true) }), Stop);
    }
}

#[test]
fn a_wait_beyond_the_deadline_is_not_begun() {
    let policy = RetryPolicy { retry_timeout: Duration::from_secs(5), ..RetryPolicy::default() };
    let after = |wait| policy.may_retry(&Attempt { wait: Duration::from_secs(wait), ..attempt(Connect, false) });
    assert_eq!((after(1), after(2), after(3)), (COUNTS, COUNTS, TimedOut));
}

#[test]
fn who_waits() {
    let half = u64::MAX / 2 + 1;
    let set = Backoff { base: Duration::from_secs(2), max: Duration::from_secs(2) };
    let (plain, rounds) = (RetryPolicy::default(), RetryPolicy { rounds: true, ..RetryPolicy::default() });
    let backing_off = RetryPolicy { backoff: Some(set), rounds: true, ..RetryPolicy::default() };
    for again in [false, true] {
        assert_eq!(plain.wait(3, again, half), Duration::ZERO, "nginx asks at once");
        assert_eq!(backing_off.wait(3, again, half), Duration::from_secs(1));
    }
    assert_eq!(rounds.wait(0, false, half), Duration::ZERO);
    assert_eq!(rounds.wait(0, true, half), Duration::from_micros(12_500));
}

#[test]
fn bodies_are_kept_where_they_may_be_sent_again() {
    let policy = RetryPolicy { body_limit: 100, ..RetryPolicy::default() };
    assert!(policy.keeps_body(true, Some(100), 0, 2, false));
    assert!(policy.keeps_body(true, None, 0, 2, false));
    assert!(!policy.keeps_body(true, Some(101), 0, 2, false));
    assert!(!policy.keeps_body(false, Some(100), 0, 2, false));
    assert!(!policy.keeps_body(true, Some(100), 1, 2, false), "no retry is left");
    assert!(policy.keeps_body(true, Some(100), 1, 2, true), "a pooled connection may be stale");
    let none = RetryPolicy { body_limit: 0, ..policy.clone() };
    assert!(!none.keeps_body(true, Some(1), 0, 2, true) && !none.keeps_body(true, None, 0, 2, true));
    let never = RetryPolicy { on: RetryOn::parse::<&str>(&[]).unwrap(), ..policy };
    assert!(!never.keeps_body(true, Some(1), 0, 2, false));
}

fn kinds_of_failure() -> impl Strategy<Value = FailureKind> {
    prop_oneof![
        Just(Connect),
        Just(Tls),
        Just(Timeout),
        Just(Reset),
        Just(Closed),
        Just(BadResponse),
        (400u16..600).prop_map(Status)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A request that fails again and again: attempts are bounded, nothing is repeated that must not be, time is kept.
    #[test]
    fn requests_end(
        words in prop::sample::subsequence(vec!["timeout", "connection_error", "http_5xx", "http_404", "non_idempotent"], 0..=5),
        retries in 0u32..6,
        timeout_ms in 0u64..3000,
        post: bool,
        replayable: bool,
        failures in prop::collection::vec((kinds_of_failure(), any::<bool>(), 0u64..800, any::<u64>()), 20),
    ) {
        let on = RetryOn::parse(&words).unwrap();
        let backoff = Some(Backoff { base: Duration::from_millis(50), max: Duration::from_millis(400) });
        let retry_timeout = Duration::from_millis(timeout_ms);
        let policy = RetryPolicy { retries: Some(retries), retry_timeout, on, backoff, ..RetryPolicy::default() };
        let (mut retried, mut elapsed) = (0, Duration::ZERO);
        for (kind, sent_bytes, took, random) in failures {
            elapsed += Duration::from_millis(took);
            let wait = policy.wait(retried, false, random);
            let failure = Failure { source: Upstream, kind, sent_bytes: sent_bytes || matches!(kind, Status(_)) };
            let method: &[u8] = if post { b"POST" } else { b"PUT" };
            let now = Attempt { failure, method, body_replayable: replayable, retried, nodes: 9, elapsed, wait, ..attempt(kind, false) };
            if policy.may_retry(&now) != COUNTS {
                break;
            }
            prop_assert!(on.covers(&failure));
            prop_assert!(!failure.sent_bytes || replayable && (!post || on.non_idempotent));
            elapsed += wait;
            prop_assert!(retry_timeout.is_zero() || elapsed <= retry_timeout);
            retried += 1;
            prop_assert!(retried <= retries);
        }
    }
}
