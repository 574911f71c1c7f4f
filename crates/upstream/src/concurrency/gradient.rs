//! The limit that follows latency: it shrinks while answers take longer than they did, grows while they do not. Pure.
//!
//! As Gradient2 of Netflix' concurrency-limits: the gradient is the long average of latency over the present one, and some
//! requests beyond it are let pass so that it can grow. The surprise: samples are taken together for a short while and judged
//! once, as Envoy's adaptive concurrency does it; one slow answer among many changes little.
use std::time::Duration;

/// How it moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gradient {
    pub min_limit: u32,
    pub max_limit: u32,
    /// How many times its usual value latency may be before the limit shrinks; at least 1.
    pub tolerance: f64,
    /// The part of the way to a new limit that is gone at once; 0 to 1.
    pub smoothing: f64,
    /// Requests that may wait at the upstream beyond what it needs: what lets the limit grow.
    pub headroom: u32,
    /// How long samples are gathered before they are judged.
    pub window: Duration,
}

impl Default for Gradient {
    fn default() -> Gradient {
        Gradient {
            min_limit: 4,
            max_limit: 1000,
            tolerance: 1.5,
            smoothing: 0.2,
            headroom: 4,
            window: Duration::from_millis(100),
        }
    }
}

/// Judgements after which the long average stops being a plain mean.
const WARM_UP: u32 = 10;
/// Weight of a judgement in the long average: as an average of so many.
const LONG: f64 = 600.0;

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub limit: f64,
    /// The long average of latency, seconds; 0 before the first judgement.
    pub long: f64,
    /// Judgements, up to [`WARM_UP`].
    pub seen: u32,
}

impl Estimate {
    pub fn new(limit: u32) -> Estimate {
        Estimate { limit: f64::from(limit), long: 0.0, seen: 0 }
    }
}

impl Gradient {
    /// Judges a window: its mean latency, and the most requests that were under way in it.
    pub fn judge(&self, before: Estimate, latency: Duration, most_in_flight: u32) -> Estimate {
        // a clock of whole microseconds may say 0
        let short = latency.as_secs_f64().max(1e-6);
        let seen = before.seen.saturating_add(1).min(WARM_UP + 1);
        let mut long = if seen <= WARM_UP {
            before.long + (short - before.long) / f64::from(seen)
        } else {
            before.long + (short - before.long) * 2.0 / (LONG + 1.0)
        };
        // latency fell to half of what is usual: what is usual is forgotten faster
        if long / short > 2.0 {
            long *= 0.95;
        }
        let bounds = |limit: f64| {
            let (min, max) = (f64::from(self.min_limit.max(1)), f64::from(self.max_limit.max(self.min_limit).max(1)));
            if limit.is_finite() { limit.clamp(min, max) } else { min }
        };
        let limit = bounds(before.limit);
        // who uses less than half of the limit tells nothing about it
        if f64::from(most_in_flight) < limit / 2.0 {
            return Estimate { limit, long, seen };
        }
        let gradient = (self.tolerance.max(1.0) * long / short).clamp(0.5, 1.0);
        let target = limit * gradient + f64::from(self.headroom);
        let smoothing = self.smoothing.clamp(0.0, 1.0);
        Estimate { limit: bounds(limit * (1.0 - smoothing) + target * smoothing), long, seen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAST: Duration = Duration::from_millis(10);

    fn run(gradient: &Gradient, from: Estimate, latency: Duration, times: u32) -> Estimate {
        (0..times).fold(from, |estimate, _| gradient.judge(estimate, latency, estimate.limit as u32))
    }

    #[test]
    fn it_grows_while_latency_is_steady() {
        let gradient = Gradient::default();
        let grown = run(&gradient, Estimate::new(10), FAST, 100);
        assert!((85.0..95.0).contains(&grown.limit), "{grown:?}");
        assert!((0.009..0.011).contains(&grown.long));
        let most = run(&gradient, Estimate::new(10), FAST, 10_000);
        assert_eq!(most.limit, 1000.0);
    }

    #[test]
    fn it_shrinks_while_latency_is_higher_than_usual_and_comes_back() {
        let gradient = Gradient::default();
        let usual = run(&gradient, Estimate::new(10), FAST, 300);
        let slow = run(&gradient, usual, 10 * FAST, 30);
        assert!(slow.limit < usual.limit / 3.0, "{usual:?} {slow:?}");
        let again = run(&gradient, slow, FAST, 300);
        assert!(again.limit > usual.limit / 2.0, "{again:?}");
    }

    #[test]
    fn who_does_not_use_the_limit_does_not_move_it() {
        let (gradient, start) = (Gradient::default(), Estimate::new(100));
        let idle = gradient.judge(start, FAST, 49);
        assert_eq!(idle.limit, 100.0);
        assert!(gradient.judge(start, FAST, 50).limit > 100.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn it_stays_within_its_bounds(
            samples in prop::collection::vec((0u64..100_000_000, 0u32..10_000), 1..200),
            min in 1u32..50, span in 0u32..500, tolerance in 1.0f64..5.0, smoothing in 0.0f64..=1.0, start in 0u32..2_000,
        ) {
            let gradient = Gradient { min_limit: min, max_limit: min + span, tolerance, smoothing, ..Gradient::default() };
            let mut estimate = Estimate::new(start);
            for (latency, most) in samples {
                estimate = gradient.judge(estimate, Duration::from_micros(latency), most);
                prop_assert!(estimate.limit >= f64::from(min) && estimate.limit <= f64::from(min + span));
                prop_assert!(estimate.long.is_finite() && estimate.long > 0.0);
            }
        }

        #[test]
        fn more_latency_never_means_more_limit(a in 1u64..10_000_000, b in 1u64..10_000_000, limit in 4u32..500) {
            let gradient = Gradient::default();
            let usual = run(&gradient, Estimate::new(limit), FAST, 20);
            let judged = |us| gradient.judge(usual, Duration::from_micros(us), 1_000).limit;
            prop_assert!(judged(a.max(b)) <= judged(a.min(b)) + 1e-9);
        }
    }
}
