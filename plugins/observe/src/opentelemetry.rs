//! `opentelemetry`: takes part in W3C traces and reports a span for each sampled request to a collector by OTLP.
//!
//! The plugin works once its `plugin_metadata` says where the collector is; without, it warns and lets requests pass. The span
//! is named after method and route, carries the attributes that APISIX gives it, and is an error from status 500 on. The
//! upstream gets `traceparent` (and the client's `tracestate` and `baggage`) whether the request is sampled or not
//! (apisix/plugins/opentelemetry.lua, opentelemetry-lua).
//!
//! With `apisix.tracing: true` in config.yaml the phases of a sampled request, the look for its route and the hooks of the
//! response phases are spans below its own.
//!
//! Differences from APISIX: no such span tells of the server name's match or of DNS, which happen beside requests here, nor of
//! global rules; a collector's address may be `grpc://host:port` or `grpcs://host:port` for OTLP over gRPC; spans of
//! all routes share one queue, which drops and counts what is too much even with `drop_on_queue_full: false`, so that no
//! request waits; `service.name` is `APISIX` where `resource` does not name it, also without any `resource`; an attribute
//! without a value is left out instead of being empty; no empty `tracestate` is sent; a `traceparent` with flags beyond
//! sampled is valid.
mod config;
mod export;
mod ids;
mod otlp;
mod propagation;

use crate::logger;
pub use config::metadata_schema;
use config::{Config, Metadata, SamplerConfig, TraceIdSource};
use export::Sink;
use otlp::{SPAN_ATTRIBUTES, Scalar, SpanHead};
use propagation::{Fields, Parent, TRACEPARENT, TRACESTATE};
use serde::Deserialize;
use serde_json::Value;
use sluice_expr::{Lookup, Variable};
use sluice_plugin::timings::Timings;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Source, lookup};
use sluice_telemetry::{BatchOptions, BatchQueue};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

const NAME: &str = "opentelemetry";
/// `SpanKind` of what the client asked for.
const SERVER: u32 = 2;
/// Of a step within.
const INTERNAL: u32 = 1;

/// Which requests are reported.
#[derive(Debug, PartialEq)]
enum Sampler {
    On,
    Off,
    /// The first 32 bits of the trace's id are below this.
    Ratio(f64),
    /// As the caller decided; else this one.
    Parent(Box<Sampler>),
}

impl Sampler {
    fn new(config: &SamplerConfig) -> Sampler {
        match config.name.as_str() {
            "always_on" => Sampler::On,
            "trace_id_ratio" if config.options.fraction >= 1.0 => Sampler::On,
            "trace_id_ratio" => Sampler::Ratio(config.options.fraction.max(0.0) * f64::from(u32::MAX)),
            "parent_base" => {
                let root = config.options.root.as_deref().filter(|root| root.name != "parent_base");
                Sampler::Parent(Box::new(root.map_or(Sampler::Off, Sampler::new)))
            }
            _ => Sampler::Off,
        }
    }

    #[inline]
    fn samples(&self, parent: Option<&Parent>, trace_id: u128) -> bool {
        match self {
            Sampler::On => true,
            Sampler::Off => false,
            Sampler::Ratio(bound) => f64::from((trace_id >> 96) as u32) < *bound,
            Sampler::Parent(root) => parent.map_or_else(|| root.samples(None, trace_id), |parent| parent.sampled),
        }
    }
}

/// A field of the request that becomes an attribute.
#[derive(Debug, PartialEq)]
enum Wanted {
    Field(Box<str>),
    Prefix(Box<str>),
}

pub struct OpenTelemetry {
    tracer: Option<Tracer>,
}

struct Tracer {
    sampler: Sampler,
    source: TraceIdSource,
    set_variables: bool,
    variables: Vec<(Box<str>, Variable)>,
    fields: Vec<Wanted>,
    /// None in a command that only looks at configurations.
    queue: Option<Arc<BatchQueue<Vec<u8>>>>,
}

/// A sampled request's span between the phases.
struct Sampled {
    /// The plugin's instance: a global rule and a route may both have one.
    owner: usize,
    trace_id: u128,
    span_id: u64,
    parent_id: Option<u64>,
    trace_state: Box<str>,
    name: String,
    /// Encoded.
    attributes: Vec<u8>,
}

/// All of one request.
#[derive(Default)]
struct Spans(Vec<Sampled>);

