//! The breaker under calls in any order and from several threads.
use super::super::settings::{Ratio, StatusSet};
use super::*;
use proptest::prelude::*;
use std::sync::atomic::AtomicUsize;

const START: u64 = 1_700_000_000_000;

fn limits() -> Limits {
    Limits {
        max_failures: Some(3),
        ratio: None,
        interval: Duration::from_secs(10),
        growth: 2.0,
        max_interval: Duration::from_secs(35),
        successes: 2,
        half_open: 1,
        statuses: StatusSet::server_errors(),
        grpc: Default::default(),
    }
}

fn fail(breaker: &Arc<Breaker>, limits: &Limits, now: u64) -> Option<Transition> {
    breaker.admit(limits, now).unwrap().fail(limits, now)
}

fn succeed(breaker: &Arc<Breaker>, limits: &Limits, now: u64) -> Option<Transition> {
    breaker.admit(limits, now).unwrap().succeed(limits, now)
}

#[test]
fn a_word_holds_its_parts() {
    let word = Word { phase: Phase::HalfOpen, round: 4095, level: 63, rest: REST };
    assert_eq!(Word::unpack(word.pack()), word);
    assert_eq!(word.with_half(7, 9).half(), (7, 9));
    assert_eq!(Word::default().pack(), 0);
}

#[test]
fn failures_in_a_row_open_it() {
    let (breaker, limits) = (Arc::new(Breaker::default()), limits());
    for _ in 0..2 {
        assert_eq!(fail(&breaker, &limits, START), None);
        assert_eq!(fail(&breaker, &limits, START), None);
        assert_eq!(breaker.see(START).failures, 2);
        assert_eq!(succeed(&breaker, &limits, START), None);
    }
    fail(&breaker, &limits, START);
    fail(&breaker, &limits, START);
    assert_eq!(fail(&breaker, &limits, START), Some(Transition::Opened { cool_down: Duration::from_secs(10) }));
    let refusal = breaker.admit(&limits, START + 4_000).unwrap_err();
    assert_eq!(refusal.retry_after, Duration::from_secs(6));
    assert!(!breaker.would_admit(&limits, START + 9_999) && breaker.would_admit(&limits, START + 10_000));
    assert_eq!(breaker.totals(), [1, 0, 0, 1]);
}

#[test]
fn probes_are_limited_and_close_it() {
    let (breaker, limits) = (Arc::new(Breaker::default()), limits());
    (0..3).for_each(|_| {
        fail(&breaker, &limits, START);
    });
    let now = START + 10_000;
    let probe = breaker.admit(&limits, now).unwrap();
    assert!(probe.is_probe());
    assert_eq!(breaker.see(now).phase, Phase::HalfOpen);
    assert_eq!(breaker.admit(&limits, now).unwrap_err().retry_after, Duration::ZERO);
    drop(probe);
    assert_eq!(succeed(&breaker, &limits, now), None);
    assert_eq!((breaker.see(now).probes, breaker.see(now).successes), (0, 1));
    assert_eq!(succeed(&breaker, &limits, now), Some(Transition::Closed));
    assert_eq!(breaker.see(now), Seen::default());
    assert_eq!(breaker.totals(), [1, 1, 1, 1]);
}

#[test]
fn the_cool_down_grows_to_its_bound_and_a_recovery_ends_that() {
    let (breaker, limits) = (Arc::new(Breaker::default()), Limits { successes: 1, ..limits() });
    (0..3).for_each(|_| {
        fail(&breaker, &limits, START);
    });
    let mut now = START + 10_000;
    for seconds in [20, 35, 35] {
        assert_eq!(fail(&breaker, &limits, now), Some(Transition::Opened { cool_down: Duration::from_secs(seconds) }));
        now += seconds * 1000;
    }
    assert_eq!(succeed(&breaker, &limits, now), Some(Transition::Closed));
    (0..2).for_each(|_| {
        fail(&breaker, &limits, now);
    });
    assert_eq!(fail(&breaker, &limits, now), Some(Transition::Opened { cool_down: Duration::from_secs(10) }));
}

#[test]
fn results_of_an_earlier_round_do_not_count() {
    let (breaker, limits) = (Arc::new(Breaker::default()), Limits { successes: 1, ..limits() });
    let slow: Vec<_> = (0..4).map(|_| breaker.admit(&limits, START).unwrap()).collect();
    (0..3).for_each(|_| {
        fail(&breaker, &limits, START);
    });
    let probe = breaker.admit(&limits, START + 10_000).unwrap();
    let mut slow = slow.into_iter();
    assert_eq!(slow.next().unwrap().succeed(&limits, START), None);
    assert_eq!(slow.next().unwrap().fail(&limits, START), None);
    assert_eq!(breaker.see(START).phase, Phase::HalfOpen);
    assert_eq!(probe.succeed(&limits, START + 10_000), Some(Transition::Closed));
    slow.for_each(|permit| assert_eq!(permit.fail(&limits, START + 10_000), None));
    assert_eq!(breaker.see(START).failures, 0);
}

