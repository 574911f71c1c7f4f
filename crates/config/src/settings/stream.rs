//! `apisix.proxy_mode` and `apisix.stream_proxy`: the TCP ports of stream routes (apisix/cli/ops.lua). The surprise: an
//! address without `ip` listens on 0.0.0.0 only, as nginx's `listen 9100` does, whatever `enable_ipv6` says.

use super::apisix;
use crate::section::{Field, Section};
use serde::Serialize;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

/// Which of the two proxies run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProxyMode {
    pub http: bool,
    pub stream: bool,
}

/// One socket for connections on stream routes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamListen {
    pub address: SocketAddr,
    pub tls: bool,
    /// A PROXY protocol header is expected.
    pub proxy_protocol: bool,
    /// A PROXY protocol header goes before the client's bytes.
    pub proxy_protocol_to_upstream: bool,
}

/// Sockets of one configuration at most; port ranges are easily mistyped.
const MAX_LISTENERS: usize = 4096;

pub(super) fn read_mode(s: &Section<'_>) -> ProxyMode {
    let (http, stream) = (ProxyMode { http: true, stream: false }, ProxyMode { http: false, stream: true });
    let both = ProxyMode { http: true, stream: true };
    s.choice("proxy_mode", &[("http", http), ("stream", stream), ("http&stream", both)], http)
}

/// The sockets; none unless `proxy_mode` says so. `proxy` is the section `proxy_protocol`.
pub(super) fn read_listen(s: &Section<'_>, proxy: &Section<'_>, mode: ProxyMode) -> Vec<StreamListen> {
    let accept = proxy.boolean("enable_tcp_pp", false);
    let send = proxy.boolean("enable_tcp_pp_to_upstream", false);
    let section = s.section("stream_proxy");
    let mut out = Vec::new();
    for item in section.items("tcp").unwrap_or_default() {
        let mut listen = StreamListen {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            tls: false,
            proxy_protocol: accept,
            proxy_protocol_to_upstream: send,
        };
        if !item.value.is_object() {
            add(&mut out, &item, &listen);
            continue;
        }
        let entry = item.section();
        listen.tls = entry.boolean("tls", false);
        listen.proxy_protocol = entry.boolean("proxy_protocol", accept);
        listen.proxy_protocol_to_upstream = entry.boolean("proxy_protocol_to_upstream", send);
        match entry.field("addr") {
            Some(field) => add(&mut out, &field, &listen),
            None => item.error("addr is missing"),
        }
        entry.finish();
    }
    section.ignore(&["udp"], "UDP is not served yet");
    section.finish();
    if mode.stream { out } else { Vec::new() }
}

fn add(out: &mut Vec<StreamListen>, field: &Field<'_>, listen: &StreamListen) {
    let Some((ip, ports)) = addresses(field.value) else {
        return field.expected("a port, ip:port, or a range such as 9100-9110");
    };
    if out.len() + ports.clone().count() > MAX_LISTENERS {
        return field.error(format!("more than {MAX_LISTENERS} ports"));
    }
    for port in ports {
        let address = SocketAddr::new(ip, port);
        if !out.iter().any(|other| other.address == address) {
            out.push(StreamListen { address, ..listen.clone() });
        }
    }
}

/// `9100`, `"9100"`, `"127.0.0.1:9100"`, `"[::1]:9100"`, and each with a range of ports.
fn addresses(value: &Value) -> Option<(IpAddr, RangeInclusive<u16>)> {
    let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let (ip, ports) = match text.rsplit_once(':') {
        None => (unspecified, text.as_str()),
        Some(("*", ports)) => (unspecified, ports),
        Some((ip, ports)) => (apisix::bare_ip(ip)?, ports),
    };
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((ip, first..=last))
}
