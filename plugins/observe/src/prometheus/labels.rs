//! Label values of one request, by label name. Only the slow path comes here: a series seen for the first time by a thread,
//! extra labels, requests to language models. The surprise: the same label name means different things for different
//! metrics (`route` is an id or a name), see [`Naming`].
use super::families::{Labelled, Metric};
use sluice_expr::{Lookup, Variable};
use sluice_plugin::{Context, Source};
use std::borrow::Cow;

/// Longest model name in a label, bytes: names come from clients, and must not fill the memory of metrics
/// (`MAX_MODEL_LABEL_LEN` of apisix/plugins/prometheus/exporter.lua).
const MAX_MODEL: usize = 128;

/// What `route`, `route_id`, `service` and `service_id` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// Ids in all of them, or the names where there are any (`prefer_name`).
    One { prefer_name: bool },
    /// Names in `route` and `service`, ids in the others.
    Both,
}

/// Label values of one request.
pub struct Labels<'a> {
    cx: &'a Context,
    naming: Naming,
    code: String,
    node: String,
    request_type: Cow<'a, str>,
    request_llm_model: Cow<'a, str>,
    llm_model: Cow<'a, str>,
    /// Of `type` and `layer`.
    pub kind: &'a str,
}

fn custom<'a>(cx: &'a Context, name: &str) -> Cow<'a, str> {
    cx.custom_variable(name).map(String::from_utf8_lossy).unwrap_or_default()
}

fn model<'a>(cx: &'a Context, name: &str) -> Cow<'a, str> {
    let value = cx.custom_variable(name).unwrap_or_default();
    String::from_utf8_lossy(value.get(..MAX_MODEL).unwrap_or(value))
}

impl<'a> Labels<'a> {
    pub fn new(cx: &'a Context, naming: Naming) -> Labels<'a> {
        let request_type = match custom(cx, "request_type") {
            unset if unset.is_empty() => Cow::Borrowed("traditional_http"),
            set => set,
        };
        Labels {
            cx,
            naming,
            code: cx.response.status.to_string(),
            node: cx.attempts.last().map(|a| a.address.ip().to_canonical().to_string()).unwrap_or_default(),
            request_type,
            request_llm_model: model(cx, "request_llm_model"),
            llm_model: model(cx, "llm_model"),
            kind: "",
        }
    }

    fn route(&self, named: bool) -> &str {
        let Some(route) = self.cx.route.as_deref() else { return "" };
        let name = route.route_name.as_deref();
        match self.naming {
            Naming::One { prefer_name: true } => name.unwrap_or(&route.route_id),
            Naming::Both if named => name.unwrap_or(""),
            _ => &route.route_id,
        }
    }

    fn service(&self, named: bool) -> &str {
        let Some(route) = self.cx.route.as_deref() else { return "" };
        let id = route.service_id.as_deref().unwrap_or("");
        let name = route.service_name.as_deref().filter(|_| !id.is_empty());
        match self.naming {
            Naming::One { prefer_name: true } => name.unwrap_or(id),
            Naming::Both if named => name.unwrap_or(""),
            _ => id,
        }
    }

    fn value(&self, label: &str) -> &str {
        match label {
            "type" | "layer" => self.kind,
            "code" => &self.code,
            "route" => self.route(true),
            "route_id" => self.route(false),
            "service" => self.service(true),
            "service_id" => self.service(false),
            "matched_uri" => self.cx.matched_uri.as_deref().unwrap_or(""),
            "matched_host" => self.cx.matched_host.as_deref().unwrap_or(""),
            "consumer" => self.cx.consumer.as_ref().map_or("", |c| &c.consumer.username),
            "node" => &self.node,
            "request_type" => &self.request_type,
            "request_llm_model" => &self.request_llm_model,
            "llm_model" => &self.llm_model,
            "response_source" => Source::of(self.cx).as_str(),
            _ => "",
        }
    }

    /// Calls `then` with the values of a metric's labels in order; disabled ones are empty.
    pub fn with<F, R>(&self, family: &Labelled<F>, disabled: &Disabled, then: impl FnOnce(&F, &[&str]) -> R) -> R {
        let extra: Vec<String> = family.extra.iter().map(|variable| self.extra(variable)).collect();
        let mask = disabled.mask(family.metric);
        let names = family.metric.definition().labels.iter().enumerate();
        let own = names.map(|(i, label)| if mask & (1 << i) != 0 { "" } else { self.value(label) });
        let values: Vec<&str> = own.chain(extra.iter().map(String::as_str)).collect();
        then(&family.family, &values)
    }

    fn extra(&self, variable: &Variable) -> String {
        self.cx.variable(variable).map(|v| v.as_str().into_owned()).unwrap_or_default()
    }
}

/// Labels that `plugin_metadata` disables: a bit per label, in the order of the metric's labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disabled([u16; super::families::METRICS.len()]);

impl Disabled {
    /// From `disabled_labels` of the metadata, which its schema has accepted.
    pub fn read(metadata: Option<&serde_json::Value>) -> Disabled {
        let mut disabled = Disabled::default();
        let Some(per_metric) = metadata.and_then(|m| m.get("disabled_labels")) else { return disabled };
        for (mask, definition) in disabled.0.iter_mut().zip(&super::families::METRICS) {
            let Some(names) = per_metric.get(definition.name).and_then(|v| v.as_array()) else { continue };
            for (i, label) in definition.labels.iter().enumerate() {
                if names.iter().any(|n| n == label) {
                    *mask |= 1 << i;
                }
            }
        }
        disabled
    }

    fn mask(&self, metric: Metric) -> u16 {
        self.0.get(metric as usize).copied().unwrap_or(0)
    }
}
