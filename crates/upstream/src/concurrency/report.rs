//! Concurrency limits as the Control API, metrics and `explain` show them.
use super::limiter::Limiter;
use serde::Serialize;

/// One upstream's limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ConcurrencyReport {
    /// In force now.
    pub limit: u32,
    pub in_flight: u32,
    pub waiting: u32,
    /// The latency that a gradient takes for usual, seconds; 0 where none is known.
    pub usual_latency: f64,
    /// Since it exists: requests that were refused, that had to wait, that gave up waiting.
    pub refused: u64,
    pub queued: u64,
    pub given_up: u64,
}

impl ConcurrencyReport {
    pub fn of(limiter: &Limiter) -> ConcurrencyReport {
        let [refused, queued, given_up] = limiter.totals();
        ConcurrencyReport {
            limit: limiter.limit(),
            in_flight: limiter.in_flight(),
            waiting: limiter.waiting(),
            usual_latency: limiter.usual_latency(),
            refused,
            queued,
            given_up,
        }
    }
}
