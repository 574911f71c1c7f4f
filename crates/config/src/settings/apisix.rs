//! The `apisix` section. The surprise: a data plane has no Admin API whatever `enable_admin` says, and a control plane
//! always has one (apisix/cli/file.lua).

use super::deployment::{Deployment, Role};
use super::listen::{self, Common, Listen};
use super::stream::{self, ProxyMode, StreamListen};
use crate::section::Section;
use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

#[derive(Clone, Debug, Serialize)]
pub struct Apisix {
    /// HTTP and, with `proxy_protocol.listen_http_port`, PROXY protocol sockets.
    pub node_listen: Vec<Listen>,
    /// What is served: routes, stream routes or both.
    pub proxy_mode: ProxyMode,
    /// Sockets of stream routes; empty where `proxy_mode` does not have them.
    pub stream_listen: Vec<StreamListen>,
    pub enable_admin: bool,
    /// One worker.
    pub enable_dev_mode: bool,
    pub enable_reuseport: bool,
    pub show_upstream_status_in_response_header: bool,
    pub enable_ipv6: bool,
    pub enable_http2: bool,
    /// The version in the `Server` header.
    pub enable_server_tokens: bool,
    pub ssl: Ssl,
    /// `proxy_cache`, as written (the plugin reads it); null for APISIX's two default zones.
    pub proxy_cache: Value,
    pub delete_uri_tail_slash: bool,
    pub normalize_uri_like_servlet: bool,
    pub match_uri_encoded_slash: bool,
    /// Bytes of a body read for `post_arg` predicates; none for no limit. Written in MiB.
    pub max_post_args_readable_size: Option<u64>,
    pub router: Router,
    /// Name servers; those of /etc/resolv.conf when empty.
    pub dns_resolver: Vec<SocketAddr>,
    /// Replaces the TTL of DNS answers.
    pub dns_resolver_valid: Option<Duration>,
    pub resolver_timeout: Duration,
    pub enable_resolv_search_opt: bool,
    pub control: Option<Control>,
    pub status: Option<SocketAddr>,
    pub data_encryption: DataEncryption,
    pub disable_upstream_healthcheck: bool,
    /// Peers whose `X-Forwarded-*` headers are believed; none: not configured.
    pub trusted_addresses: Option<Vec<IpNet>>,
    /// `lru.secret`: seconds and counts of the cache of secrets.
    pub lru_secret: LruSecret,
    pub tracing: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Ssl {
    pub enable: bool,
    /// HTTPS sockets; empty when not enabled.
    pub listen: Vec<Listen>,
    pub tls12: bool,
    pub tls13: bool,
    /// As written; the TLS library keeps those it knows.
    pub ssl_ciphers: Option<String>,
    pub ssl_session_tickets: bool,
    /// A PEM file; none for the system's certificates ("system").
    pub ssl_trusted_certificate: Option<String>,
    pub fallback_sni: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpRouter {
    RadixtreeUri,
    RadixtreeHostUri,
    RadixtreeUriWithParameter,
    /// Sluice's own: strict priority over all predicates.
    Priority,
}

#[derive(Clone, Debug, Serialize)]
pub struct Router {
    pub http: HttpRouter,
}

#[derive(Clone, Debug, Serialize)]
pub struct Control {
    pub listen: SocketAddr,
    /// config.yaml names address or port.
    #[serde(skip)]
    pub named: bool,
    pub router: HttpRouter,
}

#[derive(Clone, Debug, Serialize)]
pub struct DataEncryption {
    pub enable_encrypt_fields: bool,
    /// Keys of 16 or 32 bytes; the first encrypts, all decrypt.
    #[serde(skip)]
    pub keyring: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct LruSecret {
    pub ttl: Duration,
    pub count: u64,
    pub neg_ttl: Duration,
    pub neg_count: u64,
}

const ROUTERS: [(&str, HttpRouter); 4] = [
    ("radixtree_uri", HttpRouter::RadixtreeUri),
    ("radixtree_host_uri", HttpRouter::RadixtreeHostUri),
    ("radixtree_uri_with_parameter", HttpRouter::RadixtreeUriWithParameter),
    ("priority", HttpRouter::Priority),
];

pub(super) fn read(section: Section<'_>, deployment: &Deployment) -> Apisix {
    let s = &section;
    let common = Common { http2: s.boolean("enable_http2", true), ipv6: s.boolean("enable_ipv6", true) };
    let mut node_listen = listen::read_http(s, common);
    let mut ssl = read_ssl(s.section("ssl"), common);
    let proxy = s.section("proxy_protocol");
    if let Some(port) = proxy.port("listen_http_port") {
        listen::add_proxy_protocol(&mut node_listen, port, false, common);
    }
    if let Some(port) = proxy.port("listen_https_port").filter(|_| ssl.enable) {
        listen::add_proxy_protocol(&mut ssl.listen, port, true, common);
    }
    let proxy_mode = stream::read_mode(s);
    let stream_listen = stream::read_listen(s, &proxy, proxy_mode);
    proxy.finish();
    let router = s.section("router");
    let http = router.choice("http", &ROUTERS, HttpRouter::RadixtreeHostUri);
    router.choice("ssl", &[("radixtree_sni", ())], ());
    router.finish();
    let enable_admin = match deployment.role {
        Role::DataPlane => {
            s.boolean("enable_admin", true);
            false
        }
        Role::ControlPlane => {
            s.boolean("enable_admin", true);
            true
        }
        Role::Traditional => s.boolean("enable_admin", true),
    };
    let settings = Apisix {
        node_listen,
        proxy_mode,
        stream_listen,
        enable_admin,
        enable_dev_mode: s.boolean("enable_dev_mode", false),
        enable_reuseport: s.boolean("enable_reuseport", true),
        show_upstream_status_in_response_header: s.boolean("show_upstream_status_in_response_header", false),
        enable_ipv6: common.ipv6,
        enable_http2: common.http2,
        enable_server_tokens: s.boolean("enable_server_tokens", true),
        ssl,
        proxy_cache: s.raw("proxy_cache"),
        delete_uri_tail_slash: s.boolean("delete_uri_tail_slash", false),
        normalize_uri_like_servlet: s.boolean("normalize_uri_like_servlet", false),
        match_uri_encoded_slash: s.boolean("match_uri_encoded_slash", false),
        max_post_args_readable_size: Some(s.integer("max_post_args_readable_size", 0..=1 << 30, 64) << 20)
            .filter(|size| *size > 0),
        router: Router { http },
        dns_resolver: read_resolvers(s),
        dns_resolver_valid: s.optional_integer("dns_resolver_valid", 0..=u64::MAX).map(Duration::from_secs),
        resolver_timeout: s.time("resolver_timeout", Duration::from_secs(5)),
        enable_resolv_search_opt: s.boolean("enable_resolv_search_opt", true),
        control: read_control(s),
        status: s.field("status").map(|field| {
            let status = field.section();
            let listen = address(&status, 7085);
            status.finish();
            listen
        }),
        data_encryption: read_encryption(s.section("data_encryption")),
        disable_upstream_healthcheck: s.boolean("disable_upstream_healthcheck", false),
        trusted_addresses: read_trusted(s),
        lru_secret: read_lru(s.section("lru")),
        tracing: s.boolean("tracing", false),
    };
    s.ignore(&["extra_lua_path", "extra_lua_cpath", "lua_module_hook"], "Lua code is not loaded");
    // Written in APISIX's defaults with values that change nothing here: noise if reported.
    for key in ["disable_sync_configuration_during_start", "worker_startup_time_threshold", "events", "id"] {
        s.field(key);
    }
    section.finish();
    settings
}

fn read_ssl(s: Section<'_>, common: Common) -> Ssl {
    // Without a value it is off: null takes the default away (apisix/cli/file.lua `merge_conf`).
    let enable = s.boolean("enable", true) && !s.is_removed("enable");
    let listen = listen::read_https(&s, common);
    let (mut tls12, mut tls13) = (true, true);
    if let Some(field) = s.field("ssl_protocols") {
        (tls12, tls13) = (false, false);
        for word in field.value.as_str().unwrap_or_default().split_ascii_whitespace() {
            match word {
                "TLSv1.2" => tls12 = true,
                "TLSv1.3" => tls13 = true,
                "TLSv1" | "TLSv1.1" | "SSLv2" | "SSLv3" => {
                    let text = format!("ignored: {word} is not supported");
                    s.report.notice(field.node.position, &field.path, text, None);
                }
                _ => field.error(format!("{word:?} is no TLS version; expected TLSv1.2 or TLSv1.3")),
            }
        }
        if !tls12 && !tls13 {
            field.expected("TLSv1.2, TLSv1.3 or both");
        }
    }
    let ssl = Ssl {
        enable,
        listen: if enable { listen } else { Vec::new() },
        tls12,
        tls13,
        ssl_ciphers: s.optional_string("ssl_ciphers"),
        ssl_session_tickets: s.boolean("ssl_session_tickets", false),
        ssl_trusted_certificate: s.optional_string("ssl_trusted_certificate").filter(|path| path != "system"),
        fallback_sni: s.optional_string("fallback_sni"),
    };
    s.ignore(&["ssl_cert", "ssl_cert_key"], "certificates come from ssls");
    s.finish();
    ssl
}

fn read_control(s: &Section<'_>) -> Option<Control> {
    let enable = s.boolean("enable_control", true);
    let control = s.section("control");
    let named = control.field("ip").is_some() || control.field("port").is_some();
    let listen = address(&control, 9090);
    let router = control.choice("router", &ROUTERS, HttpRouter::RadixtreeUri);
    control.finish();
    enable.then_some(Control { listen, named, router })
}

/// `{ip, port}` of a server that is for this machine by default.
pub(super) fn address(s: &Section<'_>, port: u16) -> SocketAddr {
    let ip = s.field("ip").and_then(|field| listen::address_of(&field)).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    SocketAddr::new(ip, s.port("port").unwrap_or(port))
}

fn read_resolvers(s: &Section<'_>) -> Vec<SocketAddr> {
    let mut out = Vec::new();
    for item in s.items("dns_resolver").unwrap_or_default() {
        let text = item.value.as_str().unwrap_or_default();
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        match (text.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
            (Ok(address), _) => out.push(address),
            (_, Ok(ip)) => out.push(SocketAddr::new(ip, 53)),
            _ if text.contains('%') => {
                item.report.notice(item.node.position, &item.path, "ignored: a zone id is not supported", None);
            }
            _ => item.expected("an IP address, with or without a port"),
        }
    }
    out
}

fn read_encryption(s: Section<'_>) -> DataEncryption {
    let default = ["qeddd145sfvddff3".to_owned(), "edd1c9f0985e76a2".to_owned()];
    let keyring = match s.field("keyring") {
        None if s.is_removed("keyring") => Vec::new(),
        None => default.to_vec(),
        Some(field) => {
            let items = if field.value.is_array() { field.items() } else { vec![field] };
            let mut keys = Vec::new();
            for item in items {
                // The key itself stays out of the message.
                match item.value.as_str() {
                    Some(key) if matches!(key.len(), 16 | 32) => keys.push(key.to_owned()),
                    Some(key) => item.error(format!("expected a key of 16 or 32 bytes, got one of {}", key.len())),
                    None => item.error("expected a string of 16 or 32 bytes"),
                }
            }
            keys
        }
    };
    let out = DataEncryption { enable_encrypt_fields: s.boolean("enable_encrypt_fields", true), keyring };
    s.finish();
    out
}

fn read_trusted(s: &Section<'_>) -> Option<Vec<IpNet>> {
    let mut out = Vec::new();
    for item in s.items("trusted_addresses")? {
        match item.value.as_str().and_then(network) {
            Some(network) => out.push(network),
            None => item.expected("an IP address or a network such as 10.0.0.0/8"),
        }
    }
    Some(out)
}

/// An address, in brackets or not.
pub(super) fn bare_ip(text: &str) -> Option<IpAddr> {
    text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse().ok()
}

/// An address or a network in CIDR form.
pub(super) fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn read_lru(s: Section<'_>) -> LruSecret {
    let secret = s.section("secret");
    let out = LruSecret {
        ttl: Duration::from_secs(secret.integer("ttl", 0..=u64::MAX, 300)),
        count: secret.integer("count", 1..=u64::MAX, 512),
        neg_ttl: Duration::from_secs(secret.integer("neg_ttl", 0..=u64::MAX, 60)),
        neg_count: secret.integer("neg_count", 1..=u64::MAX, 512),
    };
    secret.finish();
    s.finish();
    out
}
