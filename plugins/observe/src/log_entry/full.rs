//! The full entry (`get_full_log` of apisix/utils/log-util.lua). The surprise: without a route `service_id` is the host.
use super::values::{Object, arguments, escaped, headers, integer, number, text};
use sluice_expr::{Lookup, Variable};
use sluice_plugin::Context;
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

/// Names that the full entry always has.
pub(super) const ALWAYS: [&str; 8] =
    ["request", "response", "server", "service_id", "client_ip", "start_time", "latency", "apisix_latency"];

/// Whether this request's full entry has a name beside [`ALWAYS`].
pub(super) fn has(cx: &Context, name: &str) -> bool {
    match name {
        "route_id" => cx.route.is_some(),
        "consumer" => cx.consumer.is_some(),
        "upstream" | "upstream_latency" => !cx.attempts.is_empty(),
        _ => false,
    }
}

/// Milliseconds: the whole request, the upstream's part where one was asked (all tries together), the rest.
pub fn latencies(cx: &Context) -> (f64, Option<f64>, f64) {
    let request = cx.started.elapsed().as_secs_f64() * 1000.0;
    if cx.attempts.is_empty() {
        return (request, None, request);
    }
    let upstream: f64 = cx.attempts.iter().map(|a| a.response_time.as_secs_f64()).sum::<f64>() * 1000.0;
    (request, Some(upstream), (request - upstream).max(0.0))
}

/// Milliseconds since the epoch at which the request began.
pub fn start_millis(cx: &Context) -> u64 {
    cx.started_wall().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// `{"hostname": …, "version": …}`, the same for all requests.
fn server(cx: &Context) -> &'static [u8] {
    static SERVER: OnceLock<Vec<u8>> = OnceLock::new();
    SERVER.get_or_init(|| {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out);
        let name = cx.variable(&Variable::Hostname).map(|v| v.as_bytes().into_owned()).unwrap_or_default();
        text(&name, object.known(b"\"hostname\":"));
        text(crate::APISIX_VERSION.as_bytes(), object.known(b"\"version\":"));
        object.close();
        out
    })
}

fn request(cx: &Context, body: Option<&[u8]>, out: &mut Vec<u8>) {
    let target = cx.request.target().as_bytes();
    let mut object = Object::open(out);
    let url = object.known(b"\"url\":");
    url.push(b'"');
    url.extend_from_slice(cx.connection.scheme().as_bytes());
    url.extend_from_slice(b"://");
    escaped(cx.request.host().as_bytes(), url);
    url.push(b':');
    integer(u64::from(cx.connection.local.port()), url);
    escaped(target, url);
    url.push(b'"');
    text(target, object.known(b"\"uri\":"));
    text(cx.request.method_text().as_bytes(), object.known(b"\"method\":"));
    headers(cx.request.headers.iter(), object.known(b"\"headers\":"));
    arguments(cx.request.query().unwrap_or_default(), object.known(b"\"querystring\":"));
    integer(cx.request.received, object.known(b"\"size\":"));
    if let Some(body) = body {
        text(body, object.known(b"\"body\":"));
    }
    object.close();
}

fn response(cx: &Context, body: Option<&[u8]>, out: &mut Vec<u8>) {
    let mut object = Object::open(out);
    integer(u64::from(cx.response.status), object.known(b"\"status\":"));
    headers(cx.response.headers.iter(), object.known(b"\"headers\":"));
    integer(cx.bytes_sent, object.known(b"\"size\":"));
    if let Some(body) = body {
        text(body, object.known(b"\"body\":"));
    }
    object.close();
}

pub(super) fn entry(cx: &Context, request_body: Option<&[u8]>, response_body: Option<&[u8]>, entry: &mut Object<'_>) {
    let (latency, upstream_latency, apisix_latency) = latencies(cx);
    request(cx, request_body, entry.known(b"\"request\":"));
    response(cx, response_body, entry.known(b"\"response\":"));
    entry.known(b"\"server\":").extend_from_slice(server(cx));
    if let Some(address) = cx.variable(&Variable::UpstreamAddr) {
        text(&address.as_bytes(), entry.known(b"\"upstream\":"));
    }
    match &cx.route {
        Some(route) => {
            text(route.service_id.as_deref().unwrap_or("").as_bytes(), entry.known(b"\"service_id\":"));
            text(route.route_id.as_bytes(), entry.known(b"\"route_id\":"));
        }
        None => text(cx.request.host().as_bytes(), entry.known(b"\"service_id\":")),
    }
    if let Some(found) = &cx.consumer {
        let mut consumer = Object::open(entry.known(b"\"consumer\":"));
        text(found.consumer.username.as_bytes(), consumer.known(b"\"username\":"));
        consumer.close();
    }
    text(cx.client_ip_text().as_bytes(), entry.known(b"\"client_ip\":"));
    integer(start_millis(cx), entry.known(b"\"start_time\":"));
    number(latency, entry.known(b"\"latency\":"));
    if let Some(upstream) = upstream_latency {
        number(upstream, entry.known(b"\"upstream_latency\":"));
    }
    number(apisix_latency, entry.known(b"\"apisix_latency\":"));
}
