//! What a proxy is configured to do, and the requests that are sent to it.

use serde_json::{Value, json};

use crate::h2::Call;

/// One configuration of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// One route, no plugins.
    Plain,
    /// APISIX's own benchmark: `limit-count` and `prometheus`.
    LimitCount,
    /// The same with `key-auth`.
    KeyAuth,
    TenPlugins,
    /// `proxy-cache` in memory: every request but the first is a hit.
    Cached,
    /// HTTP/2 to clients, and gRPC on one of two routes.
    Http2,
    /// As that, with a key of RSA.
    Rsa,
    /// This many routes, the one asked for in their middle.
    Routes(usize),
}

/// A row of the table.
pub struct Workload {
    pub name: &'static str,
    pub what: &'static str,
    pub setup: Setup,
    pub tls: bool,
    request: Request,
}

enum Request {
    Small,
    Browser,
    Large,
    Post,
    /// [`Request::Small`] in HTTP/2.
    Http2,
    /// One message of gRPC, one back.
    Call,
    /// None at all.
    Handshake,
}

/// Bytes of gRPC's messages.
pub const MESSAGE: usize = 32;
pub const METHOD: &str = "/bench.Echo/Say";

pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "small",
        what: "GET, 8 headers, 1 KiB answer",
        setup: Setup::Plain,
        tls: false,
        request: Request::Small,
    },
    Workload {
        name: "headers",
        what: "GET with a browser's 15 headers",
        setup: Setup::Plain,
        tls: false,
        request: Request::Browser,
    },
    Workload { name: "body64k", what: "GET, 64 KiB answer", setup: Setup::Plain, tls: false, request: Request::Large },
    Workload { name: "post4k", what: "POST of 4 KiB", setup: Setup::Plain, tls: false, request: Request::Post },
    Workload { name: "tls", what: "small over TLS 1.3", setup: Setup::Plain, tls: true, request: Request::Small },
    Workload {
        name: "h2",
        what: "small over HTTP/2, upstream in HTTP/1",
        setup: Setup::Http2,
        tls: false,
        request: Request::Http2,
    },
    Workload {
        name: "h2tls",
        what: "h2 over TLS 1.3",
        setup: Setup::Http2,
        tls: true,
        request: Request::Http2,
    },
    Workload {
        name: "grpc",
        what: "gRPC call of 32 bytes each way, HTTP/2 on both sides",
        setup: Setup::Http2,
        tls: false,
        request: Request::Call,
    },
    Workload {
        name: "handshake",
        what: "full TLS 1.3 handshake, ECDSA P-256",
        setup: Setup::Http2,
        tls: true,
        request: Request::Handshake,
    },
    Workload {
        name: "handshake-rsa",
        what: "full TLS 1.3 handshake, RSA 2048",
        setup: Setup::Rsa,
        tls: true,
        request: Request::Handshake,
    },
    Workload {
        name: "limit",
        what: "small + limit-count + prometheus",
        setup: Setup::LimitCount,
        tls: false,
        request: Request::Small,
    },
    Workload { name: "auth", what: "limit + key-auth", setup: Setup::KeyAuth, tls: false, request: Request::Small },
    Workload {
        name: "plugins10",
        what: "small + 10 plugins",
        setup: Setup::TenPlugins,
        tls: false,
        request: Request::Small,
    },
    Workload {
        name: "cached",
        what: "small, answered by proxy-cache from memory",
        setup: Setup::Cached,
        tls: false,
        request: Request::Small,
    },
    Workload {
        name: "routes10k",
        what: "small among 10,000 routes",
        setup: Setup::Routes(10_000),
        tls: false,
        request: Request::Small,
    },
    Workload {
        name: "routes100k",
        what: "small among 100,000 routes",
        setup: Setup::Routes(100_000),
        tls: false,
        request: Request::Small,
    },
];

impl Workload {
    pub fn is_handshake(&self) -> bool {
        matches!(self.request, Request::Handshake)
    }

    /// The request in HTTP/2, where that is what the workload sends.
    pub fn call(&self) -> Option<Call> {
        let scheme = if self.tls { "https" } else { "http" };
        let (name, small) = (crate::client::NAME, crate::upstream::SMALL);
        match self.request {
            Request::Http2 => Some(Call::new(
                &[
                    (":method", "GET"),
                    (":scheme", scheme),
                    (":path", "/api/v1/users/12345?fields=id"),
                    (":authority", name),
                    ("user-agent", "curl/8.5.0"),
                    ("accept", "*/*"),
                    ("x-request-id", "7f3c2d1e"),
                    ("accept-encoding", "gzip"),
                    ("content-type", "application/json"),
                    ("apikey", "key-of-the-benchmark"),
                    ("cache-control", "no-cache"),
                ],
                &[],
                small,
            )),
            Request::Call => {
                let message = crate::h2::answerer::message(MESSAGE);
                Some(Call::new(
                    &[
                        (":method", "POST"),
                        (":scheme", scheme),
                        (":path", METHOD),
                        (":authority", name),
                        ("content-type", "application/grpc"),
                        ("te", "trailers"),
                        ("user-agent", "grpc-c++/1.60.0"),
                        ("grpc-accept-encoding", "identity,deflate,gzip"),
                        ("x-request-id", "7f3c2d1e"),
                    ],
                    &message,
                    message.len(),
                ))
            }
            _ => None,
        }
    }

