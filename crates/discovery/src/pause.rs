//! How long to wait before a registry that failed is asked again.
use rand::Rng as _;
use std::time::Duration;

/// Grows fourfold with each failure in a row, as APISIX's (apisix/discovery/consul/client.lua `get_retry_delay`), up to a
/// bound that is lower: a registry that is back should not have to wait for minutes.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    failures: u32,
}

const LONGEST: Duration = Duration::from_secs(16);

impl Pause {
    /// The pause after one more failure.
    pub fn next(&mut self) -> Duration {
        let pause = Duration::from_secs(1 << (2 * self.failures).min(4)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A tenth more or less, so that gateways that started together do not ask together.
pub(crate) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::rng().random_range(0.9..=1.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let mut pause = Pause::default();
        let seconds: Vec<u64> = (0..4).map(|_| pause.next().as_secs()).collect();
        assert_eq!(seconds, [1, 4, 16, 16]);
        pause.reset();
        assert_eq!(pause.next().as_secs(), 1);
    }
}
