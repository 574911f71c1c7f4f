//! What live traffic tells of a node, and what sending it one more request is taken to cost: for `p2c` and `adaptive`.
//!
//! The surprise: an average does not fade by itself while requests are under way, and an idle one fades slowly. A slow node
//! is therefore found well again by single requests (see [`prefer`]), never by a crowd that an average forgotten lets in.
//! Each average shares a word with the time of its last change, as in [`crate::ewma`].
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::endpoint::NodeState;

/// A sample counts at least this much; more where the one before is long ago.
const LEAST_SHARE: f32 = 1.0 / 16.0;
/// A sample above the average: bad news counts twice.
const RISING_SHARE: f32 = 1.0 / 8.0;
/// A single sample is taken as at most so many times the average, so that one outlier does not put a node out.
const MOST_RISE: f32 = 8.0;
/// After this many milliseconds without a sample the next one counts for half.
const HALF_NEW_MS: f32 = 3_000.0;
/// After this many milliseconds without any request half of the average is forgotten.
const FADE_MS: f32 = 30_000.0;
/// Differences below this many milliseconds are noise.
const NOISE_MS: f32 = 0.25;
/// How much a failing node is avoided: one that always fails costs so many times more, and once.
const ERROR_COST: f32 = 20.0;
/// A reported load holds this many milliseconds.
const REPORT_MS: u32 = 10_000;
/// The most that one cost may be above another; its fourth power is how rarely the worst node is tried: 1 in 626.
pub(crate) const MOST_RATIO: f32 = 5.0;

/// Averages of one node.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// Milliseconds until the response's head.
    latency: AtomicU64,
    /// Share of attempts that failed, 0 to 1.
    errors: AtomicU64,
    /// The last report, 0 (idle) to 1 (full).
    load: AtomicU64,
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

/// 0 is "never": a touched word differs from it.
fn pack(value: f32, now: u32) -> u64 {
    u64::from(value.max(f32::MIN_POSITIVE).to_bits()) << 32 | u64::from(now)
}

/// Milliseconds passed; a clock that went back counts as none.
fn passed(touched: u32, now: u32) -> u32 {
    (now.wrapping_sub(touched) as i32).max(0) as u32
}

/// How much a new sample counts.
fn share(touched: u32, now: u32) -> f32 {
    let passed = passed(touched, now) as f32;
    (passed / (passed + HALF_NEW_MS)).max(LEAST_SHARE)
}

impl Measured {
    /// Takes in a latency. The first one counts in full. `only_rising`: of an answer that says nothing good about the node.
    pub(crate) fn latency(&self, latency: Duration, now_ms: u64, only_rising: bool) {
        let (sample, now) = (latency.as_secs_f32() * 1000.0, now_ms as u32);
        let _ = self.latency.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
            let (average, touched) = unpack(bits);
            let next = if bits == 0 {
                sample
            } else if sample > average {
                let sample = sample.min((average + NOISE_MS) * MOST_RISE);
                average + (sample - average) * share(touched, now).max(RISING_SHARE)
            } else if only_rising {
                average
            } else {
                average + (sample - average) * share(touched, now)
            };
            Some(pack(next, now))
        });
    }

    /// Takes in whether an attempt failed.
    pub(crate) fn attempt(&self, failed: bool, now_ms: u64) {
        // mostly nothing ever failed, and nothing has to be written
        if !failed && self.errors.load(Ordering::Relaxed) == 0 {
            return;
        }
        let (sample, now) = (f32::from(u8::from(failed)), now_ms as u32);
        let _ = self.errors.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
            let (average, touched) = unpack(bits);
            // a first failure is one of several, not the whole truth
            let share = if failed { LEAST_SHARE } else { share(touched, now) };
            let next = average + (sample - average) * share;
            Some(if next < 0.001 { 0 } else { pack(next, now) })
        });
    }

    /// Takes in what the node says of itself, 0 to 1.
    pub(crate) fn report(&self, load: f32, now_ms: u64) {
        self.load.store(pack(load.clamp(0.0, 1.0), now_ms as u32), Ordering::Relaxed);
    }

    /// Average latency in milliseconds, for status pages; `None` before the first.
    pub(crate) fn latency_ms(&self) -> Option<f32> {
        let bits = self.latency.load(Ordering::Relaxed);
        (bits != 0).then(|| unpack(bits).0)
    }

    /// Share of failures, for status pages.
    pub(crate) fn error_rate(&self) -> f32 {
        unpack(self.errors.load(Ordering::Relaxed)).0
    }

    /// The report that still holds.
    pub(crate) fn reported(&self, now_ms: u64) -> Option<f32> {
        let bits = self.load.load(Ordering::Relaxed);
        let (load, touched) = unpack(bits);
        (bits != 0 && passed(touched, now_ms as u32) < REPORT_MS).then_some(load)
    }
}

/// What one more request is taken to cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    /// Milliseconds; 0 while none was measured.
    pub latency: f32,
    /// All that multiplies it.
    pub factor: f32,
}

