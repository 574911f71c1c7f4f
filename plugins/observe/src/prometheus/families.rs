//! The metrics by their APISIX names and labels, and what `plugin_attr.prometheus` changes of them. The surprise: metric
//! names keep APISIX's old habits (`http_status` is a counter without `_total`), as dashboards are built on them.
use serde::Deserialize;
use sluice_expr::Variable;
use sluice_plugin::{BuildError, Env};
use sluice_telemetry::{Counter, FamilyOptions, Gauge, Histogram};
use std::collections::BTreeMap;
use std::time::Duration;

/// Metrics with labels per request; the number is the index into [`METRICS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Metric {
    Status,
    Latency,
    Bandwidth,
    LlmLatency,
    LlmPromptTokens,
    LlmCompletionTokens,
    LlmActiveConnections,
    LlmPromptTokensDist,
    LlmCompletionTokensDist,
    AiCacheHits,
    AiCacheMisses,
    AiCacheBypasses,
    AiCacheEmbeddingLatency,
}

/// One row of [`METRICS`].
pub struct MetricDefinition {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: &'static [&'static str],
    /// The label that makes the metric what it is and cannot be disabled (`structural_labels` of
    /// apisix/plugins/prometheus.lua).
    pub structural: Option<&'static str>,
}

const fn metric(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    structural: Option<&'static str>,
) -> MetricDefinition {
    MetricDefinition { name, help, labels, structural }
}

const LLM: &[&str] = &["route_id", "service_id", "consumer", "node", "request_type", "request_llm_model", "llm_model"];
const AI_CACHE: &[&str] = &[
    "route",
    "route_id",
    "service",
    "service_id",
    "consumer",
    "node",
    "request_type",
    "request_llm_model",
    "llm_model",
];
const TYPED: &[&str] =
    &["type", "route", "service", "consumer", "node", "request_type", "request_llm_model", "llm_model"];

/// Names and labels (`metric_label_map` of apisix/plugins/prometheus/exporter.lua), in the order of [`Metric`].
pub const METRICS: [MetricDefinition; 13] = [
    metric(
        "http_status",
        "HTTP status codes per service in APISIX",
        &[
            "code",
            "route",
            "matched_uri",
            "matched_host",
            "service",
            "consumer",
            "node",
            "request_type",
            "request_llm_model",
            "llm_model",
            "response_source",
        ],
        Some("code"),
    ),
    metric("http_latency", "HTTP request latency in milliseconds per service in APISIX", TYPED, Some("type")),
    metric("bandwidth", "Total bandwidth in bytes consumed per service in APISIX", TYPED, Some("type")),
    metric(
        "llm_latency",
        "LLM request latency in milliseconds",
        &["type", "route_id", "service_id", "consumer", "node", "request_type", "request_llm_model", "llm_model"],
        Some("type"),
    ),
    metric("llm_prompt_tokens", "LLM service consumed prompt tokens", LLM, None),
    metric("llm_completion_tokens", "LLM service consumed completion tokens", LLM, None),
    metric(
        "llm_active_connections",
        "Number of active connections to LLM service",
        &[
            "route",
            "route_id",
            "matched_uri",
            "matched_host",
            "service",
            "service_id",
            "consumer",
            "node",
            "request_type",
            "request_llm_model",
            "llm_model",
        ],
        None,
    ),
    metric("llm_prompt_tokens_dist", "LLM prompt tokens distribution per request", LLM, None),
    metric("llm_completion_tokens_dist", "LLM completion tokens distribution per request", LLM, None),
    metric(
        "ai_cache_hits_total",
        "Total AI cache hits served, per cache layer",
        &[
            "layer",
            "route",
            "route_id",
            "service",
            "service_id",
            "consumer",
            "node",
            "request_type",
            "request_llm_model",
            "llm_model",
        ],
        Some("layer"),
    ),
    metric("ai_cache_misses_total", "Total AI cache misses", AI_CACHE, None),
    metric("ai_cache_bypasses_total", "Total AI cache bypassed requests", AI_CACHE, None),
    metric("ai_cache_embedding_latency", "Latency of AI cache embedding calls in milliseconds", AI_CACHE, None),
];