    /// The request byte for byte.
    pub fn request(&self) -> Vec<u8> {
        let path = match (self.setup, &self.request) {
            (Setup::Routes(n), _) => route_path(n / 2),
            (Setup::Cached, _) => "/keep/api/v1/users/12345?fields=id".to_owned(),
            (_, Request::Large) => "/64k/api/v1/users/12345".to_owned(),
            _ => "/api/v1/users/12345?fields=id".to_owned(),
        };
        let name = crate::client::NAME;
        let mut text = match self.request {
            Request::Browser => format!(
                "GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: keep-alive\r\n\
                 sec-ch-ua: \"Chromium\";v=\"126\", \"Google Chrome\";v=\"126\", \"Not-A.Brand\";v=\"8\"\r\nsec-ch-ua-mobile: ?0\r\n\
                 sec-ch-ua-platform: \"Linux\"\r\nUpgrade-Insecure-Requests: 1\r\n\
                 User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n\
                 Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
                 Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n\
                 Referer: https://{name}/dashboard/index.html\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
                 Accept-Language: en-US,en;q=0.9,de;q=0.8\r\nCookie: session=eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.abcdefghijklm; theme=dark\r\n"
            ),
            _ => format!(
                "{} {path} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nX-Request-Id: 7f3c2d1e\r\n\
                 Accept-Encoding: gzip\r\nContent-Type: application/json\r\napikey: key-of-the-benchmark\r\nCache-Control: no-cache\r\n",
                if matches!(self.request, Request::Post) { "POST" } else { "GET" }
            ),
        };
        if matches!(self.request, Request::Post) {
            text.push_str("Content-Length: 4096\r\n");
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        if matches!(self.request, Request::Post) {
            bytes.resize(bytes.len() + 4096, b'x');
        }
        bytes
    }
}

/// The path of route number `i`.
pub fn route_path(i: usize) -> String {
    format!("/api/v1/tenants/{}/services/{i}", i % 97)
}

/// `apisix.yaml` (as JSON, which is YAML) for Sluice and APISIX.
pub fn resources(setup: Setup, upstream: u16, cert: &str, key: &str) -> Value {
    let node = format!("127.0.0.1:{upstream}");
    let pool = json!({"size": 256, "idle_timeout": 300, "requests": 100_000_000});
    let mut upstreams =
        vec![json!({"id": "u", "type": "roundrobin", "nodes": {node: 1}, "keepalive_pool": pool})];
    if matches!(setup, Setup::Http2 | Setup::Rsa) {
        let node = format!("127.0.0.1:{}", crate::peers::CALLS);
        upstreams.push(json!({"id": "g", "scheme": "grpc", "nodes": {node: 1}, "keepalive_pool": pool}));
    }
    let limit = json!({"limit-count": {"count": 2_000_000_000, "time_window": 3600, "rejected_code": 503, "key": "remote_addr"},
        "prometheus": {}});
    let mut plugins = limit;
    if let (Some(map), Setup::KeyAuth | Setup::TenPlugins) = (plugins.as_object_mut(), setup) {
        map.insert("key-auth".to_owned(), json!({}));
        if setup == Setup::TenPlugins {
            map.extend([
                ("request-id".to_owned(), json!({})),
                ("cors".to_owned(), json!({})),
                ("ip-restriction".to_owned(), json!({"whitelist": ["127.0.0.0/8"]})),
                ("ua-restriction".to_owned(), json!({"denylist": ["bad-bot"]})),
                ("uri-blocker".to_owned(), json!({"block_rules": ["\\.php$"]})),
                ("proxy-rewrite".to_owned(), json!({"headers": {"set": {"X-Gateway": "bench"}}})),
                ("response-rewrite".to_owned(), json!({"headers": {"set": {"X-Answer": "bench"}}})),
            ]);
        }
    }
    let routes = match setup {
        Setup::Routes(n) => {
            (0..n).map(|i| json!({"id": format!("r{i}"), "uri": route_path(i), "upstream_id": "u"})).collect()
        }
        Setup::Cached => {
            let cache = json!({"cache_strategy": "memory", "cache_zone": "memory_cache", "cache_ttl": 86_400});
            vec![json!({"id": "all", "uri": "/*", "upstream_id": "u", "plugins": {"proxy-cache": cache}})]
        }
        Setup::Plain => vec![json!({"id": "all", "uri": "/*", "upstream_id": "u"})],
        Setup::Http2 | Setup::Rsa => vec![
            json!({"id": "all", "uri": "/*", "upstream_id": "u"}),
            json!({"id": "calls", "uri": "/bench.Echo/*", "upstream_id": "g"}),
        ],
        _ => vec![json!({"id": "all", "uri": "/*", "upstream_id": "u", "plugins": plugins})],
    };
    json!({
        "routes": routes,
        "upstreams": upstreams,
        "consumers": [{"username": "bench", "plugins": {"key-auth": {"key": "key-of-the-benchmark"}}}],
        "ssls": [{"id": "s", "snis": [crate::client::NAME], "cert": cert, "key": key}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_complete_and_name_the_route_they_ask_for() {
        for workload in WORKLOADS {
            let request = workload.request();
            let end = memchr::memmem::find(&request, b"\r\n\r\n").unwrap();
            let body = request.len() - end - 4;
            assert_eq!(crate::upstream::content_length(&request[..end]).unwrap_or(0), body, "{}", workload.name);
        }
        let request = WORKLOADS.last().unwrap().request();
        assert!(request.starts_with(format!("GET {} ", route_path(50_000)).as_bytes()));
        assert_eq!(resources(Setup::TenPlugins, 1, "", "")["routes"][0]["plugins"].as_object().unwrap().len(), 10);
    }
}