fn scalar(value: &Value) -> Option<Scalar<'_>> {
    match value {
        Value::String(text) => Some(Scalar::Text(text.as_bytes())),
        Value::Bool(yes) => Some(Scalar::Bool(*yes)),
        Value::Number(number) => number.as_f64().map(Scalar::Double),
        _ => None,
    }
}

/// Attributes of the resource, encoded as a `Resource`.
fn resource(given: &BTreeMap<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    otlp::attribute(1, "hostname", &Scalar::Text(lookup::host_name().as_bytes()), &mut out);
    if !given.contains_key("service.name") {
        otlp::attribute(1, "service.name", &Scalar::Text(b"APISIX"), &mut out);
    }
    for (name, value) in given {
        if let Some(value) = scalar(value) {
            otlp::attribute(1, name, &value, &mut out);
        }
    }
    out
}

impl Metadata {
    /// The queue to this collector, the same for all routes.
    fn open(&self, env: &Env) -> Option<Arc<BatchQueue<Vec<u8>>>> {
        let control = env.control.as_ref()?;
        let seconds = |n: f64| Duration::try_from_secs_f64(n.clamp(0.001, 86_400.0)).unwrap_or(Duration::from_secs(2));
        let processor = &self.batch_span_processor;
        let options = BatchOptions {
            name: NAME.into(),
            batch_max_size: usize::try_from(processor.max_export_batch_size).unwrap_or(usize::MAX),
            inactive_timeout: seconds(processor.inactive_timeout),
            buffer_duration: seconds(processor.batch_timeout),
            // opentelemetry-lua asks three times.
            max_retry_count: 2,
            ..BatchOptions::default()
        };
        env.logs.account(NAME).set_limit(processor.max_queue_size);
        let key = format!("{NAME}#{self:?}");
        let _runtime = control.enter();
        let sink = || {
            let collector = &self.collector;
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let headers: Vec<_> = collector.request_headers.iter().map(|(n, v)| (n.clone(), text(v))).collect();
            let timeout = logger::seconds(collector.request_timeout.max(1));
            Sink::new(env, &collector.address, timeout, &headers, resource(&self.resource))
        };
        Some(env.logs.open(control, NAME, &key, options, sink))
    }
}

impl Define for OpenTelemetry {
    const INFO: Info = Info::new(NAME, 12009, Phases::REWRITE.and(Phases::LOG));
    type Config = Config;

    fn schema() -> Value {
        config::schema()
    }
    fn build(config: Config, env: &Env) -> Result<OpenTelemetry, BuildError> {
        let Some(metadata) = env.metadata(NAME) else { return Ok(OpenTelemetry { tracer: None }) };
        let metadata = Metadata::deserialize(metadata)
            .map_err(|error| BuildError(format!("plugin_metadata of {NAME} cannot be read: {error}")))?;
        if !metadata.collector.address.starts_with("grpcs://") {
            logger::warn_insecure(NAME, ("collector.address", std::slice::from_ref(&metadata.collector.address)), None);
        }
        let variables = config.additional_attributes.unwrap_or_default();
        let fields = config.additional_header_prefix_attributes.unwrap_or_default();
        let wanted = |name: String| match name.strip_suffix('*').filter(|prefix| !prefix.is_empty()) {
            Some(prefix) => Wanted::Prefix(prefix.into()),
            None => Wanted::Field(name.into()),
        };
        let tracer = Tracer {
            sampler: Sampler::new(&config.sampler),
            source: metadata.trace_id_source,
            set_variables: metadata.set_ngx_var,
            variables: variables.into_iter().map(|v| (v.as_str().into(), Variable::parse(&v))).collect(),
            fields: fields.into_iter().map(wanted).collect(),
            queue: metadata.open(env),
        };
        Ok(OpenTelemetry { tracer: Some(tracer) })
    }
}

/// A trace's id in 32 digits of either case.
fn given_id(text: &[u8]) -> Option<u128> {
    let text = std::str::from_utf8(text).ok()?;
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().filter(|id| *id != 0)
}

impl Tracer {
    fn new_id(&self, cx: &mut Context) -> u128 {
        if self.source == TraceIdSource::RequestId {
            let mut all = cx.request.headers.get_all("x-request-id");
            let given = match (all.next(), all.next()) {
                (Some(one), None) => given_id(one),
                (Some(_), Some(_)) => None,
                (None, _) => {
                    drop(all);
                    given_id(cx.request_id().as_bytes())
                }
            };
            if let Some(id) = given {
                return id;
            }
        }
        ids::trace()
    }