impl Metric {
    pub fn definition(self) -> &'static MetricDefinition {
        &METRICS[self as usize]
    }
}

/// Milliseconds.
const LATENCY_BUCKETS: &[f64] =
    &[1., 2., 5., 10., 20., 50., 100., 200., 500., 1000., 2000., 5000., 10000., 30000., 60000.];
const TOKEN_BUCKETS: &[f64] = &[
    1., 10., 50., 100., 200., 500., 1000., 2000., 5000., 10000., 20000., 50000., 100_000., 200_000., 500_000.,
    1_000_000.,
];

/// `plugin_attr.prometheus` of config.yaml.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Attributes {
    pub metric_prefix: String,
    /// Path of the exposition, on the export server or through `public-api`.
    pub export_uri: String,
    /// The exposition has a server of its own; then `public-api` does not serve it.
    pub enable_export_server: bool,
    pub export_addr: ExportAddr,
    /// Seconds. Accepted and not used: what is shown is always of the moment of the scrape.
    pub refresh_interval: f64,
    pub default_buckets: Vec<f64>,
    pub llm_latency_buckets: Vec<f64>,
    pub llm_prompt_tokens_buckets: Vec<f64>,
    pub llm_completion_tokens_buckets: Vec<f64>,
    pub ai_cache_embedding_latency_buckets: Vec<f64>,
    pub metrics: BTreeMap<String, MetricAttributes>,
}

/// Where the export server listens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExportAddr {
    pub ip: String,
    pub port: u16,
}

/// `plugin_attr.prometheus.metrics.NAME`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct MetricAttributes {
    /// Seconds after its last update at which a series disappears; 0 is never.
    pub expire: f64,
    /// One-key objects: label name to `$variable`.
    pub extra_labels: Vec<BTreeMap<String, String>>,
    /// Most series; further ones are folded into one whose labels all say `other`. Not in APISIX, where memory ends.
    pub max_series: Option<usize>,
}

impl Default for ExportAddr {
    fn default() -> Self {
        ExportAddr { ip: "127.0.0.1".into(), port: 9091 }
    }
}

impl Default for Attributes {
    fn default() -> Self {
        Attributes {
            metric_prefix: "apisix_".into(),
            export_uri: "/apisix/prometheus/metrics".into(),
            enable_export_server: true,
            export_addr: ExportAddr::default(),
            refresh_interval: 15.0,
            default_buckets: LATENCY_BUCKETS.to_vec(),
            llm_latency_buckets: LATENCY_BUCKETS.to_vec(),
            llm_prompt_tokens_buckets: TOKEN_BUCKETS.to_vec(),
            llm_completion_tokens_buckets: TOKEN_BUCKETS.to_vec(),
            ai_cache_embedding_latency_buckets: LATENCY_BUCKETS.to_vec(),
            metrics: BTreeMap::new(),
        }
    }
}

impl Attributes {
    /// Reads `plugin_attr.prometheus`; null gives the defaults.
    pub fn read(value: &serde_json::Value) -> Result<Attributes, BuildError> {
        if value.is_null() {
            return Ok(Attributes::default());
        }
        Attributes::deserialize(value).map_err(|e| BuildError(format!("plugin_attr.prometheus: {e}")))
    }

    fn options(&self, name: &str) -> FamilyOptions {
        let defaults = FamilyOptions::default();
        let Some(metric) = self.metrics.get(name) else { return defaults };
        let expire = if metric.expire > 0.0 { Duration::try_from_secs_f64(metric.expire).ok() } else { None };
        FamilyOptions { expire, budget: metric.max_series.unwrap_or(defaults.budget) }
    }

    /// The shortest `expire` of all metrics, where one has it.
    pub fn shortest_expiry(&self) -> Option<Duration> {
        self.metrics.keys().filter_map(|name| self.options(name).expire).min()
    }

