//! `nginx_config.http`: logs, time-outs, limits, real client addresses, connections to upstreams. The surprise: a body
//! limit of 0 means none (as in nginx), and `keepalive_timeout: 0` closes each connection after its first answer.

use super::apisix::network;
use crate::section::Section;
use ipnet::IpNet;
use serde::Serialize;
use std::time::Duration;

#[derive(Clone, Debug, Serialize)]
pub struct Http {
    pub enable_access_log: bool,
    /// A path, "/dev/stdout", or "off".
    pub access_log: String,
    /// Bytes gathered before they are written; 0: none.
    pub access_log_buffer: u64,
    pub access_log_format: String,
    pub access_log_format_escape: Escape,
    pub keepalive_timeout: Duration,
    pub client_header_timeout: Duration,
    pub client_body_timeout: Duration,
    /// Bytes; none: no limit.
    pub client_max_body_size: Option<u64>,
    pub send_timeout: Duration,
    pub underscores_in_headers: bool,
    pub real_ip_header: String,
    pub real_ip_recursive: bool,
    /// Peers whose `real_ip_header` is believed.
    pub real_ip_from: Vec<IpNet>,
    /// Whether `real_ip_from` has "unix:".
    pub real_ip_from_unix: bool,
    pub proxy_ssl_server_name: bool,
    pub upstream: UpstreamKeepalive,
    /// Added to text types' Content-Type; none: "off".
    pub charset: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Escape {
    Default,
    Json,
    None,
}

/// Idle connections to upstreams, per worker.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamKeepalive {
    pub keepalive: u64,
    pub keepalive_requests: u64,
    pub keepalive_timeout: Duration,
}

/// nginx variables of APISIX's access log (apisix/cli/config.lua).
pub const DEFAULT_ACCESS_LOG_FORMAT: &str = concat!(
    r#"$remote_addr - $remote_user [$time_local] $http_host "$request" $status $body_bytes_sent $request_time "#,
    r#""$http_referer" "$http_user_agent" $upstream_addr $upstream_status $upstream_response_time "#,
    r#""$upstream_scheme://$upstream_host$upstream_uri" "$apisix_request_id""#,
);

pub(super) fn read(s: Section<'_>) -> Http {
    let seconds = Duration::from_secs;
    let escapes = [("default", Escape::Default), ("json", Escape::Json), ("none", Escape::None)];
    let (real_ip_from, real_ip_from_unix) = read_real_ip_from(&s);
    let upstream = s.section("upstream");
    let http = Http {
        enable_access_log: s.boolean("enable_access_log", true),
        access_log: s.string("access_log", "logs/access.log"),
        access_log_buffer: s.size("access_log_buffer", 16_384),
        access_log_format: s.string("access_log_format", DEFAULT_ACCESS_LOG_FORMAT).trim_end_matches('\n').to_owned(),
        access_log_format_escape: s.choice("access_log_format_escape", &escapes, Escape::Default),
        keepalive_timeout: s.time("keepalive_timeout", seconds(60)),
        client_header_timeout: s.time("client_header_timeout", seconds(60)),
        client_body_timeout: s.time("client_body_timeout", seconds(60)),
        client_max_body_size: Some(s.size("client_max_body_size", 0)).filter(|size| *size > 0),
        send_timeout: s.time("send_timeout", seconds(10)),
        underscores_in_headers: s.switch("underscores_in_headers", true),
        real_ip_header: s.string("real_ip_header", "X-Real-IP"),
        real_ip_recursive: s.switch("real_ip_recursive", false),
        real_ip_from,
        real_ip_from_unix,
        proxy_ssl_server_name: s.switch("proxy_ssl_server_name", true),
        upstream: UpstreamKeepalive {
            keepalive: upstream.integer("keepalive", 0..=u64::MAX, 320),
            keepalive_requests: upstream.integer("keepalive_requests", 1..=u64::MAX, 1000),
            keepalive_timeout: upstream.time("keepalive_timeout", seconds(60)),
        },
        charset: Some(s.string("charset", "utf-8")).filter(|charset| charset != "off"),
    };
    upstream.finish();
    s.ignore(&["variables_hash_max_size"], "variables have no hash table here");
    s.ignore(&["lua_shared_dict", "custom_lua_shared_dict"], "Lua shared dictionaries have no meaning here");
    s.ignore(&["lua_shared_dicts"], "Lua shared dictionaries have no meaning here");
    s.finish();
    http
}

fn read_real_ip_from(s: &Section<'_>) -> (Vec<IpNet>, bool) {
    let (mut networks, mut unix) = (Vec::new(), false);
    match s.items("real_ip_from") {
        None if s.is_removed("real_ip_from") => {}
        None => {
            networks.extend(network("127.0.0.1"));
            unix = true;
        }
        Some(items) => {
            for item in items {
                match item.value.as_str() {
                    Some("unix:") => unix = true,
                    Some(text) if network(text).is_some() => networks.extend(network(text)),
                    _ => item.expected("an IP address, a network such as 10.0.0.0/8, or \"unix:\""),
                }
            }
        }
    }
    (networks, unix)
}