    /// Passes `tracestate` on as far as it is valid; one without a trace belongs to nobody.
    #[inline]
    fn pass_state(parent: Option<&Parent>, cx: &mut Context) {
        let Some(raw) = cx.request.headers.joined(TRACESTATE) else { return };
        let text = std::str::from_utf8(&raw).ok().filter(|_| parent.is_some());
        let repeated = matches!(raw, Cow::Owned(_));
        let passed = match text.and_then(propagation::tracestate).filter(|state| !state.is_empty()) {
            Some(Cow::Borrowed(_)) if !repeated => return,
            Some(state) => Some(state.into_owned()),
            None => None,
        };
        match passed {
            Some(state) => cx.request.headers.set(TRACESTATE, state),
            None => drop(cx.request.headers.remove(TRACESTATE)),
        }
    }

    /// What is known when the request comes (attributes: apisix/plugins/opentelemetry.lua `rewrite`).
    #[cold]
    fn begin(cx: &Context) -> (String, Vec<u8>) {
        let mut out = Vec::with_capacity(512);
        let mut text = |key: &str, value: Option<Cow<'_, [u8]>>| {
            if let Some(value) = value {
                otlp::attribute(SPAN_ATTRIBUTES, key, &Scalar::Text(&value), &mut out);
            }
        };
        let of = |variable: Variable| cx.variable(&variable).map(|value| value.into_bytes());
        let fixed = |value: &'static str| Some(Cow::Borrowed(value.as_bytes()));
        let method = cx.request.method_text();
        let borrowed = |value: &str| Some(Cow::Owned(value.as_bytes().to_vec()));
        text("net.host.name", of(Variable::Host));
        text("http.method", borrowed(method));
        text("http.scheme", fixed(cx.connection.scheme()));
        text("http.target", of(Variable::RequestUri));
        text("http.user_agent", cx.request.headers.get("user-agent").map(Cow::Borrowed));
        text("http.request.method", borrowed(method));
        text("url.scheme", fixed(cx.connection.scheme()));
        text("url.path", of(Variable::Uri));
        text("user_agent.original", cx.request.headers.get("user-agent").map(Cow::Borrowed));
        let mut name = method.to_owned();
        if let Some(route) = &cx.route {
            text("apisix.route_id", borrowed(&route.route_id));
            text("apisix.route_name", route.route_name.as_deref().and_then(borrowed));
            if let Some(uri) = &cx.matched_uri {
                text("http.route", borrowed(uri));
                name = format!("{name} {uri}");
            }
            if let Some(service) = &route.service_id {
                text("apisix.service_id", borrowed(service));
                text("apisix.service_name", route.service_name.as_deref().and_then(borrowed));
            }
        }
        (name, out)
    }

    #[cold]
    fn keep(&self, cx: &mut Context, parent: Option<&Parent>, trace_id: u128, span_id: u64) {
        let (name, attributes) = Tracer::begin(cx);
        let trace_state = cx.request.headers.get_str(TRACESTATE).unwrap_or_default().into();
        let owner = std::ptr::from_ref(self).addr();
        let parent_id = parent.map(|parent| parent.span_id);
        let span = Sampled { owner, trace_id, span_id, parent_id, trace_state, name, attributes };
        match cx.get_mut::<Spans>() {
            Some(spans) => spans.0.push(span),
            None => cx.insert(Spans(vec![span])),
        }
    }

    #[cold]
    fn finish(&self, cx: &Context, mut span: Sampled, queue: &BatchQueue<Vec<u8>>) {
        let elapsed = cx.started.elapsed();
        let end = UNIX_EPOCH.elapsed().unwrap_or_default();
        let (source, status) = (Source::of(cx).as_str(), cx.response.status);
        let out = &mut span.attributes;
        otlp::attribute(SPAN_ATTRIBUTES, "apisix.response_source", &Scalar::Text(source.as_bytes()), out);
        for key in ["http.status_code", "http.response.status_code"] {
            otlp::attribute(SPAN_ATTRIBUTES, key, &Scalar::Int(i64::from(status)), out);
        }
        for (name, variable) in &self.variables {
            if let Some(value) = cx.variable(variable) {
                otlp::attribute(SPAN_ATTRIBUTES, name, &Scalar::Text(&value.into_bytes()), out);
            }
        }
        for wanted in &self.fields {
            match wanted {
                Wanted::Field(name) => {
                    if let Some(value) = cx.request.headers.joined(name) {
                        otlp::attribute(SPAN_ATTRIBUTES, name, &Scalar::Text(&value), out);
                    }
                }
                Wanted::Prefix(prefix) => fields_with(prefix, cx, out),
            }
        }
        let error = (status >= 500).then(|| format!("{source} error: {status}"));
        let head = SpanHead {
            trace_id: span.trace_id,
            span_id: span.span_id,
            parent_id: span.parent_id,
            trace_state: &span.trace_state,
            name: &span.name,
            kind: SERVER,
            start: nanos(end.saturating_sub(elapsed)),
            end: nanos(end),
            error: error.as_deref(),
        };
        let mut encoded = Vec::with_capacity(span.attributes.len() + 128);
        otlp::span(&head, &span.attributes, &mut encoded);
        encoded.shrink_to_fit();
        queue.label(|| {
            let route = cx.route.as_ref().map(|r| &*r.route_id).unwrap_or_default();
            (route.into(), cx.connection.local.ip().to_canonical().to_string().into())
        });
        queue.push(encoded);
        if let Some(timings) = cx.trace.as_ref().and_then(|trace| trace.timings.as_deref()) {
            push_parts(timings, &span, end, queue);
        }
    }
}

