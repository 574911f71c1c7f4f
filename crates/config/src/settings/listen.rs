//! Listening addresses and their conflicts (apisix/cli/ops.lua). The surprise: an address without `ip` listens on
//! 0.0.0.0 and, with `enable_ipv6`, on [::] too; the servers beside the gateway exclude its ports whatever their ip.

use super::Settings;
use crate::document::Document;
use crate::section::{Field, Report, Section};
use serde::Serialize;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One socket to listen on for clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listen {
    pub address: SocketAddr,
    pub tls: bool,
    /// HTTP/2 (by ALPN with TLS, by prior knowledge without).
    pub http2: bool,
    pub http3: bool,
    /// A PROXY protocol header is expected.
    pub proxy_protocol: bool,
    /// Length of the accept queue; the system's when absent.
    pub backlog: Option<u32>,
}

#[derive(Clone, Copy)]
pub(super) struct Common {
    pub http2: bool,
    pub ipv6: bool,
}

/// `node_listen`: a port, a list of ports, a list of mappings, or one mapping.
pub(super) fn read_http(section: &Section<'_>, common: Common) -> Vec<Listen> {
    let mut out = Vec::new();
    match section.field("node_listen") {
        None => add(&mut out, None, 9080, base(common, false), common),
        Some(field) => match field.value {
            Value::Number(_) => {
                if let Some(port) = port_of(&field) {
                    add(&mut out, None, port, base(common, false), common);
                }
            }
            Value::Array(_) => field.items().iter().for_each(|item| read_item(&mut out, item, false, common)),
            Value::Object(_) => read_item(&mut out, &field, false, common),
            _ => field.expected("a port, a list of ports, or a list of {ip, port}"),
        },
    }
    out
}

/// `ssl.listen`: a list of mappings; ports alone are taken too.
pub(super) fn read_https(section: &Section<'_>, common: Common) -> Vec<Listen> {
    let mut out = Vec::new();
    match section.items("listen") {
        Some(items) => items.iter().for_each(|item| read_item(&mut out, item, true, common)),
        None => add(&mut out, None, 9443, base(common, true), common),
    }
    out
}

/// A port of `proxy_protocol`: on every address.
pub(super) fn add_proxy_protocol(out: &mut Vec<Listen>, port: u16, tls: bool, common: Common) {
    let listen = Listen { proxy_protocol: true, ..base(common, tls) };
    add(out, None, port, listen, common);
}

fn base(common: Common, tls: bool) -> Listen {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    Listen { address, tls, http2: common.http2, http3: false, proxy_protocol: false, backlog: None }
}

fn read_item(out: &mut Vec<Listen>, item: &Field<'_>, tls: bool, common: Common) {
    match item.value {
        Value::Number(_) => {
            if let Some(port) = port_of(item) {
                add(out, None, port, base(common, tls), common);
            }
        }
        Value::Object(_) => {
            let section = item.section();
            let mut listen = base(common, tls);
            let ip = section.field("ip").and_then(|field| address_of(&field));
            let port = section.port("port").unwrap_or(if tls { 9443 } else { 9080 });
            if let Some(field) = section.field("enable_http2") {
                listen.http2 = section.boolean("enable_http2", common.http2);
                let text = "deprecated: APISIX 3.9 and later refuse this key here; use apisix.enable_http2";
                item.report.notice(field.node.position, &field.path, text, None);
            }
            listen.backlog =
                section.optional_integer("backlog", 1..=65535).and_then(|backlog| u32::try_from(backlog).ok());
            if tls {
                listen.http3 = section.boolean("enable_http3", false);
            }
            add(out, ip, port, listen, common);
            section.finish();
        }
        _ => item.expected("a port or {ip, port}"),
    }
}

fn port_of(field: &Field<'_>) -> Option<u16> {
    let port = field.value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    if port.is_none() {
        field.expected("a port from 1 to 65535");
    }
    port
}

/// An address, in brackets or not.
pub(super) fn address_of(field: &Field<'_>) -> Option<IpAddr> {
    let address = super::apisix::bare_ip(field.value.as_str().unwrap_or_default());
    if address.is_none() {
        field.expected("an IP address");
    }
    address
}

fn add(out: &mut Vec<Listen>, ip: Option<IpAddr>, port: u16, listen: Listen, common: Common) {
    let wildcard = [Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), common.ipv6.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED))];
    let addresses = if ip.is_some() { [ip, None] } else { wildcard };
    for ip in addresses.into_iter().flatten() {
        let address = SocketAddr::new(ip, port);
        // A repeated address is taken once, as in APISIX.
        if !out.iter().any(|other| other.address == address) {
            out.push(Listen { address, ..listen.clone() });
        }
    }
}

/// Ports wanted by two servers.
pub(super) fn check_conflicts(settings: &Settings, document: &Document, report: &Report) {
    let apisix = &settings.apisix;
    let admin = apisix.enable_admin.then_some(settings.deployment.admin.listen);
    let servers = [
        ("the Admin API", "/deployment/admin/admin_listen/port", admin),
        ("the status API", "/apisix/status/port", apisix.status),
        ("the Control API", "/apisix/control/port", apisix.control.as_ref().map(|control| control.listen)),
        ("prometheus", "/plugin_attr/prometheus/export_addr/port", settings.plugins.prometheus_export()),
    ];
    let mut taken: Vec<(u16, &str)> = Vec::new();
    let mut claim =
        |port: u16, name: &'static str, pointer: &str, path: &str| match taken.iter().find(|(other, _)| *other == port)
        {
            Some((_, other)) => {
                report.error(
                    document.position_of(pointer),
                    path,
                    format!("port {port} of {name} is taken by {other}"),
                    None,
                );
            }
            None => taken.push((port, name)),
        };
    for (name, pointer, address) in servers {
        if let Some(address) = address {
            claim(address.port(), name, pointer, &crate::position::readable_path("", pointer, None));
        }
    }
    let mut plain: Vec<u16> = apisix.node_listen.iter().map(|listen| listen.address.port()).collect();
    plain.sort_unstable();
    plain.dedup();
    for port in plain {
        claim(port, "HTTP", "/apisix/node_listen", "apisix.node_listen");
    }
    let mut tls: Vec<u16> = apisix.ssl.listen.iter().map(|listen| listen.address.port()).collect();
    tls.sort_unstable();
    tls.dedup();
    for port in tls {
        claim(port, "HTTPS", "/apisix/ssl/listen", "apisix.ssl.listen");
    }
    let mut stream: Vec<u16> = apisix.stream_listen.iter().map(|listen| listen.address.port()).collect();
    stream.sort_unstable();
    stream.dedup();
    for port in stream {
        claim(port, "the stream proxy", "/apisix/stream_proxy/tcp", "apisix.stream_proxy.tcp");
    }
}
