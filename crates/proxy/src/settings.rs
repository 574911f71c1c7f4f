//! What the request pipeline needs to know of config.yaml, as plain values.
use crate::debug::DebugMode;
use sluice_http::h1::Limits;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Settings of the pipeline. Durations of zero switch a limit off.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    pub limits: Limits,
    /// Bytes of a response head from an upstream.
    pub response_head: usize,
    /// `client_max_body_size`, bytes; 0 is no limit.
    pub max_body_size: u64,
    /// Bytes of a request body that are kept in memory for a plugin that reads it: 413 above.
    pub buffered_body: u64,
    /// `client_header_timeout`: between the first byte of a head and its end.
    pub header_timeout: Duration,
    /// `client_body_timeout`: between two reads of a body.
    pub body_timeout: Duration,
    /// `keepalive_timeout`: an idle connection is closed after it.
    pub keepalive_timeout: Duration,
    /// `send_timeout`: between two writes to the client.
    pub send_timeout: Duration,
    /// Requests on one connection (`keepalive_requests`).
    pub keepalive_requests: u64,
    /// The value of the `Server` field; None leaves the upstream's.
    pub server: Option<Box<str>>,
    /// `apisix.trusted_addresses`: peers whose `X-Forwarded-*` are believed. None: no boundary configured.
    pub trusted_addresses: Option<Vec<ipnet::IpNet>>,
    /// `apisix.show_upstream_status_in_response_header`
    pub show_upstream_status: bool,
    /// Debug mode, which may change while the gateway runs.
    pub debug: Arc<DebugMode>,
    /// Bytes that plugins on stream routes may wait for.
    pub preread_bytes: usize,
    /// How long they may wait in all.
    pub preread_timeout: Duration,
}

impl Default for ProxySettings {
    fn default() -> Self {
        ProxySettings {
            limits: Limits::default(),
            response_head: 64 * 1024,
            max_body_size: 0,
            buffered_body: 64 * 1024 * 1024,
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(10),
            keepalive_requests: 1000,
            server: None,
            trusted_addresses: None,
            show_upstream_status: false,
            debug: Arc::default(),
            preread_bytes: 16 * 1024,
            preread_timeout: Duration::from_secs(30),
        }
    }
}

impl ProxySettings {
    /// Whether this peer's `X-Forwarded-*` fields are believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_addresses.as_ref().is_some_and(|nets| nets.iter().any(|n| n.contains(&peer)))
    }
}
