//! Health as the Control API's `/v1/healthcheck` shows it (apisix/control/v1.lua).
use serde::Serialize;

use super::target::Target;

/// The checks of one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    /// The object in which the upstream stands: `/apisix/routes/1`.
    pub name: String,
    /// The probes' type: `http`, `https`, `tcp` (ours: `redis`, `grpc`).
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub nodes: Vec<NodeReport>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeReport {
    /// IPv6 in brackets.
    pub ip: String,
    /// The port that is probed.
    pub port: u16,
    pub hostname: String,
    /// `healthy`, `mostly_healthy`, `mostly_unhealthy` or `unhealthy`.
    pub status: &'static str,
    pub counter: Counter,
}

/// Results in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counter {
    pub success: u8,
    pub http_failure: u8,
    pub tcp_failure: u8,
    pub timeout_failure: u8,
}

impl NodeReport {
    pub(super) fn of(target: &Target) -> NodeReport {
        let counters = target.machine().counters;
        let (http, tcp, timeout) = target.window().counts();
        NodeReport {
            ip: target.ip(),
            port: target.address.port(),
            hostname: target.hostname.to_string(),
            status: target.status().as_str(),
            counter: Counter {
                success: counters.success,
                http_failure: counters.http_failure.saturating_add(http),
                tcp_failure: counters.tcp_failure.saturating_add(tcp),
                timeout_failure: counters.timeout_failure.saturating_add(timeout),
            },
        }
    }

    /// Whether requests go to it; what the metric `apisix_upstream_status` shows.
    pub fn is_up(&self) -> bool {
        matches!(self.status, "healthy" | "mostly_healthy")
    }
}
