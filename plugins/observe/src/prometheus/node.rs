//! Metrics of the node itself, and the export server's answer. The surprise: the figures come from whoever owns them
//! ([`NodeFigures`]) at each scrape, so that nothing has to be counted twice.
use super::breakers::{self, BreakerFigures, LimitFigures};
use super::families::Attributes;
use sluice_expr::{Lookup, Variable};
use sluice_plugin::{BuildError, Context, Endpoint, EndpointHandler, Env, Flow, Outcome, Reply};
use sluice_telemetry::Registry;
use sluice_telemetry::metrics::Kind;
use std::sync::Arc;
use std::time::Instant;

/// nginx's figures of client connections (ngx_http_stub_status_module).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    pub active: u64,
    pub accepted: u64,
    pub handled: u64,
    pub reading: u64,
    pub writing: u64,
    pub waiting: u64,
}

/// A configuration source with revisions (etcd).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigSource {
    pub reachable: bool,
    /// Highest revision by kind (`routes`, `services` …), and `max_modify_index`, `prev_index`, `x_etcd_index`.
    pub modify_indexes: Vec<(String, u64)>,
}

/// A node of an upstream as its health check sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHealth {
    /// The checked object, as the Control API names it: `/apisix/upstreams/1`.
    pub name: String,
    pub ip: String,
    pub port: u16,
    pub healthy: bool,
}

/// A bounded memory of the gateway, shown as nginx's shared dictionaries are. Bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    pub name: String,
    pub capacity: u64,
    pub free: u64,
}

/// What goes over one listener of stream routes. Bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamListener {
    /// As configured: `0.0.0.0:9100`.
    pub listen_addr: String,
    pub active: u64,
    pub from_client: u64,
    pub to_client: u64,
    pub from_upstream: u64,
    pub to_upstream: u64,
}

/// Figures that others own; asked at each scrape, on the scraping thread.
pub trait NodeFigures: Send + Sync + 'static {
    fn connections(&self) -> Connections;
    /// Requests since the start.
    fn requests(&self) -> u64;
    /// Only where configuration comes from etcd.
    fn config_source(&self) -> Option<ConfigSource> {
        None
    }
    /// Nodes with a health check.
    fn nodes(&self) -> Vec<NodeHealth> {
        Vec::new()
    }
    fn zones(&self) -> Vec<Zone> {
        Vec::new()
    }
    /// Circuit breakers of upstreams and nodes.
    fn breakers(&self) -> Vec<BreakerFigures> {
        Vec::new()
    }
    /// Listeners of stream routes.
    fn stream_listeners(&self) -> Vec<StreamListener> {
        Vec::new()
    }
    /// Upstreams with a concurrency limit.
    fn concurrency_limits(&self) -> Vec<LimitFigures> {
        Vec::new()
    }
}

