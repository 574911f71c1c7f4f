//! An upstream as it runs: nodes in one form, enumerations resolved. Surprise: retries unset means "one try on every
//! other node", which only the proxy can count, so it stays `None`.

use crate::balancing::{LoadReport, SlowStart, Sticky, ZonePreference};
use crate::node::{Node, Written};
use crate::resilience::{CircuitBreaker, ConcurrencyLimit};
use crate::timeout::Timeout;
use crate::{id, lenient};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Deserialise it from a body that its schema has checked; unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Raw")]
pub struct Upstream {
    pub id: Option<String>,
    pub name: Option<String>,
    pub desc: Option<String>,
    pub labels: Map<String, Value>,
    /// `None` when the nodes come from service discovery.
    pub nodes: Option<Vec<Node>>,
    pub balancer: Balancer,
    pub hash_on: HashOn,
    pub key: Option<String>,
    pub slow_start: Option<SlowStart>,
    pub sticky: Option<Sticky>,
    pub zone_preference: Option<ZonePreference>,
    pub load_report: Option<LoadReport>,
    pub scheme: Scheme,
    pub pass_host: PassHost,
    pub upstream_host: Option<String>,
    pub timeout: Option<Timeout>,
    pub retries: Option<u64>,
    /// Seconds; `None` for no limit.
    pub retry_timeout: Option<f64>,
    /// What is retried; `None`: as APISIX does. Ours, like the three that follow.
    pub retry_on: Option<Vec<String>>,
    pub retry_backoff: Option<RetryBackoff>,
    pub retry_budget: Option<RetryBudget>,
    /// Bytes of a request's body kept for a retry.
    pub retry_body_limit: Option<u64>,
    pub keepalive_pool: Option<KeepalivePool>,
    pub tls: Option<Tls>,
    /// Health checks, for the checker to read.
    pub checks: Option<Value>,
    pub circuit_breaker: Option<CircuitBreaker>,
    pub concurrency_limit: Option<ConcurrencyLimit>,
    pub service_name: Option<String>,
    pub discovery_type: Option<String>,
    pub discovery_args: Option<Value>,
}

/// `type`: how a node is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Balancer {
    #[default]
    RoundRobin,
    Chash,
    LeastConn,
    Ewma,
    Random,
    P2c,
    Adaptive,
    /// Refused when a request needs it, as in APISIX.
    Unknown(String),
}

impl Balancer {
    fn from_name(name: &str) -> Balancer {
        match name {
            "roundrobin" => Balancer::RoundRobin,
            "chash" => Balancer::Chash,
            "least_conn" => Balancer::LeastConn,
            "ewma" => Balancer::Ewma,
            "random" => Balancer::Random,
            "p2c" => Balancer::P2c,
            "adaptive" => Balancer::Adaptive,
            other => Balancer::Unknown(other.to_owned()),
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Balancer::RoundRobin => "roundrobin",
            Balancer::Chash => "chash",
            Balancer::LeastConn => "least_conn",
            Balancer::Ewma => "ewma",
            Balancer::Random => "random",
            Balancer::P2c => "p2c",
            Balancer::Adaptive => "adaptive",
            Balancer::Unknown(name) => name,
        }
    }
}

/// What `chash` hashes; `key` names the variable, header or cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashOn {
    #[default]
    Vars,
    Header,
    Cookie,
    Consumer,
    VarsCombinations,
    /// The last three are ours.
    ClientIp,
    QueryArg,
    Uri,
}

/// The protocol spoken to the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    Grpc,
    Grpcs,
    #[default]
    Http,
    Https,
    /// HTTP/2 over TLS where the node agrees to it, else HTTP/1.1; ours.
    H2,
    /// HTTP/2 without TLS, by prior knowledge; ours.
    H2c,
    Tcp,
    Tls,
    Udp,
    Kafka,
}

impl Scheme {
    /// The port of nodes without one (apisix/upstream.lua `scheme_to_port`).
    pub const fn default_port(self) -> Option<u16> {
        match self {
            Scheme::Http | Scheme::Grpc | Scheme::H2c => Some(80),
            Scheme::Https | Scheme::Grpcs | Scheme::H2 => Some(443),
            Scheme::Tcp | Scheme::Tls | Scheme::Udp | Scheme::Kafka => None,
        }
    }

