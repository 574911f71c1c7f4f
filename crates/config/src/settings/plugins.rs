//! `plugins`, `stream_plugins` and `plugin_attr`. The surprise: a list in config.yaml replaces the default list, while
//! `plugin_attr` is merged into the defaults key by key (apisix/cli/file.lua `merge_conf`).

use crate::section::{Section, describe};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

#[derive(Clone, Debug, Serialize)]
pub struct Plugins {
    /// Names enabled by config.yaml; none: all that are built in by default.
    pub plugins: Option<Vec<String>>,
    pub stream_plugins: Option<Vec<String>>,
    /// Attributes by plugin, defaults merged in.
    pub plugin_attr: Map<String, Value>,
}

impl Plugins {
    /// Whether config.yaml enables a plugin.
    pub fn is_enabled(&self, name: &str) -> bool {
        self.plugins.as_ref().is_none_or(|names| names.iter().any(|other| other == name))
    }

    /// Where prometheus serves its metrics, when it has a server of its own.
    pub fn prometheus_export(&self) -> Option<SocketAddr> {
        let attributes = self.plugin_attr.get("prometheus")?;
        attributes.get("enable_export_server").and_then(Value::as_bool).filter(|enabled| *enabled)?;
        let address = attributes.get("export_addr");
        let text = address.and_then(|address| address.get("ip")).and_then(Value::as_str);
        let ip =
            text.and_then(|ip| ip.trim_matches(['[', ']']).parse().ok()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let port = address.and_then(|address| address.get("port")).and_then(Value::as_u64).unwrap_or(9091);
        Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
    }
}

pub(super) fn read(root: &Section<'_>) -> Plugins {
    let list = |key| match root.field(key) {
        Some(field) => field.strings(),
        None => root.is_removed(key).then(Vec::new),
    };
    let mut plugin_attr = match defaults() {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let attributes = root.section("plugin_attr");
    if attributes.is_present()
        && let Some(field) = root.field("plugin_attr")
    {
        merge(&mut plugin_attr, field.value, &mut |pointer, message| {
            let path = crate::position::readable_path("plugin_attr", pointer, None);
            root.report.error(field.node.position_of(pointer), &path, message, None);
        });
        let port = field.value.pointer("/prometheus/export_addr/port");
        if port.is_some_and(|port| !port.as_u64().is_some_and(|port| (1..=65535).contains(&port))) {
            let position = field.node.position_of("/prometheus/export_addr/port");
            let message = format!("expected a port from 1 to 65535, got {}", describe(port.unwrap_or(&Value::Null)));
            root.report.error(position, "plugin_attr.prometheus.export_addr.port", message, None);
        }
    }
    Plugins { plugins: list("plugins"), stream_plugins: list("stream_plugins"), plugin_attr }
}

/// Mappings are merged, lists replace, null removes; a scalar of another type than the default's is an error.
fn merge(base: &mut Map<String, Value>, new: &Value, error: &mut dyn FnMut(&str, String)) {
    fn step(base: &mut Map<String, Value>, new: &Value, pointer: &str, error: &mut dyn FnMut(&str, String)) {
        for (key, value) in new.as_object().into_iter().flatten() {
            let here = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
            match (base.get_mut(key), value) {
                (_, Value::Null) => {
                    base.shift_remove(key);
                }
                (Some(Value::Object(old)), Value::Object(map)) if !map.is_empty() => step(old, value, &here, error),
                (Some(old), value)
                    if !value.is_array()
                        && !value.as_object().is_some_and(Map::is_empty)
                        && std::mem::discriminant(old) != std::mem::discriminant(value) =>
                {
                    let kind = match old {
                        Value::Bool(_) => "true or false",
                        Value::Number(_) => "a number",
                        Value::String(_) => "a string",
                        Value::Array(_) => "a list",
                        _ => "a mapping",
                    };
                    error(&here, format!("expected {kind}, got {}", describe(value)));
                }
                _ => {
                    base.insert(key.clone(), value.clone());
                }
            }
        }
    }
    step(base, new, "", error);
}

/// The attributes APISIX sets by itself, of the plugins that read them (apisix/cli/config.lua).
fn defaults() -> Value {
    json!({
        "ai-proxy": {"http_client": "ngx_http_ffi_client"},
        "log-rotate": {
            "timeout": 10_000, "interval": 3600, "max_kept": 168, "max_size": -1, "enable_compression": false
        },
        "skywalking": {
            "service_name": "APISIX", "service_instance_name": "APISIX Instance Name",
            "endpoint_addr": "http://127.0.0.1:12800", "report_interval": 3
        },
        "opentelemetry": {
            "trace_id_source": "x-request-id",
            "resource": {"service.name": "APISIX"},
            "collector": {
                "address": "127.0.0.1:4318", "request_timeout": 3, "request_headers": {"Authorization": "token"}
            },
            "batch_span_processor": {
                "drop_on_queue_full": false, "max_queue_size": 1024, "batch_timeout": 2, "inactive_timeout": 1,
                "max_export_batch_size": 16
            },
            "set_ngx_var": false
        },
        "prometheus": {
            "export_uri": "/apisix/prometheus/metrics", "metric_prefix": "apisix_", "enable_export_server": true,
            "export_addr": {"ip": "127.0.0.1", "port": 9091}, "refresh_interval": 15
        },
        "server-info": {"report_ttl": 60},
        "dubbo-proxy": {"upstream_multiplex_count": 32},
        "proxy-mirror": {"timeout": {"connect": "60s", "read": "60s", "send": "60s"}},
        "inspect": {"delay": 3, "hooks_file": "/usr/local/apisix/plugin_inspect_hooks.lua"},
        "zipkin": {"set_ngx_var": false}
    })
}
