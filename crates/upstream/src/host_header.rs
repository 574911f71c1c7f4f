//! The `Host` a request carries to its node: `pass_host` (apisix/init.lua `set_upstream_host`).
//!
//! The surprise: for `node` the port is left out only when it is the scheme's own, so `tcp`-like schemes always show
//! it; a domain is sent as configured, not the address it resolved to (apisix/balancer.lua).
use std::sync::Arc;

use crate::endpoint::Endpoint;

/// An upstream's `pass_host`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PassHost {
    #[default]
    Pass,
    Node,
    Rewrite,
}

impl PassHost {
    /// By APISIX's name.
    pub fn parse(name: &str) -> Option<PassHost> {
        Some(match name {
            "pass" => PassHost::Pass,
            "node" => PassHost::Node,
            "rewrite" => PassHost::Rewrite,
            _ => return None,
        })
    }
}

/// `pass_host` and `upstream_host`, compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// The client's.
    #[default]
    Pass,
    /// The chosen node's; a retry on another node changes it.
    Node,
    /// This one.
    Rewrite(Arc<str>),
}

impl HostHeader {
    /// `rewrite` without `upstream_host` (refused by validation) passes the client's.
    pub fn compile(pass_host: PassHost, upstream_host: Option<&str>) -> HostHeader {
        match (pass_host, upstream_host) {
            (PassHost::Node, _) => HostHeader::Node,
            (PassHost::Rewrite, Some(host)) => HostHeader::Rewrite(host.into()),
            (PassHost::Pass | PassHost::Rewrite, _) => HostHeader::Pass,
        }
    }

    /// The host to send; `None` is the client's.
    #[inline]
    pub fn for_node<'a>(&'a self, node: &'a Endpoint) -> Option<&'a str> {
        match self {
            HostHeader::Pass => None,
            HostHeader::Node => Some(&node.upstream_host),
            HostHeader::Rewrite(host) => Some(host),
        }
    }
}

/// The port that goes without saying (apisix/upstream.lua `scheme_to_port`).
pub fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "grpc" | "h2c" => Some(80),
        "https" | "grpcs" | "h2" => Some(443),
        _ => None,
    }
}

/// A node's own host: `host` or `host:port`. `host` is the name or address as configured.
pub fn node_host(host: &str, port: u16, scheme: &str) -> String {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let host = if bare.contains(':') { format!("[{bare}]") } else { bare.to_owned() };
    if default_port(scheme) == Some(port) { host } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_schemes_own_port_is_left_out() {
        for (host, port, scheme, wanted) in [
            ("a.b", 80, "http", "a.b"),
            ("a.b", 443, "http", "a.b:443"),
            ("a.b", 443, "https", "a.b"),
            ("1.2.3.4", 80, "grpc", "1.2.3.4"),
            ("a.b", 443, "grpcs", "a.b"),
            ("a.b", 80, "tcp", "a.b:80"),
            ("::1", 80, "http", "[::1]"),
            ("[::1]", 81, "http", "[::1]:81"),
        ] {
            assert_eq!(node_host(host, port, scheme), wanted);
        }
    }

    #[test]
    fn modes() {
        let mut node = Endpoint::new("1.2.3.4", 81, 1);
        node.upstream_host = "a.b:81".into();
        let host = |mode, rewrite| HostHeader::compile(mode, rewrite).for_node(&node).map(str::to_owned);
        assert_eq!(host(PassHost::Pass, Some("x")), None);
        assert_eq!(host(PassHost::Node, Some("x")).as_deref(), Some("a.b:81"));
        assert_eq!(host(PassHost::Rewrite, Some("x")).as_deref(), Some("x"));
        assert_eq!(host(PassHost::Rewrite, None), None);
    }
}