    pub const fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Grpcs | Scheme::H2 | Scheme::Tls)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Scheme::Grpc => "grpc",
            Scheme::Grpcs => "grpcs",
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::H2 => "h2",
            Scheme::H2c => "h2c",
            Scheme::Tcp => "tcp",
            Scheme::Tls => "tls",
            Scheme::Udp => "udp",
            Scheme::Kafka => "kafka",
        }
    }
}

/// The `Host` that nodes see: the client's, the node's own, or `upstream_host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassHost {
    #[default]
    Pass,
    Node,
    Rewrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct KeepalivePool {
    /// Idle connections kept.
    pub size: u64,
    /// Seconds.
    pub idle_timeout: f64,
    /// Requests before a connection is closed.
    pub requests: u64,
}

impl Default for KeepalivePool {
    fn default() -> KeepalivePool {
        KeepalivePool { size: 320, idle_timeout: 60.0, requests: 1000 }
    }
}

/// Waits between tries, each drawn from zero up to a bound that doubles.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct RetryBackoff {
    /// Bound of the first wait, seconds.
    pub base_interval: f64,
    /// Largest bound, seconds; `None`: ten times the first.
    pub max_interval: Option<f64>,
}

/// How many retries there may be beside the requests of the last ten seconds.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct RetryBudget {
    /// Share of the requests.
    pub percent: f64,
    /// Always allowed.
    pub min_retries_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> RetryBudget {
        RetryBudget { percent: 20.0, min_retries_per_second: 10 }
    }
}

/// TLS towards the nodes. `ca_certs` and `sni` go beyond APISIX.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Tls {
    pub client_cert: Option<String>,
    pub client_key: Option<String>,
    #[serde(deserialize_with = "id::optional")]
    pub client_cert_id: Option<String>,
    pub verify: bool,
    #[serde(deserialize_with = "lenient::list")]
    pub ca_certs: Vec<String>,
    pub sni: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    #[serde(deserialize_with = "id::optional")]
    id: Option<String>,
    name: Option<String>,
    desc: Option<String>,
    #[serde(deserialize_with = "lenient::map")]
    labels: Map<String, Value>,
    nodes: Option<Written>,
    #[serde(rename = "type")]
    balancer: Option<String>,
    hash_on: HashOn,
    key: Option<String>,
    slow_start: Option<SlowStart>,
    sticky: Option<Sticky>,
    zone_preference: Option<ZonePreference>,
    load_report: Option<LoadReport>,
    scheme: Scheme,
    pass_host: PassHost,
    upstream_host: Option<String>,
    timeout: Option<Timeout>,
    retries: Option<u64>,
    retry_timeout: Option<f64>,
    retry_on: Option<Vec<String>>,
    retry_backoff: Option<RetryBackoff>,
    retry_budget: Option<RetryBudget>,
    retry_body_limit: Option<u64>,
    keepalive_pool: Option<KeepalivePool>,
    tls: Option<Tls>,
    checks: Option<Value>,
    circuit_breaker: Option<CircuitBreaker>,
    concurrency_limit: Option<ConcurrencyLimit>,
    service_name: Option<String>,
    discovery_type: Option<String>,
    discovery_args: Option<Value>,
}

