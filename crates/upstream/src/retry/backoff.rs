//! How long to wait before a retry: Envoy's full jitter. The surprise: a wait may be nothing at all, as it is drawn from zero
//! up to a bound, so that requests that failed together do not come back together.
use std::time::Duration;

/// `retry_backoff` of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first retry waits less than this; each further one up to twice as long.
    pub base: Duration,
    /// No retry waits longer.
    pub max: Duration,
}

impl Backoff {
    /// For a node that has failed this request before, where nothing is set (Envoy's default).
    pub const SAME_NODE: Backoff = Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) };

    /// The wait before retry number `retried` (from 0), by 64 random bits.
    pub fn wait(&self, retried: u32, random: u64) -> Duration {
        let bound = self.base.saturating_mul(1u32.checked_shl(retried).unwrap_or(u32::MAX)).min(self.max);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        // the high half of the product is the random number scaled to the bound
        Duration::from_nanos(((u128::from(nanos) * u128::from(random)) >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_double_up_to_the_largest() {
        let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(5) };
        let waits: Vec<u64> = (0..5).map(|n| backoff.wait(n, u64::MAX / 2 + 1).as_millis() as u64).collect();
        assert_eq!(waits, [500, 1000, 2000, 2500, 2500]);
        assert_eq!(backoff.wait(40, u64::MAX / 2 + 1), Duration::from_millis(2500));
        assert_eq!(backoff.wait(3, 0), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn waits_stay_below_both_bounds(base in 1u64..1_000_000, max in 1u64..10_000_000, retried: u32, random: u64) {
            let backoff = Backoff { base: Duration::from_micros(base), max: Duration::from_micros(max) };
            let wait = backoff.wait(retried, random);
            prop_assert!(wait < backoff.max);
            prop_assert!(retried > 0 || wait < backoff.base);
        }
    }
}
