//! An upstream's balancing beyond APISIX, typed. Surprise: none of it is there unless it was written, as the defaults of
//! its fields only hold within.

use serde::Deserialize;

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct SlowStart {
    /// Seconds.
    pub window: f64,
    #[serde(default = "ten")]
    pub min_weight_percent: u8,
    #[serde(default = "one")]
    pub aggression: f64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Sticky {
    #[serde(alias = "name")]
    pub cookie: Option<String>,
    #[serde(default = "root")]
    pub path: String,
    /// Seconds; `None` until the browser closes.
    pub ttl: Option<u64>,
    #[serde(default = "yes")]
    pub http_only: bool,
    #[serde(default)]
    pub secure: bool,
    pub same_site: Option<SameSite>,
    pub secret: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum SameSite {
    #[serde(alias = "lax")]
    Lax,
    #[serde(alias = "strict")]
    Strict,
    #[serde(alias = "none")]
    None,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ZonePreference {
    #[serde(default = "zone")]
    pub metadata_key: String,
    #[serde(default = "fifty")]
    pub min_healthy_percent: u8,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LoadReport {
    #[serde(default = "orca")]
    pub header: String,
    pub metric: Option<String>,
    #[serde(default = "one")]
    pub full: f64,
}

fn ten() -> u8 {
    10
}
fn fifty() -> u8 {
    50
}
fn one() -> f64 {
    1.0
}
fn yes() -> bool {
    true
}
fn root() -> String {
    "/".to_owned()
}
fn zone() -> String {
    "zone".to_owned()
}
fn orca() -> String {
    "endpoint-load-metrics".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Balancer, HashOn, Upstream};
    use crate::{Kind, schemas};
    use serde_json::{Value, json};

    fn upstream(mut body: Value) -> Upstream {
        body["nodes"] = json!({"127.0.0.1:80": 1});
        schemas::schema(Kind::Upstream).check(&mut body).unwrap();
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn defaults() {
        let all = json!({
            "type": "adaptive", "slow_start": {"window": 30}, "sticky": {}, "zone_preference": {}, "load_report": {}
        });
        let upstream = upstream(all);
        assert_eq!(upstream.balancer, Balancer::Adaptive);
        assert_eq!(upstream.slow_start, Some(SlowStart { window: 30.0, min_weight_percent: 10, aggression: 1.0 }));
        let sticky = upstream.sticky.unwrap();
        assert_eq!((sticky.cookie, &*sticky.path, sticky.ttl, sticky.http_only), (None, "/", None, true));
        assert_eq!(upstream.zone_preference.unwrap().min_healthy_percent, 50);
        assert_eq!(upstream.load_report.unwrap().header, "endpoint-load-metrics");
    }

    #[test]
    fn other_names() {
        let sticky = json!({"name": "n", "same_site": "strict", "ttl": 5});
        let upstream = upstream(json!({"type": "p2c", "sticky": sticky, "hash_on": "client_ip"}));
        let sticky = upstream.sticky.unwrap();
        assert_eq!((sticky.cookie.as_deref(), sticky.same_site), (Some("n"), Some(SameSite::Strict)));
        assert_eq!((upstream.hash_on, upstream.balancer), (HashOn::ClientIp, Balancer::P2c));
    }
}
