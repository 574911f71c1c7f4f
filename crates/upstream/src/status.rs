//! The state of an upstream's nodes as status pages show it.
//!
//! The surprise: a node named by a domain appears once per address; what balancers do not count for this `type` is left out.
use serde::Serialize;

use crate::balancer::{Algorithm, Balancer};
use crate::endpoint::Endpoint;

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeStatus {
    /// Address; IPv6 in brackets.
    pub host: String,
    pub port: u16,
    /// The name as configured, where it is not an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    pub weight: u32,
    pub priority: i32,
    /// `healthy`, `mostly_healthy`, `mostly_unhealthy`, `unhealthy`; `unchecked` without health checks.
    pub status: &'static str,
    /// Failures of live traffic put it out, for a time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ejected: bool,
    /// Requests under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<u32>,
    /// Average milliseconds until the response's head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Share of attempts that failed, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<f64>,
    /// What it last said of itself, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Percent of its weight that it has while it warms up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start_percent: Option<u8>,
    /// As configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
}

/// Three decimals.
fn rounded(value: f32) -> f64 {
    (f64::from(value) * 1000.0).round() / 1000.0
}

impl Balancer {
    /// The nodes now; `now_ms` as for picks.
    pub fn status(&self, now_ms: u64) -> Vec<NodeStatus> {
        self.nodes().iter().map(|node| self.node_status(node, now_ms)).collect()
    }

    fn node_status(&self, node: &Endpoint, now_ms: u64) -> NodeStatus {
        let algorithm = self.settings().algorithm;
        let measured = matches!(algorithm, Algorithm::P2c | Algorithm::Adaptive);
        let latency = match algorithm {
            Algorithm::Ewma => Some(crate::ewma::score(&node.state.ewma, now_ms)).filter(|score| *score > 0.0),
            _ if measured => node.state.measured.latency_ms(),
            _ => None,
        };
        let ip = &node.host;
        NodeStatus {
            host: if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() },
            port: node.port,
            domain: node.domain.as_deref().map(Into::into),
            weight: node.weight,
            priority: node.priority,
            status: node.health.as_ref().map_or("unchecked", |target| target.status().as_str()),
            ejected: node.health.as_ref().is_some_and(|target| target.is_ejected()),
            active: algorithm.counts().then(|| node.state.active()),
            latency_ms: latency.map(rounded),
            error_rate: measured.then(|| rounded(node.state.measured.error_rate())),
            load: node.state.measured.reported(now_ms).filter(|_| measured).map(rounded),
            slow_start_percent: self.settings().slow_start.and_then(|slow| slow.percent_of(node, now_ms)),
            metadata: node.metadata.as_deref().cloned(),
        }
    }
}
