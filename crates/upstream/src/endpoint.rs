//! One address a request can be sent to, and what is remembered about it across configuration changes.
//!
//! The surprise: every node that comes up or goes down moves one process-wide number, [`health_epoch`]. A balancer compares
//! it per pick (one relaxed load) instead of asking each node.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::breaker::Breaker;
use crate::health::Target;
use crate::measured::Measured;

static HEALTH_EPOCH: AtomicU64 = AtomicU64::new(1);

/// Moves whenever any node comes up or goes down.
#[inline]
pub fn health_epoch() -> u64 {
    HEALTH_EPOCH.load(Ordering::Acquire)
}

/// A node came up or went down; balancers notice at their next pick.
pub(crate) fn health_changed() {
    HEALTH_EPOCH.fetch_add(1, Ordering::AcqRel);
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
    /// What health checks know of it; `None` where there are none.
    pub health: Option<Arc<Target>>,
    /// Its circuit breaker; `None` unless the upstream breaks node by node.
    pub breaker: Option<Arc<Breaker>>,
}

impl Endpoint {
    /// Whether balancers may use it.
    #[inline]
    pub fn is_up(&self) -> bool {
        self.health.as_ref().is_none_or(|target| target.is_up())
    }

    /// An endpoint of priority 0 with fresh state and no health checks.
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
            health: None,
            breaker: None,
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

/// What is known about one `host:port` of one upstream. Lives as long as a balancer uses it, see [`crate::NodeStates`].
#[derive(Debug, Default)]
pub struct NodeState {
    active: AtomicU32,
    /// Latency average, see [`crate::ewma`] for the layout.
    pub(crate) ewma: AtomicU64,
    /// For `p2c` and `adaptive`.
    pub(crate) measured: Measured,
    /// When a balancer with `slow_start` first saw it up, in milliseconds of the picks' clock; 0 while it is not.
    pub(crate) up_since: AtomicU64,
}

impl NodeState {
    /// Requests in flight; counted for `least_conn`, `p2c` and `adaptive` only.
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
