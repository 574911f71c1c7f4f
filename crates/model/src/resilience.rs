//! `circuit_breaker` and `concurrency_limit` of an upstream, defaults filled in. Both are ours.

use crate::{Upstream, id};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// What a breaker watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Node,
    #[default]
    Upstream,
}

/// Stops sending requests to what keeps failing.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct CircuitBreaker {
    pub scope: Scope,
    /// Failures in a row.
    pub max_failures: Option<u32>,
    /// 0 to 1.
    pub failure_ratio: Option<f64>,
    /// Seconds.
    pub window: f64,
    pub min_requests: u32,
    pub unhealthy: Unhealthy,
    pub healthy: Healthy,
    pub half_open_requests: u32,
    pub break_response_code: u16,
    pub break_response_body: Option<String>,
    pub break_response_headers: Vec<Header>,
    #[serde(deserialize_with = "fallback")]
    pub fallback: Option<Fallback>,
}

impl Default for CircuitBreaker {
    fn default() -> CircuitBreaker {
        CircuitBreaker {
            scope: Scope::Upstream,
            max_failures: None,
            failure_ratio: None,
            window: 10.0,
            min_requests: 20,
            unhealthy: Unhealthy::default(),
            healthy: Healthy::default(),
            half_open_requests: 1,
            break_response_code: 503,
            break_response_body: None,
            break_response_headers: Vec::new(),
            fallback: None,
        }
    }
}

/// Times in seconds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Unhealthy {
    pub interval: f64,
    pub growth: f64,
    pub max_interval: f64,
    /// Names of gRPC's statuses.
    pub grpc_statuses: Vec<String>,
    http_statuses: Option<Vec<u16>>,
    http_codes: Option<Vec<u16>>,
}

impl Unhealthy {
    /// Answers that are failures; `None`: 500 to 599.
    pub fn statuses(&self) -> Option<&[u16]> {
        self.http_codes.as_deref().or(self.http_statuses.as_deref())
    }
}

impl Default for Unhealthy {
    fn default() -> Unhealthy {
        Unhealthy {
            interval: 10.0,
            growth: 2.0,
            max_interval: 300.0,
            grpc_statuses: Vec::new(),
            http_statuses: None,
            http_codes: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Healthy {
    pub successes: u32,
}

impl Default for Healthy {
    fn default() -> Healthy {
        Healthy { successes: 2 }
    }
}

/// A header of the break response; its value may hold variables.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Header {
    pub key: String,
    pub value: String,
}

/// Who serves while the breaker is open.
#[derive(Clone, Debug, PartialEq)]
pub enum Fallback {
    Id(String),
    Inline(Box<Upstream>),
}

fn fallback<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Fallback>, D::Error> {
    let value = Option::<Value>::deserialize(deserializer)?.unwrap_or_default();
    if value.is_object() {
        let upstream = serde_json::from_value(value).map_err(serde::de::Error::custom)?;
        return Ok(Some(Fallback::Inline(Box::new(upstream))));
    }
    Ok(id::text(&value).map(Fallback::Id))
}

/// How a limit is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitType {
    #[default]
    Fixed,
    Gradient,
}

/// How many requests may be under way at a time.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConcurrencyLimit {
    #[serde(rename = "type")]
    pub kind: LimitType,
    pub limit: Option<u32>,
    pub min_limit: u32,
    pub max_limit: u32,
    pub tolerance: f64,
    pub smoothing: f64,
    pub headroom: u32,
    /// Seconds.
    pub window: f64,
    pub queue: Option<Queue>,
    pub rejected_code: u16,
    /// Seconds; 0 for no header.
    pub retry_after: u32,
}

impl Default for ConcurrencyLimit {
    fn default() -> ConcurrencyLimit {
        ConcurrencyLimit {
            kind: LimitType::Fixed,
            limit: None,
            min_limit: 4,
            max_limit: 1000,
            tolerance: 1.5,
            smoothing: 0.2,
            headroom: 4,
            window: 0.1,
            queue: None,
            rejected_code: 503,
            retry_after: 1,
        }
    }
}