/// Spans of the request's parts, below its own (`inject_core_spans`).
#[cold]
fn push_parts(timings: &Timings, root: &Sampled, end: Duration, queue: &BatchQueue<Vec<u8>>) {
    let now = Instant::now();
    let wall = |at: Instant| nanos(end.saturating_sub(now.saturating_duration_since(at)));
    let ids: Vec<u64> = timings.parts().iter().map(|_| ids::span()).collect();
    for (part, id) in timings.parts().iter().zip(&ids) {
        let parent = part.within.and_then(|at| ids.get(at)).copied().unwrap_or(root.span_id);
        let head = SpanHead {
            trace_id: root.trace_id,
            span_id: *id,
            parent_id: Some(parent),
            trace_state: &root.trace_state,
            name: &part.name,
            kind: if part.is_phase { SERVER } else { INTERNAL },
            start: wall(part.begun),
            end: wall(part.ended.unwrap_or(now)),
            error: part.error.as_deref(),
        };
        let mut encoded = Vec::with_capacity(128);
        otlp::span(&head, &[], &mut encoded);
        queue.push(encoded);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// All fields whose names, in lower case, begin so; repeated ones joined.
fn fields_with(prefix: &str, cx: &Context, out: &mut Vec<u8>) {
    let mut done: Vec<String> = Vec::new();
    for (name, _) in cx.request.headers.iter() {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        if name.starts_with(prefix) && !done.contains(&name) {
            if let Some(value) = cx.request.headers.joined(&name) {
                otlp::attribute(SPAN_ATTRIBUTES, &name, &Scalar::Text(&value), out);
            }
            done.push(name);
        }
    }
}

impl Plugin for OpenTelemetry {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let Some(tracer) = &self.tracer else {
            tracing::warn!("plugin_metadata is required for opentelemetry plugin to working properly");
            return Flow::Next;
        };
        let Fields { parent, has_parent, has_state } = Fields::read(&cx.request.headers);
        let parent = parent.as_ref();
        let trace_id = match parent {
            Some(parent) => parent.trace_id,
            None => tracer.new_id(cx),
        };
        let span_id = ids::span();
        let sampled = tracer.sampler.samples(parent, trace_id);
        let text = propagation::traceparent(trace_id, span_id, sampled);
        match has_parent {
            true => cx.request.headers.set(TRACEPARENT, text),
            false => cx.request.headers.append(TRACEPARENT, text),
        }
        if has_state {
            Tracer::pass_state(parent, cx);
        }
        if tracer.set_variables {
            let digits = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
            cx.set_variable("opentelemetry_context_traceparent", text);
            cx.set_variable("opentelemetry_trace_id", digits(3, 35));
            cx.set_variable("opentelemetry_span_id", digits(36, 52));
        }
        if sampled && tracer.queue.is_some() {
            tracer.keep(cx, parent, trace_id, span_id);
        }
        Flow::Next
    }

    fn log(&self, cx: &mut Context) {
        let Some(Tracer { queue: Some(queue), .. }) = &self.tracer else { return };
        let Some(tracer) = &self.tracer else { return };
        let owner = std::ptr::from_ref(tracer).addr();
        let Some(spans) = cx.get_mut::<Spans>() else { return };
        let Some(at) = spans.0.iter().position(|span| span.owner == owner) else { return };
        let span = spans.0.swap_remove(at);
        tracer.finish(cx, span, queue);
    }
}

#[cfg(test)]
mod tests;
