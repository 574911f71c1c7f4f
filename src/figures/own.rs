//! Metrics that APISIX does not have; their names begin with `sluice_` whatever the prefix is. The surprise: nothing is
//! counted for them that was not counted anyway; whoever owns a figure is asked at each scrape.
use crate::configuration::Configuration;
use sluice_model::Kind as Resource;
use sluice_net::Drain;
use sluice_net::dns::Resolver;
use sluice_net::tls::{CertConfig, certificate_expiry};
use sluice_proxy::Figures;
use sluice_store::{Condition, Store};
use sluice_telemetry::metrics::{Kind, MetricError, Samples};
use sluice_telemetry::{AccessLog, Registry};
use sluice_upstream::NodeStates;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

/// Certificates with a series each: those that end first.
const CERTIFICATES: usize = 1000;

/// When certificates end, unix time, by the id of their ssl object.
pub type Expiries = HashMap<Arc<str>, (Weak<CertConfig>, i64)>;

/// Who owns the figures.
pub struct Sources {
    pub drain: Drain,
    pub figures: Figures,
    pub states: Arc<NodeStates>,
    pub configuration: Arc<Configuration>,
    /// Where the configuration comes from, unless it is a file.
    pub store: Option<Arc<dyn Store>>,
    pub access_log: Option<AccessLog>,
    pub resolver: Option<Arc<Resolver>>,
    pub workers: usize,
    /// Ends of certificates that were read before, so that a scrape does not parse them again.
    pub expiries: Mutex<Expiries>,
}

type Report = fn(&Sources, &mut Samples<'_>);
type Row = (&'static str, &'static str, &'static [&'static str], Kind, Report);

const ROWS: &[Row] = &[
    ("sluice_build_info", "The gateway's version; always 1", &["version"], Kind::Gauge, |_, out| {
        out.push(&[env!("CARGO_PKG_VERSION")], 1.0);
    }),
    ("sluice_workers", "Worker threads", &[], Kind::Gauge, |own, out| out.push(&[], own.workers as f64)),
    ("sluice_panics_total", "Connections that ended in a panic", &[], Kind::Counter, |own, out| {
        out.push(&[], own.drain.panics() as f64);
    }),
    (
        "sluice_connections",
        "Open connections with clients and with nodes: active ones carry a request, idle ones wait for one",
        &["side", "state"],
        Kind::Gauge,
        connections,
    ),
    ("sluice_client_connections_total", "Connections accepted from clients", &[], Kind::Counter, |own, out| {
        out.push(&[], own.drain.accepted() as f64);
    }),
    ("sluice_upstream_nodes", "Nodes with a health check, by state", &["name", "state"], Kind::Gauge, upstream_nodes),
    ("sluice_config_revision", "Revision of the configuration in force; grows with each change", &[], Kind::Gauge, {
        |own, out| out.push(&[], own.configuration.figures().revision as f64)
    }),
    (
        "sluice_config_last_change_timestamp_seconds",
        "When the configuration in force came into force, unix time",
        &[],
        Kind::Gauge,
        |own, out| {
            let changed = own.configuration.figures().changed;
            if changed > 0 {
                out.push(&[], changed as f64 / 1e3);
            }
        },
    ),
    (
        "sluice_config_age_seconds",
        "Time since the configuration in force came into force",
        &[],
        Kind::Gauge,
        |own, out| {
            let changed = own.configuration.figures().changed;
            if changed > 0 {
                out.push(&[], now_ms().saturating_sub(changed) as f64 / 1e3);
            }
        },
    ),
    ("sluice_config_objects", "Objects in force, by kind", &["kind"], Kind::Gauge, objects),
    (
        "sluice_config_rejected_objects",
        "Objects that do not compile now: left out, or kept at their last good form",
        &["kind", "fate"],
        Kind::Gauge,
        rejected_objects,
    ),
    (
        "sluice_config_rejects_total",
        "Objects that did not compile, each time they were looked at",
        &[],
        Kind::Counter,
        |own, out| out.push(&[], own.configuration.figures().rejected as f64),
    ),
    (
        "sluice_config_unreadable_total",
        "Times that the configuration's file could not be read as a whole",
        &[],
        Kind::Counter,
        |own, out| out.push(&[], own.configuration.figures().unreadable as f64),
    ),
    (
        "sluice_config_source_readable",
        "Whether the source could be read when it was last tried",
        &[],
        Kind::Gauge,
        |own, out| out.push(&[], flag(!own.configuration.figures().is_unreadable)),
    ),
    (
        "sluice_store_reachable",
        "Whether the store of the configuration answers",
        &["store"],
        Kind::Gauge,
        |own, out| {
            if let Some(store) = &own.store {
                out.push(&[store.source().as_str()], flag(store.condition() == Condition::Fresh));
            }
        },
    ),
    ("sluice_store_revision", "Revision of the store as the gateway knows it", &["store"], Kind::Gauge, |own, out| {
        if let Some(store) = &own.store {
            let revision = store.state().read().unwrap_or_else(PoisonError::into_inner).revision;
            out.push(&[store.source().as_str()], revision as f64);
        }
    }),
    (
        "sluice_certificate_expiry_timestamp_seconds",
        "When the certificate of an ssl object ends, unix time; the thousand that end first",
        &["ssl", "sni"],
        Kind::Gauge,
        certificates,
    ),
    (
        "sluice_ocsp_responses",
        "OCSP responses to staple: those that are, and those that cannot be had",
        &["state"],
        Kind::Gauge,
        {
            |own, out| {
                let (stapled, wanted) = own.configuration.certificates().stapled();
                out.push(&["stapled"], stapled as f64);
                out.push(&["missing"], wanted.saturating_sub(stapled) as f64);
            }
        },
    ),
    ("sluice_access_log_lines_total", "Lines of the access log by what became of them", &["result"], Kind::Counter, {
        |own, out| {
            if let Some(log) = &own.access_log {
                let stats = log.stats();
                out.push(&["written"], stats.written as f64);
                out.push(&["dropped"], stats.dropped as f64);
                out.push(&["failed"], stats.failed as f64);
            }
        }
    }),
    (
        "sluice_dns_lookups_total",
        "Questions to name servers, by their answer",
        &["result"],
        Kind::Counter,
        |own, out| {
            if let Some(resolver) = &own.resolver {
                let stats = resolver.stats();
                out.push(&["answered"], stats.answered as f64);
                out.push(&["no_such_name"], stats.no_such_name as f64);
                out.push(&["failed"], stats.failed as f64);
            }
        },
    ),
    (
        "sluice_dns_names",
        "Names that the resolver remembers: all, and those whose last look-up failed",
        &["state"],
        Kind::Gauge,
        |own, out| {
            if let Some(resolver) = &own.resolver {
                let stats = resolver.stats();
                out.push(&["all"], stats.names as f64);
                out.push(&["failing"], stats.failing as f64);
            }
        },
    ),
];

