//! The full entry (`get_full_log` of apisix/utils/log-util.lua). The surprise: without a route `service_id` is the host.
use super::values::{arguments, headers, number, text};
use serde_json::{Map, Value as Json, json};
use sluice_expr::{Lookup, Variable};
use sluice_plugin::Context;
use std::time::UNIX_EPOCH;

/// Milliseconds: the whole request, the upstream's part where one was asked (all tries together), the rest.
pub fn latencies(cx: &Context) -> (f64, Option<f64>, f64) {
    let request = cx.started.elapsed().as_secs_f64() * 1000.0;
    if cx.attempts.is_empty() {
        return (request, None, request);
    }
    let upstream: f64 = cx.attempts.iter().map(|a| a.response_time.as_secs_f64()).sum::<f64>() * 1000.0;
    (request, Some(upstream), (request - upstream).max(0.0))
}

fn variable(cx: &Context, variable: &Variable) -> Json {
    cx.variable(variable).map_or(Json::Null, |v| text(&v.as_bytes()))
}

pub(super) fn entry(cx: &Context, request_body: Option<Json>, response_body: Option<Json>) -> Map<String, Json> {
    let target = cx.request.target();
    let (host, port) = (cx.request.host(), cx.connection.local.port());
    let mut request = json!({
        "url": format!("{}://{host}:{port}{target}", cx.connection.scheme()),
        "uri": target,
        "method": cx.request.method_text(),
        "headers": headers(cx.request.headers.iter()),
        "querystring": arguments(cx.request.query().unwrap_or_default()),
        "size": cx.request.received,
    });
    if let Some(body) = request_body {
        request["body"] = body;
    }
    let mut response = json!({
        "status": cx.response.status,
        "headers": headers(cx.response.headers.iter()),
        "size": cx.bytes_sent,
    });
    if let Some(body) = response_body {
        response["body"] = body;
    }
    let start = cx.started_wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (latency, upstream_latency, apisix_latency) = latencies(cx);
    let mut entry = Map::with_capacity(14);
    entry.insert("request".into(), request);
    entry.insert("response".into(), response);
    entry.insert(
        "server".into(),
        json!({"hostname": variable(cx, &Variable::Hostname), "version": crate::APISIX_VERSION}),
    );
    if let Some(address) = cx.variable(&Variable::UpstreamAddr) {
        entry.insert("upstream".into(), text(&address.as_bytes()));
    }
    match &cx.route {
        Some(route) => {
            entry.insert("service_id".into(), Json::from(route.service_id.as_deref().unwrap_or("")));
            entry.insert("route_id".into(), Json::from(&*route.route_id));
        }
        None => {
            entry.insert("service_id".into(), Json::from(host));
        }
    }
    if let Some(found) = &cx.consumer {
        entry.insert("consumer".into(), json!({"username": &*found.consumer.username}));
    }
    entry.insert("client_ip".into(), Json::from(cx.client_ip_text()));
    entry.insert("start_time".into(), number(start.as_millis() as f64));
    entry.insert("latency".into(), number(latency));
    if let Some(upstream) = upstream_latency {
        entry.insert("upstream_latency".into(), number(upstream));
    }
    entry.insert("apisix_latency".into(), number(apisix_latency));
    entry
}