    /// Label name and variable, without the `$`.
    fn extra_labels(&self, name: &str) -> Vec<(&str, &str)> {
        let Some(metric) = self.metrics.get(name) else { return Vec::new() };
        let pairs = metric.extra_labels.iter().filter_map(|m| m.iter().next());
        pairs.map(|(label, variable)| (label.as_str(), variable.strip_prefix('$').unwrap_or(variable))).collect()
    }
}

/// A family with the variables of its extra labels.
#[derive(Clone)]
pub struct Labelled<F> {
    pub family: F,
    pub metric: Metric,
    pub extra: Box<[Variable]>,
}

/// All metrics that requests move.
#[derive(Clone)]
pub struct Families {
    pub status: Labelled<Counter>,
    pub latency: Labelled<Histogram>,
    pub bandwidth: Labelled<Counter>,
    pub llm_latency: Labelled<Histogram>,
    pub llm_prompt_tokens: Labelled<Counter>,
    pub llm_completion_tokens: Labelled<Counter>,
    pub llm_active_connections: Labelled<Gauge>,
    pub llm_prompt_tokens_dist: Labelled<Histogram>,
    pub llm_completion_tokens_dist: Labelled<Histogram>,
    pub ai_cache_hits: Labelled<Counter>,
    pub ai_cache_misses: Labelled<Counter>,
    pub ai_cache_bypasses: Labelled<Counter>,
    pub ai_cache_embedding_latency: Labelled<Histogram>,
}

impl Families {
    /// Registers the metrics, or finds them registered.
    pub fn register(env: &Env, attributes: &Attributes) -> Result<Families, BuildError> {
        let registry = &env.metrics;
        let counter = |metric| {
            labelled(attributes, metric, |name, help, labels, options| registry.counter(name, help, labels, options))
        };
        let histogram = |metric, buckets: &[f64]| {
            let make = |name: &str, help: &str, labels: &[&str], options| {
                registry.histogram(name, help, labels, buckets, options)
            };
            labelled(attributes, metric, make)
        };
        Ok(Families {
            status: counter(Metric::Status)?,
            latency: histogram(Metric::Latency, &attributes.default_buckets)?,
            bandwidth: counter(Metric::Bandwidth)?,
            llm_latency: histogram(Metric::LlmLatency, &attributes.llm_latency_buckets)?,
            llm_prompt_tokens: counter(Metric::LlmPromptTokens)?,
            llm_completion_tokens: counter(Metric::LlmCompletionTokens)?,
            llm_active_connections: labelled(
                attributes,
                Metric::LlmActiveConnections,
                |name, help, labels, options| registry.gauge(name, help, labels, options),
            )?,
            llm_prompt_tokens_dist: histogram(Metric::LlmPromptTokensDist, &attributes.llm_prompt_tokens_buckets)?,
            llm_completion_tokens_dist: histogram(
                Metric::LlmCompletionTokensDist,
                &attributes.llm_completion_tokens_buckets,
            )?,
            ai_cache_hits: counter(Metric::AiCacheHits)?,
            ai_cache_misses: counter(Metric::AiCacheMisses)?,
            ai_cache_bypasses: counter(Metric::AiCacheBypasses)?,
            ai_cache_embedding_latency: histogram(
                Metric::AiCacheEmbeddingLatency,
                &attributes.ai_cache_embedding_latency_buckets,
            )?,
        })
    }
}

fn labelled<F>(
    attributes: &Attributes,
    metric: Metric,
    make: impl Fn(&str, &str, &[&str], FamilyOptions) -> Result<F, sluice_telemetry::MetricError>,
) -> Result<Labelled<F>, BuildError> {
    let definition = metric.definition();
    let extra = attributes.extra_labels(definition.name);
    let labels: Vec<&str> = definition.labels.iter().copied().chain(extra.iter().map(|(label, _)| *label)).collect();
    let name = format!("{}{}", attributes.metric_prefix, definition.name);
    let family = make(&name, definition.help, &labels, attributes.options(definition.name)).map_err(BuildError::new)?;
    Ok(Labelled { family, metric, extra: extra.iter().map(|(_, variable)| Variable::parse(variable)).collect() })
}
