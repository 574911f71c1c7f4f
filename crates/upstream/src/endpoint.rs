//! One address a request can be sent to, and what is remembered about it across configuration changes.
//!
//! The surprise: every change of a health flag moves one process-wide number, [`health_epoch`]. A balancer compares
//! it per pick (one relaxed load) instead of asking each node.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

static HEALTH_EPOCH: AtomicU64 = AtomicU64::new(1);

/// Moves whenever any node's health flag changes.
#[inline]
pub fn health_epoch() -> u64 {
    HEALTH_EPOCH.load(Ordering::Acquire)
}

/// A node as balancers see it. A node named by a domain is one endpoint per resolved address.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Address (or name, for a balancer built without DNS) to dial; IPv6 without brackets.
    pub host: Arc<str>,
    pub port: u16,
    /// Share of requests relative to its neighbours of the same priority.
    pub weight: u32,
    /// Higher is used first (apisix/balancer/priority.lua).
    pub priority: i32,
    /// The node's name as configured, when it is not an address.
    pub domain: Option<Arc<str>>,
    /// `Host` for `pass_host: node`, see [`crate::host_header`].
    pub upstream_host: Arc<str>,
    /// The address ready to connect to; `None` while `host` is a name.
    pub address: Option<SocketAddr>,
    /// `metadata` as configured.
    pub metadata: Option<Arc<serde_json::Value>>,
    pub state: Arc<NodeState>,
}

impl Endpoint {
    /// An endpoint of priority 0 with fresh state.
    pub fn new(host: &str, port: u16, weight: u32) -> Self {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let ip: Option<IpAddr> = host.parse().ok();
        let host: Arc<str> = host.into();
        Endpoint {
            upstream_host: host.clone(),
            host,
            port,
            weight,
            priority: 0,
            domain: None,
            address: ip.map(|ip| SocketAddr::new(ip, port)),
            metadata: None,
            state: Arc::default(),
        }
    }

    /// `host:port`, IPv6 in brackets: how APISIX names a node in balancers, health checks and `$upstream_addr`.
    pub fn name(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// What a health checker or a finished request says about a node. The classes are those of APISIX's `checks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Success,
    HttpFailure,
    TcpFailure,
    Timeout,
}

/// What is known about one `host:port` of one upstream. Lives as long as a balancer uses it, see [`crate::NodeStates`].
#[derive(Debug)]
pub struct NodeState {
    healthy: AtomicBool,
    active: AtomicU32,
    /// Latency average, see [`crate::ewma`] for the layout.
    pub(crate) ewma: AtomicU64,
    /// Four consecutive counts of a byte each, in [`Report`]'s order. Thresholds in APISIX's schema end at 254.
    streaks: AtomicU32,
}

impl Default for NodeState {
    fn default() -> Self {
        NodeState {
            healthy: AtomicBool::new(true),
            active: AtomicU32::new(0),
            ewma: AtomicU64::new(0),
            streaks: AtomicU32::new(0),
        }
    }
}

impl NodeState {
    /// Whether balancers may use the node. A new node is healthy.
    #[inline]
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire)
    }

    /// Sets the health flag; `true` when it changed. Balancers notice at their next pick.
    pub fn set_healthy(&self, healthy: bool) -> bool {
        let changed = self.healthy.swap(healthy, Ordering::AcqRel) != healthy;
        if changed {
            HEALTH_EPOCH.fetch_add(1, Ordering::AcqRel);
        }
        changed
    }

    /// Requests in flight; counted for `least_conn` only.
    #[inline]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// Never goes below zero, so that a release without a pick cannot poison the count.
    pub(crate) fn leave(&self) {
        let _ = self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }

    /// Counts a result and returns how many of its class came in a row (at most 255). A success ends the streaks of
    /// failures and the other way round; classes of failure do not end each other. Deciding is the checker's.
    pub fn report(&self, report: Report) -> u8 {
        let next = |bits: u32| {
            let mut counts = bits.to_le_bytes();
            let [success, failures @ ..] = &mut counts;
            let counter = match report {
                Report::Success => {
                    *failures = [0; 3];
                    &mut *success
                }
                failure => {
                    *success = 0;
                    let [http, tcp, timeout] = failures;
                    match failure {
                        Report::Success | Report::HttpFailure => http,
                        Report::TcpFailure => tcp,
                        Report::Timeout => timeout,
                    }
                }
            };
            *counter = counter.saturating_add(1);
            let count = *counter;
            (u32::from_le_bytes(counts), count)
        };
        let mut bits = self.streaks.load(Ordering::Relaxed);
        loop {
            let (wanted, count) = next(bits);
            match self.streaks.compare_exchange_weak(bits, wanted, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return count,
                Err(now) => bits = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streaks_end_each_other() {
        let state = NodeState::default();
        assert_eq!(state.report(Report::HttpFailure), 1);
        assert_eq!(state.report(Report::Timeout), 1);
        assert_eq!(state.report(Report::HttpFailure), 2);
        assert_eq!(state.report(Report::Success), 1);
        assert_eq!(state.report(Report::HttpFailure), 1);
        assert_eq!(state.report(Report::Success), 1);
        for _ in 0..300 {
            state.report(Report::TcpFailure);
        }
        assert_eq!(state.report(Report::TcpFailure), 255);
    }

    #[test]
    fn only_a_change_of_health_moves_the_epoch() {
        let state = NodeState::default();
        assert!(!state.set_healthy(true));
        let before = health_epoch();
        assert!(state.set_healthy(false));
        assert!(health_epoch() > before);
        assert!(!state.is_healthy());
    }

    #[test]
    fn active_never_underflows() {
        let state = NodeState::default();
        state.leave();
        assert_eq!(state.active(), 0);
        state.enter();
        assert_eq!(state.active(), 1);
    }

    #[test]
    fn names_bracket_ipv6() {
        assert_eq!(Endpoint::new("::1", 80, 1).name(), "[::1]:80");
        assert_eq!(Endpoint::new("[::1]", 80, 1).address.map(|a| a.to_string()), Some("[::1]:80".to_owned()));
        assert_eq!(Endpoint::new("a.b", 80, 1).name(), "a.b:80");
    }
}