/// Where requests over the limit wait.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Queue {
    pub size: usize,
    /// Seconds.
    pub timeout: f64,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { size: 100, timeout: 0.5 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, schemas};
    use serde_json::json;

    fn check(field: &str, value: Value) -> Result<Upstream, String> {
        let mut body = json!({"nodes": {"a.com": 1}, field: value});
        schemas::schema(Kind::Upstream).check(&mut body).map_err(|violation| violation.message)?;
        serde_json::from_value(body).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults() {
        let breaker = check("circuit_breaker", json!({"max_failures": 5})).unwrap().circuit_breaker.unwrap();
        assert_eq!(breaker, CircuitBreaker { max_failures: Some(5), ..CircuitBreaker::default() });
        assert_eq!(breaker.unhealthy.statuses(), None);
        let limit = check("concurrency_limit", json!({"limit": 8, "queue": {}})).unwrap().concurrency_limit.unwrap();
        let wanted = ConcurrencyLimit { limit: Some(8), queue: Some(Queue::default()), ..Default::default() };
        assert_eq!(limit, wanted);
        let gradient = check("concurrency_limit", json!({"type": "gradient"})).unwrap().concurrency_limit.unwrap();
        assert_eq!(gradient, ConcurrencyLimit { kind: LimitType::Gradient, ..Default::default() });
    }

    #[test]
    fn everything_is_read() {
        let body = json!({
            "scope": "node", "failure_ratio": 0.25, "window": 30, "min_requests": 7,
            "unhealthy": {"interval": 2.5, "growth": 3, "max_interval": 60, "http_codes": [429], "http_statuses": [500]},
            "healthy": {"successes": 4}, "half_open_requests": 3, "break_response_code": 200,
            "break_response_body": "{}", "break_response_headers": [{"key": "X", "value": "$host"}], "fallback": 7
        });
        let breaker = check("circuit_breaker", body).unwrap().circuit_breaker.unwrap();
        assert_eq!((breaker.scope, breaker.failure_ratio, breaker.window), (Scope::Node, Some(0.25), 30.0));
        assert_eq!((breaker.unhealthy.growth, breaker.unhealthy.statuses()), (3.0, Some(&[429][..])));
        assert_eq!((breaker.healthy.successes, breaker.half_open_requests), (4, 3));
        assert_eq!(breaker.break_response_headers[0].value, "$host");
        assert_eq!(breaker.fallback, Some(Fallback::Id("7".into())));
        let inline = json!({"max_failures": 1, "fallback": {"nodes": {"b.com:81": 1}}});
        let breaker = check("circuit_breaker", inline).unwrap().circuit_breaker.unwrap();
        let Some(Fallback::Inline(upstream)) = breaker.fallback else { panic!("{breaker:?}") };
        assert_eq!(upstream.nodes.unwrap()[0].host, "b.com");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let breaker = "property \"circuit_breaker\" validation failed: ";
        let limit = "property \"concurrency_limit\" validation failed: ";
        for (field, body, words) in [
            (
                "circuit_breaker",
                json!({}),
                format!("{breaker}object matches none of the required: [\"max_failures\"] or [\"failure_ratio\"]"),
            ),
            (
                "circuit_breaker",
                json!({"max_failures": 0}),
                format!("{breaker}property \"max_failures\" validation failed: expected 0 to be at least 1"),
            ),
            (
                "circuit_breaker",
                json!({"max_failures": 1, "cooldown": 3}),
                format!("{breaker}additional properties forbidden, found cooldown"),
            ),
            (
                "concurrency_limit",
                json!({"type": "vegas", "limit": 1}),
                format!("{limit}property \"type\" validation failed: matches none of the enum values"),
            ),
        ] {
            let said = check(field, body.clone()).unwrap_err();
            assert_eq!(said, words, "{body}");
        }
    }
}
