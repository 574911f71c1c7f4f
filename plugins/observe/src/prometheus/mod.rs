//! `prometheus`: counts requests, their latency and their bytes, by route, service, consumer and node, and shows them to
//! Prometheus with the gateway's other metrics.
//!
//! Metrics are read from the export server (`plugin_attr.prometheus.export_addr`, by default
//! `127.0.0.1:9091/apisix/prometheus/metrics`) or, with `enable_export_server: false`, from a route with `public-api`.
//! Names, labels and buckets are APISIX's (apisix/plugins/prometheus.lua, apisix/plugins/prometheus/exporter.lua);
//! `plugin_attr.prometheus` renames them, adds labels and lets series expire; `disabled_labels` in the plugin's metadata
//! empties labels.
//!
//! Differences from APISIX: what is shown is of the moment of the scrape, not up to `refresh_interval` old. Latencies have
//! fractions of a millisecond. The upstream's latency is the sum of all tries. A metric has at most 100,000 series
//! (`plugin_attr.prometheus.metrics.NAME.max_series`); further ones are folded into one. `shared_dict_*` show the gateway's
//! own bounded memories.
mod breakers;
mod families;
mod labels;
mod llm;
mod node;
mod series;
mod streams;
#[cfg(test)]
mod tests;

pub use breakers::{BreakerFigures, LimitFigures};
pub use families::{Attributes, ExportAddr};
pub use node::{
    ConfigSource, Connections, ExportServer, NodeFigures, NodeHealth, StreamListener, Zone, endpoints, exposition,
    register_node,
};
pub use streams::StreamPrometheus;

use families::{Families, METRICS};
use labels::{Disabled, Labels, Naming};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use series::Series;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// The labels `route` and `service` carry names instead of ids, where there are names.
    #[serde(default)]
    pub prefer_name: bool,
}

/// Checked form of `plugin_metadata`: labels may be disabled, except those that make a metric what it is.
pub fn metadata_schema() -> Value {
    let mut properties = serde_json::Map::new();
    for metric in &METRICS {
        let labels: Vec<_> = metric.labels.iter().filter(|label| Some(**label) != metric.structural).collect();
        let array = json!({"type": "array", "items": {"type": "string", "enum": labels}});
        properties.insert(metric.name.into(), array);
    }
    json!({
        "type": "object",
        "properties": {
            "disabled_labels": {"type": "object", "properties": properties, "additionalProperties": false},
        },
    })
}

pub struct Prometheus {
    instance: u64,
    naming: Naming,
    families: Arc<Families>,
    disabled: Disabled,
    /// No label has to be read from a variable.
    plain: bool,
}

impl Define for Prometheus {
    const INFO: Info = Info::new("prometheus", 500, Phases::ACCESS.and(Phases::LOG)).version(0.2).prefer_route();
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Prometheus, BuildError> {
        static INSTANCE: AtomicU64 = AtomicU64::new(0);
        let attributes = Attributes::read(env.attribute("prometheus"))?;
        let families = env.shared.get_or_insert("prometheus", || {
            keep_expiring(env, &attributes);
            Families::register(env, &attributes).map(Arc::new)
        });
        let families = families.as_ref().clone()?;
        let extras = [&families.status.extra, &families.latency.extra, &families.bandwidth.extra];
        Ok(Prometheus {
            instance: INSTANCE.fetch_add(1, Ordering::Relaxed),
            naming: Naming::One { prefer_name: config.prefer_name },
            plain: extras.iter().all(|e| e.is_empty()),
            families,
            disabled: Disabled::read(env.metadata("prometheus")),
        })
    }
}

/// Notices between scrapes which series move, so that `expire` counts from about the last update, not from the scrape that
/// first saw it.
fn keep_expiring(env: &Env, attributes: &Attributes) {
    let (Some(control), Some(expire)) = (&env.control, attributes.shortest_expiry()) else { return };
    let (registry, every) =
        (env.metrics.clone(), (expire / 2).clamp(Duration::from_millis(100), Duration::from_secs(60)));
    control.spawn(async move {
        loop {
            tokio::time::sleep(every).await;
            registry.expire(Instant::now());
        }
    });
}

/// Milliseconds of one request.
pub(crate) struct Latency {
    request: f64,
    /// Of all tries together, where there was one.
    upstream: Option<f64>,
    apisix: f64,
}

impl Latency {
    /// apisix/utils/log-util.lua `latency_details_in_ms`.
    fn of(cx: &Context) -> Latency {
        let (request, upstream, apisix) = crate::log_entry::latencies(cx);
        Latency { request, upstream, apisix }
    }
}

impl Plugin for Prometheus {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if cx.custom_variable("request_type").is_some() {
            llm::begin(self, cx);
        }
        Flow::Next
    }

    fn log(&self, cx: &mut Context) {
        let latency = Latency::of(cx);
        if self.plain && cx.custom_variable("request_type").is_none() {
            return series::find(self.instance, cx, || self.series(cx)).record(cx, &latency);
        }
        self.series(cx).record(cx, &latency);
        llm::end(self, cx, &latency);
    }
}

impl Prometheus {
    fn series(&self, cx: &Context) -> Series {
        let mut labels = Labels::new(cx, self.naming);
        let families = &*self.families;
        let status = labels.with(&families.status, &self.disabled, |f, values| f.with(values));
        let mut latency = |kind| {
            labels.kind = kind;
            labels.with(&families.latency, &self.disabled, |f, values| f.with(values))
        };
        let request = latency("request");
        let upstream = (!cx.attempts.is_empty()).then(|| latency("upstream"));
        let apisix = latency("apisix");
        let mut bandwidth = |kind| {
            labels.kind = kind;
            labels.with(&families.bandwidth, &self.disabled, |f, values| f.with(values))
        };
        let (ingress, egress) = (bandwidth("ingress"), bandwidth("egress"));
        Series { status, request, upstream, apisix, ingress, egress }
    }
}
