//! A route as it runs. Surprise: the pairs `uri`/`uris`, `host`/`hosts` and `remote_addr`/`remote_addrs` are one list each.

use crate::timeout::Timeout;
use crate::upstream::Upstream;
use crate::{id, lenient};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Deserialise it from a body that its schema has checked; unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Raw")]
pub struct Route {
    pub id: String,
    pub name: Option<String>,
    pub desc: Option<String>,
    pub labels: Map<String, Value>,
    pub uris: Vec<String>,
    pub hosts: Vec<String>,
    /// Empty: every method.
    pub methods: Vec<String>,
    pub remote_addrs: Vec<String>,
    pub vars: Option<Value>,
    pub priority: i64,
    /// Whether `status` is 1.
    pub enabled: bool,
    pub timeout: Option<Timeout>,
    /// By name, in the order written.
    pub plugins: Map<String, Value>,
    pub upstream: Option<Upstream>,
    pub upstream_id: Option<String>,
    pub service_id: Option<String>,
    pub plugin_config_id: Option<String>,
    /// Unset: the service's.
    pub enable_websocket: Option<bool>,
    pub filter_func: Option<String>,
    pub script: Option<String>,
    pub script_id: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    #[serde(deserialize_with = "id::required")]
    id: String,
    name: Option<String>,
    desc: Option<String>,
    #[serde(deserialize_with = "lenient::map")]
    labels: Map<String, Value>,
    uri: Option<String>,
    #[serde(deserialize_with = "lenient::list")]
    uris: Vec<String>,
    host: Option<String>,
    #[serde(deserialize_with = "lenient::list")]
    hosts: Vec<String>,
    #[serde(deserialize_with = "lenient::list")]
    methods: Vec<String>,
    remote_addr: Option<String>,
    #[serde(deserialize_with = "lenient::list")]
    remote_addrs: Vec<String>,
    vars: Option<Value>,
    priority: i64,
    status: Option<i64>,
    timeout: Option<Timeout>,
    #[serde(deserialize_with = "lenient::map")]
    plugins: Map<String, Value>,
    upstream: Option<Upstream>,
    #[serde(deserialize_with = "id::optional")]
    upstream_id: Option<String>,
    #[serde(deserialize_with = "id::optional")]
    service_id: Option<String>,
    #[serde(deserialize_with = "id::optional")]
    plugin_config_id: Option<String>,
    enable_websocket: Option<bool>,
    filter_func: Option<String>,
    script: Option<String>,
    #[serde(deserialize_with = "id::optional")]
    script_id: Option<String>,
}

impl From<Raw> for Route {
    fn from(raw: Raw) -> Route {
        Route {
            id: raw.id,
            name: raw.name,
            desc: raw.desc,
            labels: raw.labels,
            uris: merged(raw.uri, raw.uris),
            hosts: merged(raw.host, raw.hosts),
            methods: raw.methods,
            remote_addrs: merged(raw.remote_addr, raw.remote_addrs),
            vars: raw.vars,
            priority: raw.priority,
            enabled: raw.status.unwrap_or(1) == 1,
            timeout: raw.timeout,
            plugins: raw.plugins,
            upstream: raw.upstream,
            upstream_id: raw.upstream_id,
            service_id: raw.service_id,
            plugin_config_id: raw.plugin_config_id,
            enable_websocket: raw.enable_websocket,
            filter_func: raw.filter_func,
            script: raw.script,
            script_id: raw.script_id,
        }
    }
}

fn merged(one: Option<String>, mut several: Vec<String>) -> Vec<String> {
    if let Some(one) = one {
        several.insert(0, one);
    }
    several
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, schemas};
    use serde_json::json;

    #[test]
    fn singular_and_plural_are_merged() {
        let mut body = json!({
            "id": 1, "uri": "/a", "hosts": ["a.com", "b.com"], "methods": {}, "remote_addr": "10.0.0.0/8",
            "plugins": [], "upstream_id": 5, "upstream": {"nodes": {"127.0.0.1:1980": 1}}, "status": 0
        });
        schemas::schema(Kind::Route).check(&mut body).unwrap();
        let route: Route = serde_json::from_value(body).unwrap();
        assert_eq!(route.id, "1");
        assert_eq!(route.uris, ["/a"]);
        assert_eq!(route.hosts, ["a.com", "b.com"]);
        assert_eq!(route.methods, Vec::<String>::new());
        assert_eq!(route.remote_addrs, ["10.0.0.0/8"]);
        assert_eq!(route.upstream_id.as_deref(), Some("5"));
        assert!(!route.enabled && route.plugins.is_empty());
        assert_eq!(route.upstream.unwrap().nodes.unwrap()[0].port, Some(1980));
    }
}