/// Registers the metrics that no request moves (`collect` of apisix/plugins/prometheus/exporter.lua). Once, at start.
pub fn register_node(env: &Env, figures: Arc<dyn NodeFigures>) -> Result<(), BuildError> {
    let prefix = Attributes::read(env.attribute("prometheus"))?.metric_prefix;
    env.logs.report_buffered(&env.metrics, &prefix).map_err(BuildError::new)?;
    type Report = fn(&dyn NodeFigures, &mut dyn FnMut(&[&str], f64));
    let gauge = |name: &str, help: &str, labels: &[&str], report: Report| {
        let figures = figures.clone();
        let collect = move |samples: &mut sluice_telemetry::metrics::Samples<'_>| {
            report(&*figures, &mut |labels, value| samples.push(labels, value));
        };
        env.metrics.callback(&format!("{prefix}{name}"), help, labels, Kind::Gauge, collect).map_err(BuildError::new)
    };
    gauge("nginx_http_current_connections", "Number of HTTP connections", &["state"], |figures, report| {
        let c = figures.connections();
        let states = [
            ("active", c.active),
            ("accepted", c.accepted),
            ("handled", c.handled),
            ("reading", c.reading),
            ("writing", c.writing),
            ("waiting", c.waiting),
        ];
        states.iter().for_each(|(state, n)| report(&[state], *n as f64));
    })?;
    gauge(
        "http_requests_total",
        "The total number of client requests since APISIX started",
        &[],
        |figures, report| {
            report(&[], figures.requests() as f64);
        },
    )?;
    gauge("etcd_reachable", "Config server etcd reachable from APISIX, 0 is unreachable", &[], |figures, report| {
        if let Some(source) = figures.config_source() {
            report(&[], f64::from(u8::from(source.reachable)));
        }
    })?;
    gauge("etcd_modify_indexes", "Etcd modify index for APISIX keys", &["key"], |figures, report| {
        let source = figures.config_source().unwrap_or_default();
        source.modify_indexes.iter().for_each(|(key, index)| report(&[key], *index as f64));
    })?;
    gauge("upstream_status", "Upstream status from health check", &["name", "ip", "port"], |figures, report| {
        for node in figures.nodes() {
            report(&[&node.name, &node.ip, &node.port.to_string()], f64::from(u8::from(node.healthy)));
        }
    })?;
    gauge(
        "shared_dict_capacity_bytes",
        "The capacity of each nginx shared DICT since APISIX start",
        &["name"],
        |figures, report| figures.zones().iter().for_each(|zone| report(&[&zone.name], zone.capacity as f64)),
    )?;
    gauge(
        "shared_dict_free_space_bytes",
        "The free space of each nginx shared DICT since APISIX start",
        &["name"],
        |figures, report| figures.zones().iter().for_each(|zone| report(&[&zone.name], zone.free as f64)),
    )?;
    breakers::register(env, &figures)?;
    gauge(
        "stream_active_connections",
        "Number of stream sessions currently being proxied per listening address",
        &["listen_addr"],
        |figures, report| figures.stream_listeners().iter().for_each(|l| report(&[&l.listen_addr], l.active as f64)),
    )?;
    let listeners = figures.clone();
    let help = "Total bandwidth in bytes proxied by the stream subsystem in APISIX";
    let labels = &["listen_addr", "type", "side"];
    env.metrics
        .callback(&format!("{prefix}stream_bandwidth"), help, labels, Kind::Counter, move |samples| {
            for l in listeners.stream_listeners() {
                for (kind, side, bytes) in [
                    ("ingress", "downstream", l.from_client),
                    ("egress", "downstream", l.to_client),
                    ("egress", "upstream", l.to_upstream),
                    ("ingress", "upstream", l.from_upstream),
                ] {
                    samples.push(&[&l.listen_addr, kind, side], bytes as f64);
                }
            }
        })
        .map_err(BuildError::new)?;
    // nginx-lua-prometheus counts its own errors here. A sample that cannot be kept is folded instead of lost, so that there
    // are none.
    let errors = format!("{prefix}nginx_metric_errors_total");
    let help = "Number of nginx-lua-prometheus errors";
    env.metrics
        .callback(&errors, help, &[], Kind::Counter, |samples| samples.push(&[], 0.0))
        .map_err(BuildError::new)?;
    gauge("node_info", "Info of APISIX node", &["hostname", "version"], |_, report| {
        let host = Context::for_tests("GET", "/").variable(&Variable::Hostname).map(|v| v.as_str().into_owned());
        report(&[&host.unwrap_or_default(), crate::APISIX_VERSION], 1.0);
    })
}

/// Everything in text format 0.0.4. Takes milliseconds when there are very many series: not for worker threads.
pub fn exposition(registry: &Registry) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 * 1024);
    registry.render(Instant::now(), &mut out);
    out
}

/// The export server of `plugin_attr.prometheus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportServer {
    pub ip: String,
    pub port: u16,
    /// The one path that it serves; all others are 404.
    pub uri: String,
}

impl ExportServer {
    /// Where to listen; `None` where `enable_export_server` is false. `attributes` is `plugin_attr.prometheus`.
    pub fn read(attributes: &serde_json::Value) -> Result<Option<ExportServer>, BuildError> {
        let attributes = Attributes::read(attributes)?;
        let server = ExportServer {
            ip: attributes.export_addr.ip,
            port: attributes.export_addr.port,
            uri: attributes.export_uri,
        };
        Ok(attributes.enable_export_server.then_some(server))
    }

    /// The body of a 200 (`Content-Type: text/plain; charset=utf-8`); `None` is a 404.
    pub fn answer(&self, method: &str, path: &str, registry: &Registry) -> Option<Vec<u8>> {
        (method == "GET" && path == self.uri).then(|| exposition(registry))
    }
}

/// The endpoint for `public-api`, where there is no export server (`get_api` of apisix/plugins/prometheus/exporter.lua).
pub fn endpoints(env: &Env) -> Vec<Endpoint> {
    let attributes = match Attributes::read(env.attribute("prometheus")) {
        Ok(attributes) => attributes,
        Err(error) => {
            tracing::error!(%error, "prometheus has no endpoint");
            return Vec::new();
        }
    };
    if attributes.enable_export_server {
        return Vec::new();
    }
    let (registry, control) = (env.metrics.clone(), env.control.clone());
    let handler: EndpointHandler = Arc::new(move |_| {
        let reply = |body: Vec<u8>| Reply::text(200, body).header("Content-Type", "text/plain; charset=utf-8");
        let registry = registry.clone();
        // Rendering is the control threads' work where there are any.
        match &control {
            None => Flow::reply(reply(exposition(&registry))),
            Some(control) => {
                let rendered = control.spawn_blocking(move || exposition(&registry));
                Flow::wait(async move {
                    Outcome::Reply(Box::new(match rendered.await {
                        Ok(body) => reply(body),
                        Err(_) => Reply::message(500, "An unexpected error occurred"),
                    }))
                })
            }
        }
    });
    vec![Endpoint { methods: &["GET"], uri: attributes.export_uri, body_limit: 0, handler }]
}