#[test]
fn a_share_of_failures_opens_it() {
    let ratio = Ratio { share: 0.5, window: Duration::from_secs(10), min_requests: 10 };
    let (breaker, limits) =
        (Arc::new(Breaker::default()), Limits { max_failures: None, ratio: Some(ratio), ..limits() });
    for second in 0..4 {
        assert_eq!(succeed(&breaker, &limits, START + second * 1000), None);
        assert_eq!(fail(&breaker, &limits, START + second * 1000), None);
    }
    assert_eq!(fail(&breaker, &limits, START + 5_000), None, "9 requests");
    assert!(matches!(fail(&breaker, &limits, START + 5_000), Some(Transition::Opened { .. })));
    assert_eq!(breaker.tally(&limits, START + 5_000).unwrap(), Tally::default(), "begun anew");

    let calm = Arc::new(Breaker::default());
    (0..9).for_each(|_| {
        fail(&calm, &limits, START);
    });
    assert_eq!(fail(&calm, &limits, START + 11_000), None, "the window slid");
}

/// What a caller does next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Admit,
    Succeed(usize),
    Fail(usize),
    Abandon(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Admit),
        2 => (0usize..8).prop_map(Step::Succeed),
        2 => (0usize..8).prop_map(Step::Fail),
        1 => (0usize..8).prop_map(Step::Abandon),
        2 => (0u64..20_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn however_calls_interleave(
        steps in prop::collection::vec(step(), 1..200), half_open in 1u32..4, successes in 1u32..5, max in 1u32..5,
        growth in 1.0f64..3.0,
    ) {
        let limits = Limits { max_failures: Some(max), half_open, successes, growth, ..limits() };
        let breaker = Arc::new(Breaker::default());
        let (mut now, mut flying, mut until) = (START, Vec::new(), 0u64);
        for step in steps {
            let done = match step {
                Step::Wait(ms) => { now += ms; None }
                Step::Admit => {
                    match breaker.admit(&limits, now) {
                        Ok(permit) => {
                            prop_assert!(now >= until, "open, and the cool-down is not over");
                            flying.push(permit);
                        }
                        Err(refusal) => {
                            prop_assert!(breaker.see(now).phase != Phase::Closed);
                            prop_assert!(refusal.retry_after <= limits.max_interval);
                        }
                    }
                    None
                }
                Step::Succeed(at) if at < flying.len() => flying.swap_remove(at).succeed(&limits, now),
                Step::Fail(at) if at < flying.len() => flying.swap_remove(at).fail(&limits, now),
                Step::Abandon(at) if at < flying.len() => { flying.swap_remove(at); None }
                _ => None,
            };
            if let Some(Transition::Opened { cool_down }) = done {
                prop_assert!(cool_down >= limits.interval && cool_down <= limits.max_interval);
                until = now + ms(cool_down);
            }
            let seen = breaker.see(now);
            if seen.phase == Phase::HalfOpen {
                let round = Word::unpack(breaker.word.load(Ordering::Acquire)).round;
                let probes = flying.iter().filter(|permit| permit.probe && permit.round == round).count() as u64;
                prop_assert_eq!(seen.probes, probes);
                prop_assert!(seen.probes <= u64::from(half_open));
                prop_assert!(seen.successes < u64::from(successes));
            }
            if seen.phase == Phase::Closed {
                prop_assert!(seen.failures < u64::from(max));
            }
        }
        // whatever is left behind, it always recovers
        drop(flying);
        now += ms(limits.max_interval);
        for _ in 0..successes {
            succeed(&breaker, &limits, now);
        }
        prop_assert_eq!(breaker.see(now).phase, Phase::Closed);
    }
}

#[test]
fn threads_never_have_more_probes_in_flight_than_allowed() {
    for half_open in 1..4 {
        let limits = Limits { half_open, successes: 1_000_000, ..limits() };
        let breaker = Arc::new(Breaker::default());
        (0..3).for_each(|_| {
            fail(&breaker, &limits, START);
        });
        let (flying, most, passed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (breaker, limits) = (&breaker, &limits);
                let (flying, most, passed) = (&flying, &most, &passed);
                scope.spawn(move || {
                    for turn in 0..2_000 {
                        let Ok(permit) = breaker.admit(limits, START + 10_000) else { continue };
                        most.fetch_max(flying.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        passed.fetch_add(1, Ordering::Relaxed);
                        if turn % 64 == 0 {
                            std::thread::yield_now();
                        }
                        flying.fetch_sub(1, Ordering::SeqCst);
                        if (turn + thread) % 3 == 0 {
                            drop(permit);
                        } else {
                            permit.succeed(limits, START + 10_000);
                        }
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= half_open as usize);
        assert!(passed.load(Ordering::SeqCst) > 0);
        assert_eq!(breaker.see(START).probes, 0, "every place was given back");
    }
}