/// Registers them. Once, at start.
pub fn register(metrics: &Registry, sources: &Arc<Sources>) -> Result<(), MetricError> {
    for (name, help, labels, kind, report) in ROWS {
        let sources = sources.clone();
        metrics.callback(name, help, labels, *kind, move |samples| report(&sources, samples))?;
    }
    metrics.report_folded("sluice_metric_series_folded_total")?;
    metrics.report_series("sluice_metric_series")
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

fn connections(own: &Sources, out: &mut Samples<'_>) {
    let open = own.drain.open() as f64;
    let active = own.figures.in_flight.value().clamp(0.0, open);
    out.push(&["client", "active"], active);
    out.push(&["client", "idle"], open - active);
    let open = own.figures.upstream.open.count() as f64;
    let idle = own.figures.upstream.idle.value().clamp(0.0, open);
    out.push(&["upstream", "active"], open - idle);
    out.push(&["upstream", "idle"], idle);
}

fn upstream_nodes(own: &Sources, out: &mut Samples<'_>) {
    for report in own.states.health() {
        let mut counts: BTreeMap<&str, u64> =
            ["healthy", "mostly_healthy", "mostly_unhealthy", "unhealthy"].map(|state| (state, 0)).into();
        for node in &report.nodes {
            *counts.entry(node.status).or_default() += 1;
        }
        counts.iter().for_each(|(state, count)| out.push(&[&report.name, state], *count as f64));
    }
}

fn objects(own: &Sources, out: &mut Samples<'_>) {
    let (_, snapshot) = own.configuration.published().load();
    for (kind, count) in [
        (Resource::Route, snapshot.router.len()),
        (Resource::StreamRoute, snapshot.stream_router.len()),
        (Resource::Upstream, snapshot.upstreams.len()),
        (Resource::Ssl, snapshot.certificates.len()),
    ] {
        out.push(&[kind.dir()], count as f64);
    }
}

fn rejected_objects(own: &Sources, out: &mut Samples<'_>) {
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for problem in own.configuration.problems() {
        let fate = if problem.kept { "kept" } else { "left_out" };
        *counts.entry((problem.kind.dir(), fate)).or_default() += 1;
    }
    // Something to compare with where all is well.
    counts.entry((Resource::Route.dir(), "left_out")).or_default();
    counts.iter().for_each(|((kind, fate), count)| out.push(&[kind, fate], *count as f64));
}

fn certificates(own: &Sources, out: &mut Samples<'_>) {
    let (_, snapshot) = own.configuration.published().load();
    let mut known = own.expiries.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|_, (certificate, _)| certificate.strong_count() > 0);
    let mut all: Vec<(i64, &Arc<str>, &Arc<CertConfig>)> = Vec::new();
    for (id, certificate) in snapshot.certificates.iter().chain(snapshot.client_certificates.iter()) {
        let before = known.get(id).filter(|(seen, _)| seen.as_ptr() == Arc::as_ptr(certificate)).map(|(_, end)| *end);
        let end = match before {
            Some(end) => Some(end),
            None => certificate.certs.iter().filter_map(|(pem, _)| certificate_expiry(pem)).min(),
        };
        let Some(end) = end else { continue };
        known.insert(id.clone(), (Arc::downgrade(certificate), end));
        all.push((end, id, certificate));
    }
    all.sort_unstable_by_key(|(end, id, _)| (*end, *id));
    for (end, id, certificate) in all.into_iter().take(CERTIFICATES) {
        let sni = certificate.snis.first().map_or("", String::as_str);
        out.push(&[id, sni], end as f64);
    }
}
