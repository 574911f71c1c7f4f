//! `slow_start` (ours): a node that is new, or well again, gets a share that grows over a time.
//!
//! The surprise: no pick asks for it. [`crate::Balancer`] compiles its tiers anew in small steps while a node warms up, and a
//! node's time begins when a balancer first sees it up. All nodes of a new upstream begin together, so nothing changes
//! between them.
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::endpoint::Endpoint;

/// See the file's head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    pub window: Duration,
    /// The share of its weight that a node begins with, 1 to 100.
    pub min_weight_percent: u8,
    /// 1: the share grows evenly; above, fast at first; below, slowly at first.
    pub aggression: f64,
}

/// Balancers are compiled no more often for it.
const LEAST_STEP_MS: u64 = 100;

/// Shares at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Warming {
    /// Percent of its weight per node; empty when none warms up.
    pub percents: Vec<u8>,
    /// When they are to be asked for again; `u64::MAX` when not before a node comes up.
    pub due_ms: u64,
}

impl SlowStart {
    /// Percent of its weight that a node has after so many milliseconds.
    pub fn percent(&self, up_ms: u64) -> u8 {
        let window = self.window.as_millis() as f64;
        let part = up_ms as f64 / window;
        if part >= 1.0 || !part.is_finite() {
            return 100;
        }
        let grown = part.powf(1.0 / self.aggression.max(0.01)) * 100.0;
        (grown as u8).clamp(self.min_weight_percent.clamp(1, 100), 100)
    }

    /// Percent of a node that warms up; `None` for others.
    pub(crate) fn percent_of(&self, node: &Endpoint, now_ms: u64) -> Option<u8> {
        let since = node.state.up_since.load(Ordering::Relaxed);
        let percent = if since == 0 { 100 } else { self.percent(now_ms.saturating_sub(since)) };
        (percent < 100).then_some(percent)
    }

    /// Notes who came and went, and tells the shares.
    pub(crate) fn look(&self, nodes: &[Endpoint], now_ms: u64) -> Warming {
        let mut warming = Warming { percents: Vec::with_capacity(nodes.len()), due_ms: u64::MAX };
        // 0 is "not up"
        let now_ms = now_ms.max(1);
        for node in nodes {
            let up_since = &node.state.up_since;
            let since = match (node.is_up(), up_since.load(Ordering::Relaxed)) {
                (false, _) => {
                    up_since.store(0, Ordering::Relaxed);
                    now_ms
                }
                // a clock that went back begins anew
                (true, since) if since == 0 || since > now_ms => {
                    up_since.store(now_ms, Ordering::Relaxed);
                    now_ms
                }
                (true, since) => since,
            };
            warming.percents.push(self.percent(now_ms - since));
        }
        // nodes that warm up together share as ever
        let up = || nodes.iter().zip(&warming.percents).filter(|(node, _)| node.is_up());
        let most = up().map(|(_, percent)| *percent).max().unwrap_or(100).max(1);
        if up().any(|(_, percent)| *percent < 100) {
            let step = u64::try_from(self.window.as_millis() / 100).unwrap_or(u64::MAX);
            warming.due_ms = now_ms.saturating_add(step.max(LEAST_STEP_MS));
        }
        for percent in &mut warming.percents {
            *percent = (u16::from(*percent) * 100 / u16::from(most)).clamp(1, 100) as u8;
        }
        let even = nodes.iter().zip(&warming.percents).all(|(node, percent)| *percent == 100 || !node.is_up());
        if even {
            warming.percents.clear();
        }
        warming
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn evenly_fast_or_slowly() {
        let of = |aggression, up| {
            SlowStart { window: Duration::from_secs(10), min_weight_percent: 10, aggression }.percent(up)
        };
        assert_eq!([of(1.0, 0), of(1.0, 5_000), of(1.0, 9_990), of(1.0, 10_000)], [10, 50, 99, 100]);
        assert!(of(2.0, 2_500) == 50 && of(0.5, 5_000) == 25);
    }

    #[test]
    fn who_comes_later_warms_up_alone() {
        let slow = SlowStart { window: Duration::from_secs(10), min_weight_percent: 10, aggression: 1.0 };
        let mut nodes = vec![Endpoint::new("10.0.0.1", 1, 1), Endpoint::new("10.0.0.1", 2, 1)];
        assert_eq!(slow.look(&nodes, 1_000), Warming { percents: vec![], due_ms: 1_100 });
        assert_eq!(slow.look(&nodes, 12_000), Warming { percents: vec![], due_ms: u64::MAX });
        nodes.push(Endpoint::new("10.0.0.1", 3, 1));
        assert_eq!(slow.look(&nodes, 20_000).percents, [100, 100, 10]);
        assert_eq!(slow.look(&nodes, 25_000).percents, [100, 100, 50]);
        assert_eq!(slow.look(&nodes, 30_000), Warming { percents: vec![], due_ms: u64::MAX });
    }

    proptest! {
        #[test]
        fn shares_only_grow(min in 1u8..=100, aggression in 0.1f64..10.0, times in prop::collection::vec(0u64..70_000, 2..50)) {
            let slow = SlowStart { window: Duration::from_secs(60), min_weight_percent: min, aggression };
            let mut times = times;
            times.sort_unstable();
            let shares: Vec<u8> = times.iter().map(|up| slow.percent(*up)).collect();
            prop_assert!(shares.windows(2).all(|pair| pair[0] <= pair[1]), "{shares:?}");
            prop_assert!(shares.iter().all(|share| *share >= min && *share <= 100));
            prop_assert_eq!(slow.percent(60_000), 100);
        }
    }
}
