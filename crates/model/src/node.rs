//! Nodes of an upstream, in one form whichever way they were written. Surprise: the host of an IPv6 node keeps its
//! brackets, because that is how it appears in `Host` headers and in messages; [`Node::address`] is without them.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::net::Ipv6Addr;

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Domain, IPv4 address or `[IPv6 address]`.
    pub host: String,
    /// Given, or implied by the upstream's scheme; `None` only for schemes without a usual port.
    pub port: Option<u16>,
    /// 0 takes the node out of service.
    pub weight: u32,
    /// Nodes of lower priority serve only when all of higher priority are down.
    pub priority: i64,
    pub metadata: Option<Map<String, Value>>,
}

impl Node {
    /// The host without the brackets of an IPv6 literal.
    pub fn address(&self) -> &str {
        self.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&self.host)
    }
}

/// The two ways to write nodes, and nothing at all (`{}`, `[]`).
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Written {
    List(Vec<WrittenNode>),
    Map(Map<String, Value>),
}

#[derive(Deserialize)]
pub(crate) struct WrittenNode {
    host: String,
    port: Option<u16>,
    weight: Value,
    priority: Option<i64>,
    #[serde(default)]
    metadata: Option<Value>,
}

impl Written {
    /// `default_port`: of the upstream's scheme.
    pub fn normalise(self, default_port: Option<u16>) -> Vec<Node> {
        match self {
            Written::List(nodes) => nodes
                .into_iter()
                .map(|node| {
                    // Without a port of its own the host may bring one.
                    let (host, port) = match node.port {
                        Some(port) => (bracketed(node.host), Some(port)),
                        None if is_bare_ipv6(&node.host) => (bracketed(node.host), None),
                        None => {
                            let (host, port) = split_address(&node.host);
                            (host.to_owned(), port.and_then(|port| u16::try_from(port).ok()))
                        }
                    };
                    Node {
                        host,
                        port: port.or(default_port),
                        weight: weight(&node.weight),
                        priority: node.priority.unwrap_or(0),
                        metadata: match node.metadata {
                            Some(Value::Object(fields)) => Some(fields),
                            _ => None,
                        },
                    }
                })
                .collect(),
            Written::Map(nodes) => nodes
                .into_iter()
                .map(|(address, value)| {
                    let (host, port) = split_address(&address);
                    Node {
                        host: bracketed(host.to_owned()),
                        port: port.and_then(|port| u16::try_from(port).ok()).or(default_port),
                        weight: weight(&value),
                        priority: 0,
                        metadata: None,
                    }
                })
                .collect(),
        }
    }
}

fn weight(value: &Value) -> u32 {
    value.as_u64().map_or(0, |weight| u32::try_from(weight).unwrap_or(u32::MAX))
}

fn bracketed(host: String) -> String {
    if is_bare_ipv6(&host) { format!("[{host}]") } else { host }
}

/// An IPv6 literal without brackets (apisix/upstream.lua demands them in lists of nodes).
pub(crate) fn is_bare_ipv6(host: &str) -> bool {
    host.parse::<Ipv6Addr>().is_ok()
}

/// Host and port of an address, by the rules of `parse_addr` (apisix/core/utils.lua): brackets stay, two colons without
/// brackets are an IPv6 literal without port, a port that is no number is no port.
pub fn split_address(address: &str) -> (&str, Option<u64>) {
    if address.starts_with('[') {
        return match address.rsplit_once(':') {
            Some((host, port)) if host.ends_with(']') => (host, port.parse().ok()),
            _ => (address, None),
        };
    }
    match address.split_once(':') {
        Some((_, rest)) if rest.contains(':') => (address, None),
        Some((host, port)) => (host, port.parse().ok()),
        None => (address, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_in_a_list_may_bring_its_port() {
        let nodes = serde_json::json!([
            {"host": "127.0.0.1:1980", "weight": 1},
            {"host": "127.0.0.1:1980", "port": 81, "weight": 1},
            {"host": "::1", "weight": 1},
            {"host": "[::1]:82", "weight": 1},
        ]);
        let written: Written = serde_json::from_value(nodes).unwrap();
        let found: Vec<_> = written.normalise(Some(80)).into_iter().map(|node| (node.host, node.port)).collect();
        let expected = [("127.0.0.1", 1980), ("127.0.0.1:1980", 81), ("[::1]", 80), ("[::1]", 82)];
        assert_eq!(found, expected.map(|(host, port)| (host.to_owned(), Some(port))));
    }

    #[test]
    fn addresses_are_split_as_in_apisix() {
        for (address, host, port) in [
            ("127.0.0.1:8080", "127.0.0.1", Some(8080)),
            ("foo.com", "foo.com", None),
            ("foo.com:0", "foo.com", Some(0)),
            ("[::1]:80", "[::1]", Some(80)),
            ("[::1]", "[::1]", None),
            ("::1", "::1", None),
            ("localhost:x", "localhost", None),
        ] {
            assert_eq!(split_address(address), (host, port), "{address}");
        }
    }
}