impl Cost {
    /// `inverse`: mean weight of the node's neighbours over its own, so that a light node is full sooner.
    #[inline]
    pub(crate) fn of(state: &NodeState, inverse: f32, now_ms: u64) -> Cost {
        let active = state.active();
        let now = now_ms as u32;
        let measured = &state.measured;
        let mut factor = 1.0 + active as f32 * inverse;
        let mut latency = 0.0;
        let bits = measured.latency.load(Ordering::Relaxed);
        // what is under way will tell; until then nothing is forgotten
        let fading = |touched| if active == 0 { 1.0 + passed(touched, now) as f32 / FADE_MS } else { 1.0 };
        if bits != 0 {
            let (average, touched) = unpack(bits);
            latency = average / fading(touched) + NOISE_MS;
        }
        let bits = measured.errors.load(Ordering::Relaxed);
        if bits != 0 {
            let (rate, touched) = unpack(bits);
            factor *= 1.0 + ERROR_COST * rate / fading(touched);
        }
        if let Some(load) = measured.reported(now_ms) {
            // as a queue's waiting time grows with its utilisation
            factor /= 1.05 - load;
        }
        Cost { latency, factor }
    }

    /// `assumed` stands for a latency that was never measured.
    #[inline]
    pub(crate) fn total(self, assumed: f32) -> f32 {
        self.factor * if self.latency > 0.0 { self.latency } else { assumed }
    }
}

/// The lower of two measured latencies; 1 where neither was.
#[inline]
pub(crate) fn lower(a: f32, b: f32) -> f32 {
    match (a > 0.0, b > 0.0) {
        (true, true) => a.min(b),
        (true, false) => a,
        (false, true) => b,
        (false, false) => 1.0,
    }
}

/// How much a node is preferred that costs `ratio` times as much as the cheapest: its inverse to the fourth. Nearly equal
/// nodes share nearly equally, one twice as dear gets 1 of 17, and the dearest still gets the rare request that finds it well.
#[inline]
pub(crate) fn prefer(ratio: f32) -> f32 {
    let square = ratio.min(MOST_RATIO) * ratio.min(MOST_RATIO);
    1.0 / (square * square)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn slowness_is_believed_soon_and_one_outlier_is_not() {
        let measured = Measured::default();
        measured.latency(ms(5), 1000, false);
        assert_eq!(measured.latency_ms(), Some(5.0));
        measured.latency(ms(5000), 1001, false);
        let after_one = measured.latency_ms().unwrap();
        assert!(after_one < 11.0, "{after_one}");
        for step in 0..6 {
            measured.latency(ms(100), 1002 + step, false);
        }
        assert!(measured.latency_ms().unwrap() > 50.0);
    }

    #[test]
    fn a_probe_after_a_while_counts_more() {
        let (busy, idle) = (Measured::default(), Measured::default());
        busy.latency(ms(100), 1000, false);
        idle.latency(ms(100), 1000, false);
        busy.latency(ms(5), 1005, false);
        idle.latency(ms(5), 4000, false);
        assert!(busy.latency_ms().unwrap() > 90.0);
        assert!(idle.latency_ms().unwrap() < 60.0);
        // an error's answer may be fast without the node being so
        let before = idle.latency_ms();
        idle.latency(ms(1), 9000, true);
        assert_eq!(idle.latency_ms(), before);
    }

    #[test]
    fn averages_fade_only_while_nothing_is_under_way() {
        let state = NodeState::default();
        state.measured.latency(ms(100), 0, false);
        let at = |now| Cost::of(&state, 1.0, now).total(1.0);
        assert!((at(0) - 100.25).abs() < 0.01);
        assert!((at(30_000) - 50.25).abs() < 0.01);
        state.enter();
        assert!((at(30_000) - 200.5).abs() < 0.01);
    }

    #[test]
    fn failures_cost_and_are_forgiven() {
        let state = NodeState::default();
        state.measured.latency(ms(1), 0, false);
        let cost = || Cost::of(&state, 1.0, 1).total(1.0);
        let fine = cost();
        state.measured.attempt(true, 0);
        assert!((2.0..2.5).contains(&(cost() / fine)));
        for _ in 0..20 {
            state.measured.attempt(true, 0);
        }
        assert!(cost() / fine > MOST_RATIO);
        for _ in 0..200 {
            state.measured.attempt(false, 1);
        }
        assert!((cost() - fine).abs() < 0.1 && state.measured.error_rate() == 0.0);
    }

    #[test]
    fn reports_hold_ten_seconds() {
        let state = NodeState::default();
        state.measured.report(0.8, 0);
        assert_eq!(state.measured.reported(9_999), Some(0.8));
        assert!((Cost::of(&state, 1.0, 1).factor - 4.0).abs() < 0.01);
        assert_eq!(state.measured.reported(10_000), None);
        assert_eq!(Cost::of(&state, 1.0, 10_000).factor, 1.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn costs_are_finite_and_positive(
            samples in prop::collection::vec((0u64..600_000, 0u64..100_000, any::<bool>()), 0..40),
            active in 0u32..50,
            now in any::<u64>(),
        ) {
            let state = NodeState::default();
            for (latency, at, failed) in samples {
                state.measured.latency(ms(latency), at, failed);
                state.measured.attempt(failed, at);
                state.measured.report(latency as f32 / 1000.0, at);
            }
            (0..active).for_each(|_| state.enter());
            let cost = Cost::of(&state, 1.0, now).total(1.0);
            prop_assert!(cost.is_finite() && cost > 0.0, "{cost}");
            prop_assert!(state.measured.error_rate() <= 1.0);
        }
    }
}