impl From<Raw> for Upstream {
    fn from(raw: Raw) -> Upstream {
        Upstream {
            id: raw.id,
            name: raw.name,
            desc: raw.desc,
            labels: raw.labels,
            nodes: raw.nodes.map(|nodes| nodes.normalise(raw.scheme.default_port())),
            balancer: raw.balancer.as_deref().map_or(Balancer::RoundRobin, Balancer::from_name),
            hash_on: raw.hash_on,
            key: raw.key,
            slow_start: raw.slow_start,
            sticky: raw.sticky,
            zone_preference: raw.zone_preference,
            load_report: raw.load_report,
            scheme: raw.scheme,
            pass_host: raw.pass_host,
            upstream_host: raw.upstream_host,
            timeout: raw.timeout,
            retries: raw.retries,
            retry_timeout: raw.retry_timeout.filter(|seconds| *seconds > 0.0),
            retry_on: raw.retry_on,
            retry_backoff: raw.retry_backoff,
            retry_budget: raw.retry_budget,
            retry_body_limit: raw.retry_body_limit,
            keepalive_pool: raw.keepalive_pool,
            tls: raw.tls,
            checks: raw.checks,
            circuit_breaker: raw.circuit_breaker,
            concurrency_limit: raw.concurrency_limit,
            service_name: raw.service_name,
            discovery_type: raw.discovery_type,
            discovery_args: raw.discovery_args,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, schemas};
    use serde_json::json;

    fn upstream(mut body: Value) -> Upstream {
        schemas::schema(Kind::Upstream).check(&mut body).unwrap();
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn both_forms_of_nodes_become_one() {
        let map = upstream(json!({"id": 7, "nodes": {"a.com:8080": 1, "[::1]:81": 2, "b.com": 0}, "scheme": "https"}));
        assert_eq!(map.id.as_deref(), Some("7"));
        let seen: Vec<_> =
            map.nodes.iter().flatten().map(|node| (node.host.as_str(), node.port, node.weight)).collect();
        assert_eq!(seen, [("a.com", Some(8080), 1), ("[::1]", Some(81), 2), ("b.com", Some(443), 0)]);
        let list = upstream(json!({"nodes": [{"host": "[::1]", "weight": 1.0, "metadata": {"zone": "a"}}]}));
        let nodes = list.nodes.unwrap();
        assert_eq!((nodes[0].address(), nodes[0].port, nodes[0].weight), ("::1", Some(80), 1));
        assert_eq!(nodes[0].metadata.as_ref().unwrap()["zone"], "a");
        assert_eq!(upstream(json!({"nodes": {}})).nodes, Some(Vec::new()));
    }

    #[test]
    fn retry_settings_are_checked() {
        let nodes = json!({"a.com": 1});
        let good =
            upstream(json!({"nodes": nodes, "retry_on": ["timeout", "http_5xx", "http_429"], "retry_budget": {},
            "retry_backoff": {"base_interval": 0.025}, "retry_body_limit": 0}));
        assert_eq!(good.retry_on.as_deref().map(<[_]>::len), Some(3));
        assert_eq!(good.retry_budget, Some(RetryBudget::default()));
        assert_eq!(good.retry_backoff, Some(RetryBackoff { base_interval: 0.025, max_interval: None }));
        assert_eq!(good.retry_body_limit, Some(0));
        for (field, bad) in [
            ("retry_on", json!(["http_200"])),
            ("retry_on", json!(["error"])),
            ("retry_on", json!("timeout")),
            ("retry_backoff", json!({})),
            ("retry_backoff", json!({"base_interval": 0})),
            ("retry_backoff", json!({"base_interval": 1, "jitter": true})),
            ("retry_budget", json!({"percent": 101})),
            ("retry_budget", json!({"min_retries_per_second": -1})),
            ("retry_body_limit", json!(-1)),
        ] {
            let mut body = json!({"nodes": nodes});
            body[field] = bad;
            let error = schemas::schema(Kind::Upstream).check(&mut body).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }

    #[test]
    fn defaults_and_enumerations_are_typed() {
        let upstream = upstream(json!({
            "service_name": "s", "discovery_type": "dns", "type": "chash", "hash_on": "vars_combinations",
            "keepalive_pool": {"size": 1}, "tls": {"client_cert_id": 3}, "retry_timeout": 0
        }));
        assert_eq!(upstream.nodes, None);
        assert_eq!(upstream.balancer, Balancer::Chash);
        assert_eq!(upstream.hash_on, HashOn::VarsCombinations);
        assert_eq!(upstream.pass_host, PassHost::Pass);
        assert_eq!(upstream.keepalive_pool.unwrap().requests, 1000);
        assert_eq!(upstream.tls.unwrap().client_cert_id.as_deref(), Some("3"));
        assert_eq!(upstream.retry_timeout, None);
    }
}
