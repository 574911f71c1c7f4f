//! `retry_budget` of an upstream: retries may be a share of the requests, so that nodes that are down do not get a multiple
//! of their load when they come back.
//!
//! The surprise: what counts is a window of ten seconds, not the requests under way (Envoy's way): where nodes refuse
//! connections at once hardly anything is under way, and every retry would pass. Within the window retries may be the larger
//! of the share and the floor, so that a quiet upstream is retried as if there were no budget.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Length of the window.
const SECONDS: u64 = 10;

/// A budget's settings and what it has counted.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Retries per thousand requests.
    pub per_mille: u32,
    /// Retries per second that are always allowed.
    pub min_per_second: u32,
    /// Shared by all workers and all forms of the upstream, see [`crate::NodeStates::budget`].
    pub window: Arc<BudgetWindow>,
}

impl Budget {
    /// Counts a request; once, however often it is retried.
    #[inline]
    pub fn request(&self, now_ms: u64) {
        self.window.add(now_ms / 1000, |slot| Slot { requests: slot.requests.saturating_add(1).min(COUNT), ..slot });
    }

    /// Takes a retry out of the budget; false where nothing is left.
    pub fn take(&self, now_ms: u64) -> bool {
        let second = now_ms / 1000;
        // Counted first and taken back: of workers that ask at once none sees the other's retry missing.
        self.window.add(second, |slot| Slot { retries: slot.retries.saturating_add(1).min(COUNT), ..slot });
        let (requests, retries) = self.window.sums(second);
        let allowed = (requests * u64::from(self.per_mille) / 1000).max(u64::from(self.min_per_second) * SECONDS);
        if retries <= allowed {
            return true;
        }
        self.window.add(second, |slot| Slot { retries: slot.retries.saturating_sub(1), ..slot });
        false
    }
}

/// Requests and retries of the last ten seconds.
#[derive(Debug, Default)]
pub struct BudgetWindow {
    slots: [AtomicU64; SECONDS as usize],
}

impl BudgetWindow {
    fn add(&self, second: u64, change: impl Fn(Slot) -> Slot) {
        if let Some(word) = self.slots.get((second % SECONDS) as usize) {
            let next = |word| Some(change(Slot::unpack(word).at(second)).pack());
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        }
    }

    fn sums(&self, second: u64) -> (u64, u64) {
        self.slots.iter().fold((0, 0), |(requests, retries), word| {
            let slot = Slot::unpack(word.load(Ordering::Acquire));
            if slot.age(second) < SECONDS {
                (requests + slot.requests, retries + slot.retries)
            } else {
                (requests, retries)
            }
        })
    }

    /// Requests and retries of the ten seconds up to now.
    pub fn counts(&self, now_ms: u64) -> (u64, u64) {
        self.sums(now_ms / 1000)
    }
}

/// What one second saw. As a word: second (20 bits), requests (22), retries (22).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    /// Modulo 2^20.
    second: u64,
    requests: u64,
    retries: u64,
}

const SECOND: u64 = (1 << 20) - 1;
const COUNT: u64 = (1 << 22) - 1;

impl Slot {
    fn pack(self) -> u64 {
        self.second << 44 | self.requests << 22 | self.retries
    }

    fn unpack(word: u64) -> Slot {
        Slot { second: word >> 44, requests: word >> 22 & COUNT, retries: word & COUNT }
    }

    /// The slot for this second: emptied where it was another's.
    fn at(self, second: u64) -> Slot {
        if self.age(second) == 0 { self } else { Slot { second: second & SECOND, requests: 0, retries: 0 } }
    }

    /// Seconds since its own; large for one from the future, as after a clock was set back.
    fn age(self, second: u64) -> u64 {
        (second & SECOND).wrapping_sub(self.second) & SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn budget(percent: u32, min_per_second: u32) -> Budget {
        Budget { per_mille: percent * 10, min_per_second, window: Arc::default() }
    }

    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn a_quiet_upstream_has_its_floor() {
        let budget = budget(20, 1);
        budget.request(NOW);
        assert_eq!((0..50).filter(|_| budget.take(NOW)).count(), 10);
        assert!(!budget.take(NOW + 9_999));
        assert!(budget.take(NOW + 10_000), "the first second has left the window");
    }

    #[test]
    fn a_busy_one_has_its_share() {
        let budget = budget(20, 1);
        (0..1000).for_each(|_| budget.request(NOW));
        assert_eq!((0..1000).filter(|_| budget.take(NOW)).count(), 200);
        assert_eq!(budget.window.counts(NOW), (1000, 200));
        assert_eq!(budget.window.counts(NOW + 20_000), (0, 0));
    }

    #[test]
    fn a_clock_set_back_forgets() {
        let budget = budget(0, 1);
        assert_eq!((0..50).filter(|_| budget.take(NOW)).count(), 10);
        assert!(budget.take(NOW - 60_000));
    }

    #[test]
    fn workers_together_do_not_overdraw() {
        let budget = budget(10, 0);
        (0..1000).for_each(|_| budget.request(NOW));
        let taken: usize = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..200).filter(|_| budget.take(NOW)).count())).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!(taken, 100);
        assert_eq!(budget.window.counts(NOW), (1000, 100));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The same answers as a list of everything that happened; and over all time retries stay within the share.
        #[test]
        fn agrees_with_a_list(
            percent in 0u32..=100,
            floor in 0u32..3,
            events in prop::collection::vec((0u64..3000, any::<bool>()), 1..300),
        ) {
            let budget = budget(percent, floor);
            let (mut now, mut requests, mut retries) = (NOW, Vec::new(), Vec::new());
            for (pause, retry) in events {
                now += pause;
                let second = now / 1000;
                let within = |all: &Vec<u64>| all.iter().filter(|s| second - **s < SECONDS).count() as u64;
                if retry {
                    let allowed = (within(&requests) * u64::from(percent) / 100).max(u64::from(floor) * SECONDS);
                    let wanted = within(&retries) < allowed;
                    prop_assert_eq!(budget.take(now), wanted);
                    if wanted {
                        retries.push(second);
                    }
                } else {
                    budget.request(now);
                    requests.push(second);
                }
                prop_assert_eq!(budget.window.counts(now), (within(&requests), within(&retries)));
            }
            if floor == 0 {
                prop_assert!(retries.len() as u64 * 100 <= requests.len() as u64 * u64::from(percent));
            }
        }
    }
}
