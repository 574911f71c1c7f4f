//! Breakers as the Control API, metrics and `explain` show them.
use super::machine::Breaker;
use serde::Serialize;

/// One breaker: of an upstream, or of one of its nodes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BreakerReport {
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// Failures in a row, while closed.
    pub failures: u64,
    /// Openings since it was closed last.
    pub openings: u64,
    /// Seconds until the cool-down is over, while open.
    pub remaining: f64,
    /// Probes under way, and those that went well, while half-open.
    pub probes: u64,
    pub successes: u64,
    pub total: Counts,
}

/// Counts since the breaker exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub opened: u64,
    pub half_opened: u64,
    pub closed: u64,
    /// Requests, or with scope `node` attempts, that were not let pass.
    pub refused: u64,
}

impl BreakerReport {
    pub fn of(breaker: &Breaker, now_ms: u64) -> BreakerReport {
        let seen = breaker.see(now_ms);
        let [opened, half_opened, closed, refused] = breaker.totals();
        BreakerReport {
            state: seen.phase.as_str(),
            failures: seen.failures,
            openings: seen.openings,
            remaining: seen.remaining.as_secs_f64(),
            probes: seen.probes,
            successes: seen.successes,
            total: Counts { opened, half_opened, closed, refused },
        }
    }
}
