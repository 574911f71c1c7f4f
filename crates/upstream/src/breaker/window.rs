//! Requests and failures of a sliding window of time, as a ring of slices; counted by all workers without a lock.
//!
//! The surprise: it slides by slices of a tenth, so that between nine and ten tenths of the time are looked at. A slice
//! is one word with its number and both counts, so that threads which begin it anew at the same moment lose nothing.
use std::sync::atomic::{AtomicU64, Ordering};

/// Slices of the window.
pub const SLICES: usize = 10;
/// Bits of a count; counts stop at their maximum.
const COUNT: u32 = 20;
const MAX: u64 = (1 << COUNT) - 1;
/// Low bits of a slice's number.
const NUMBER: u64 = (1 << (64 - 2 * COUNT)) - 1;

/// What a window holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub requests: u64,
    pub failures: u64,
}

impl Tally {
    /// Failures per request.
    pub fn ratio(self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.failures as f64 / self.requests as f64 }
    }
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Window {
    slices: [AtomicU64; SLICES],
}

fn unpack(word: u64) -> (u64, u64, u64) {
    (word >> (2 * COUNT), word >> COUNT & MAX, word & MAX)
}

fn pack(number: u64, requests: u64, failures: u64) -> u64 {
    (number & NUMBER) << (2 * COUNT) | requests.min(MAX) << COUNT | failures.min(MAX)
}

/// The number of the slice at this time.
fn slice(now_ms: u64, length_ms: u64) -> u64 {
    now_ms / (length_ms / SLICES as u64).max(1)
}

impl Window {
    /// Counts a request.
    #[inline]
    pub fn count(&self, failed: bool, now_ms: u64, length_ms: u64) {
        let number = slice(now_ms, length_ms);
        let Some(place) = self.slices.get((number % SLICES as u64) as usize) else { return };
        let mut word = place.load(Ordering::Relaxed);
        loop {
            let (old, requests, failures) = unpack(word);
            // clocks of workers differ by a tick: a slice that just ended takes a late result, an older one is left alone
            let behind = old.wrapping_sub(number) & NUMBER;
            let (requests, failures) = match behind {
                0 => (requests, failures),
                1..=10 if word != 0 => return,
                _ => (0, 0),
            };
            let next = pack(number, requests + 1, failures + u64::from(failed));
            match place.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// What the window that ends now holds.
    pub fn tally(&self, now_ms: u64, length_ms: u64) -> Tally {
        let number = slice(now_ms, length_ms);
        let mut tally = Tally::default();
        for place in &self.slices {
            let (of, requests, failures) = unpack(place.load(Ordering::Relaxed));
            if number.wrapping_sub(of) & NUMBER < SLICES as u64 {
                tally.requests += requests;
                tally.failures += failures;
            }
        }
        tally
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.slices.iter().for_each(|place| place.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_slides() {
        let (window, length, start) = (Window::default(), 1_000, 1_700_000_000_000);
        window.count(true, start, length);
        window.count(false, start + 500, length);
        assert_eq!(window.tally(start + 500, length), Tally { requests: 2, failures: 1 });
        assert_eq!(window.tally(start + 999, length), Tally { requests: 2, failures: 1 });
        assert_eq!(window.tally(start + 1_000, length), Tally { requests: 1, failures: 0 });
        assert_eq!(window.tally(start + 1_500, length), Tally::default());
        window.count(true, start + 10_000, length);
        assert_eq!(window.tally(start + 10_000, length), Tally { requests: 1, failures: 1 });
        window.clear();
        assert_eq!(window.tally(start + 10_000, length).ratio(), 0.0);
    }

    #[test]
    fn a_count_stops_at_its_maximum() {
        let window = Window::default();
        window.slices.iter().for_each(|place| place.store(pack(slice(5_000, 1_000), MAX, MAX), Ordering::Relaxed));
        window.count(true, 5_000, 1_000);
        assert_eq!(unpack(window.slices[0].load(Ordering::Relaxed)), (50, MAX, MAX));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn it_holds_what_is_younger_than_nine_tenths_and_nothing_older_than_ten(
            steps in prop::collection::vec((0u64..700, any::<bool>()), 1..60), length in 10u64..2_000,
        ) {
            let (window, mut now, mut all) = (Window::default(), 1_700_000_000_000u64, Vec::new());
            for (step, failed) in steps {
                now += step;
                window.count(failed, now, length);
                all.push((now, failed));
                let part = length / 10;
                let within = |age: u64| all.iter().filter(|(at, _)| now - at < age).count() as u64;
                let tally = window.tally(now, length);
                prop_assert!(tally.requests >= within(9 * part.max(1)), "{tally:?}");
                prop_assert!(tally.requests <= within(10 * part.max(1)), "{tally:?}");
                prop_assert!(tally.failures <= tally.requests);
            }
        }
    }
}
