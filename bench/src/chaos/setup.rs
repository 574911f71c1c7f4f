//! What every proxy is configured for, in terms that all of them know.

use std::net::SocketAddr;
use std::time::Duration;

/// Workers or threads of a proxy.
pub const WORKERS: usize = 2;
/// For connecting, sending and reading, each.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// The breaker opens after so many failures in a row.
pub const BREAKER_FAILURES: u32 = 10;

/// And stays open so long.
pub const COOL_DOWN: Duration = Duration::from_secs(2);
/// Retries may be this percentage of the requests.
pub const BUDGET_PERCENT: u32 = 20;

/// What a story asks for beyond the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    Plain,
    /// Nodes by their measured latency.
    Adaptive,
    /// 500 is tried again elsewhere.
    Retry500,
    /// One name instead of five addresses.
    Name,
    /// The upstream is left alone for a while when it fails.
    Breaker,
    /// Few retries where everything fails.
    Budget,
}

#[derive(Debug, Clone)]
pub struct Setup {
    pub feature: Feature,
    pub backends: Vec<SocketAddr>,
    pub resolver: SocketAddr,
    /// Of the configuration; every one differs from the one before.
    pub version: u64,
}

impl Setup {
    /// The port that all backends have.
    pub fn port(&self) -> u16 {
        self.backends.first().map_or(0, SocketAddr::port)
    }

    /// A backend's weight: what a reload changes.
    pub fn weight(&self, index: usize) -> u64 {
        if index == 0 { 1 + self.version % 2 } else { 1 }
    }
}
