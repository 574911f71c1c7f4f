//! `zipkin`: takes part in B3 traces and reports spans to a Zipkin collector in JSON, version 2 of its API.
//!
//! Use it where the services around the gateway speak B3, in one field (`b3`) or in several (`X-B3-*`). With `span_version: 2`
//! a request has the spans `apisix.request`, `apisix.proxy` and `apisix.response_span`; with 1 there are
//! `apisix.rewrite`, `apisix.access`, `apisix.proxy` and `apisix.body_filter` below the first
//! (apisix/plugins/zipkin.lua, zipkin/codec.lua, zipkin/reporter.lua).
//!
//! Differences from APISIX: what waits is bounded in bytes together with what loggers keep
//! (`sluice.limits.log_pending_bytes`); IPv6 addresses are reported as `ipv6`.
use crate::logger;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_expr::{Lookup, Variable};
use sluice_plugin::{
    BuildError, Context, Define, Env, Flow, HttpClient, HttpOptions, HttpRequest, Info, Phases, Plugin, Reply, Source,
};
use sluice_telemetry::{BatchError, BatchOptions, BatchQueue, BatchSink};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

const NAME: &str = "zipkin";
const PHASES: Phases = Phases::REWRITE.and(Phases::ACCESS).and(Phases::HEADER_FILTER).and(Phases::LOG);

/// Reports spans to Zipkin.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Where spans are posted to.
    pub endpoint: String,
    /// The part of requests that is sampled where the client does not decide.
    pub sample_ratio: f64,
    /// The gateway's name in spans.
    pub service_name: String,
    /// The gateway's address in spans; the connection's where it is not set.
    pub server_addr: Option<String>,
    /// Which spans are made.
    pub span_version: u8,
}

pub struct Zipkin {
    config: Config,
    set_variables: bool,
    /// None in a command that only looks at configurations.
    queue: Option<Arc<BatchQueue<Vec<u8>>>>,
}

/// One collector.
struct Sink {
    client: HttpClient,
    request: HttpRequest,
    endpoint: String,
}

impl BatchSink<Vec<u8>> for Sink {
    async fn deliver(&self, entries: &[Vec<u8>]) -> Result<(), BatchError> {
        let body = logger::array(entries, false);
        let endpoint = &self.endpoint;
        let answer = self
            .client
            .send(self.request.clone().body(body))
            .await
            .map_err(|error| BatchError::new(format!("failed: {error}, url: {endpoint}")))?;
        match answer.status {
            200..300 => Ok(()),
            status => Err(BatchError::new(format!("failed: {endpoint} {status}"))),
        }
    }
}

/// The request's trace between the phases.
struct Trace {
    trace_id: TraceId,
    parent: Option<u64>,
    request: u64,
    proxy: u64,
    sampled: bool,
    rewritten: Instant,
    accessed: Option<Instant>,
    answered: Option<Instant>,
    /// Method and target as the client sent them; empty where nothing is reported.
    method: Box<str>,
    url: Box<str>,
}

/// 16 or 32 digits.
#[derive(Clone, Copy, Debug, PartialEq)]
struct TraceId {
    id: u128,
    short: bool,
}

impl std::fmt::Display for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = if self.short { 16 } else { 32 };
        write!(f, "{:0width$x}", self.id)
    }
}

/// What the client says of the trace.
#[derive(Debug, Default, PartialEq)]
struct B3<'a> {
    trace_id: Option<&'a str>,
    span_id: Option<&'a str>,
    sampled: Option<&'a str>,
    parent: Option<&'a str>,
}

impl<'a> B3<'a> {
    /// The single field (openzipkin/b3-propagation, "Single Header").
    fn single(text: &'a str) -> Result<B3<'a>, &'static str> {
        if text == "0" {
            return Ok(B3 { sampled: Some("0"), ..B3::default() });
        }
        let mut pieces = text.splitn(4, '-');
        let trace_id = pieces.next().filter(|t| !t.is_empty()).ok_or("missing trace_id")?;
        let span_id = pieces.next().ok_or("missing span_id")?;
        Ok(B3 { trace_id: Some(trace_id), span_id: Some(span_id), sampled: pieces.next(), parent: pieces.next() })
    }

    /// Trace and span, unless some id is not one.
    fn valid(&self) -> Option<(TraceId, Option<u64>)> {
        let number = |id: &str| {
            let digits = id.bytes().all(|b| b.is_ascii_hexdigit());
            u128::from_str_radix(id, 16).ok().filter(|_| digits)
        };
        let span = |id: &str| number(id).filter(|_| id.len() == 16).map(|id| id as u64);
        let trace_id = self.trace_id.filter(|id| matches!(id.len(), 16 | 32))?;
        let trace_id = TraceId { id: number(trace_id)?, short: trace_id.len() == 16 };
        let span_id = match self.span_id {
            Some(id) => Some(span(id)?),
            None => None,
        };
        self.parent.is_none_or(|id| span(id).is_some()).then_some((trace_id, span_id))
    }
}

impl Define for Zipkin {
    const INFO: Info = Info::new(NAME, 12011, PHASES);
    type Config = Config;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "endpoint": {"type": "string", "description": "Where spans are posted to."},
                "sample_ratio": {"type": "number", "minimum": 0.00001, "maximum": 1,
                    "description": "The part of requests that is sampled where the client does not decide."},
                "service_name": {"type": "string", "default": "APISIX", "description": "The gateway's name in spans."},
                "server_addr": {"type": "string", "pattern": "^[0-9]{1,3}.[0-9]{1,3}.[0-9]{1,3}.[0-9]{1,3}$",
                    "description": "The gateway's address in spans; the connection's where it is not set."},
                "span_version": {"enum": [1, 2], "default": 2, "description": "Which spans are made."},
            },
            "required": ["endpoint", "sample_ratio"],
        })
    }
    fn build(config: Config, env: &Env) -> Result<Zipkin, BuildError> {
        logger::warn_insecure(NAME, ("endpoint", std::slice::from_ref(&config.endpoint)), None);
        let options = BatchOptions {
            name: "zipkin_report".into(),
            batch_max_size: 1000,
            inactive_timeout: Duration::from_secs(5),
            buffer_duration: Duration::from_secs(60),
            max_retry_count: 0,
            retry_delay: Duration::from_secs(1),
            ..BatchOptions::default()
        };
        let key = format!("{NAME}#{}#{config:?}", env.resource_key);
        let sink = || Sink {
            client: env.http_client(&HttpOptions::default()),
            request: HttpRequest::new("POST", config.endpoint.clone())
                .header("Content-Type", "application/json")
                .timeout(Duration::from_secs(60)),
            endpoint: config.endpoint.clone(),
        };
        let queue = env.control.as_ref().map(|c| env.logs.open(c, NAME, &key, options, sink));
        let set_variables = env.attribute(NAME)["set_ngx_var"].as_bool().unwrap_or(false);
        Ok(Zipkin { config, set_variables, queue })
    }
}

impl Plugin for Zipkin {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let single = cx.request.headers.get_str("b3").map(str::to_owned);
        let mut debug = false;
        let (wire, sampled) = {
            let h = &cx.request.headers;
            let b3 = match &single {
                Some(text) => match B3::single(text) {
                    Ok(b3) => b3,
                    Err(error) => {
                        tracing::error!("invalid b3 header: {text}, ignored: {error}");
                        return Flow::reply(Reply::text(400, Vec::new()));
                    }
                },
                None => B3 {
                    trace_id: h.get_str("x-b3-traceid"),
                    span_id: h.get_str("x-b3-spanid"),
                    sampled: h.get_str("x-b3-sampled"),
                    parent: h.get_str("x-b3-parentspanid"),
                },
            };
            let sampled = match b3.sampled {
                Some("d") if single.is_some() => {
                    debug = true;
                    true
                }
                Some("1" | "true") => true,
                Some("0" | "false") => false,
                _ => h.get("x-b3-flags") == Some(b"1") || rand::random::<f64>() < self.config.sample_ratio,
            };
            (b3.valid(), sampled)
        };
        if single.is_some() {
            cx.request.headers.remove("b3");
        }
        if debug {
            cx.request.headers.set("x-b3-flags", "1");
        }
        let (trace_id, parent) = match wire {
            Some((trace_id, span)) => (trace_id, Some(span.unwrap_or_else(rand::random))),
            None => (TraceId { id: rand::random(), short: false }, None),
        };
        let request = rand::random();
        if self.set_variables {
            let traceparent = format!("00-{trace_id}-{request:016x}-{:02x}", u8::from(sampled));
            cx.set_variable("zipkin_context_traceparent", traceparent);
            cx.set_variable("zipkin_trace_id", trace_id.to_string());
            cx.set_variable("zipkin_span_id", hex(request));
        }
        let proxy = if sampled { rand::random() } else { request };
        let rewritten = if sampled { Instant::now() } else { cx.started };
        let (method, url) = match sampled {
            true => {
                let url = cx.variable(&Variable::RequestUri).map(|url| url.as_str().into()).unwrap_or_default();
                (cx.request.method_text().into(), url)
            }
            false => (Box::default(), Box::default()),
        };
        let (accessed, answered) = (None, None);
        cx.insert(Trace { trace_id, parent, request, proxy, sampled, rewritten, accessed, answered, method, url });
        Flow::Next
    }

    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let Some(trace) = cx.get_mut::<Trace>() else { return Flow::Next };
        if trace.sampled {
            trace.accessed = Some(Instant::now());
        }
        let (trace_id, span_id, sampled) = (trace.trace_id, hex(trace.proxy), trace.sampled);
        let parent = if sampled { Some(trace.request) } else { trace.parent };
        let headers = &mut cx.request.headers;
        headers.set("x-b3-traceid", trace_id.to_string());
        if let Some(parent) = parent {
            headers.set("x-b3-parentspanid", hex(parent));
        }
        headers.set("x-b3-spanid", span_id);
        headers.set("x-b3-sampled", if sampled { "1" } else { "0" });
        Flow::Next
    }

    fn header_filter(&self, cx: &mut Context) {
        if let Some(trace) = cx.get_mut::<Trace>().filter(|t| t.sampled) {
            trace.answered = Some(Instant::now());
        }
    }

    fn log(&self, cx: &mut Context) {
        let Some(trace) = cx.take::<Trace>().filter(|t| t.sampled) else { return };
        let Some(queue) = &self.queue else { return };
        let end = Instant::now();
        let start = cx.started;
        let wall = cx.started_wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        let trace_id = trace.trace_id.to_string();
        let mut local = endpoint(cx.connection.local.ip().to_canonical(), cx.connection.local.port());
        local["serviceName"] = json!(self.config.service_name);
        if let Some(address) = self.config.server_addr.as_deref().filter(|a| !a.is_empty()) {
            local["ipv4"] = json!(address);
        }
        let push = |name: &str, id: u64, parent: Option<&str>, (from, to): (Instant, Instant), own: Option<Value>| {
            let since = (wall + from.saturating_duration_since(start)).as_micros() as u64;
            let mut span = json!({
                "traceId": trace_id, "name": name, "id": hex(id), "timestamp": since,
                "duration": to.saturating_duration_since(from).as_micros() as u64,
                "localEndpoint": local, "remoteEndpoint": null, "tags": {},
            });
            if let Some(parent) = parent {
                span["parentId"] = json!(parent);
            }
            if let Some(tags) = own {
                span["kind"] = json!("SERVER");
                span["remoteEndpoint"] = endpoint(cx.client_ip(), cx.client_port());
                span["tags"] = tags;
            }
            queue.push(span.to_string().into_bytes());
        };
        queue.label(|| {
            let route = cx.route.as_ref().map(|r| &*r.route_id).unwrap_or_default();
            (route.into(), cx.connection.local.ip().to_canonical().to_string().into())
        });
        let request = hex(trace.request);
        let below = Some(request.as_str());
        if self.config.span_version == 1 {
            push("apisix.rewrite", rand::random(), below, (start, trace.rewritten), None);
            if let Some(accessed) = trace.accessed {
                push("apisix.access", rand::random(), below, (trace.rewritten, accessed), None);
                if let Some(answered) = trace.answered {
                    push("apisix.body_filter", rand::random(), Some(&hex(trace.proxy)), (answered, end), None);
                }
                push("apisix.proxy", trace.proxy, below, (accessed, end), None);
            }
        } else if let Some(answered) = trace.answered {
            push("apisix.proxy", trace.proxy, below, (start, answered), None);
            push("apisix.response_span", rand::random(), below, (answered, end), None);
        }
        let tags = json!({
            "component": "apisix", "http.method": trace.method, "http.url": trace.url,
            "http.status_code": cx.response.status.to_string(), "apisix.response_source": Source::of(cx).as_str(),
        });
        let parent = trace.parent.map(hex);
        push("apisix.request", trace.request, parent.as_deref(), (start, end), Some(tags));
    }
}

fn hex(id: u64) -> String {
    format!("{id:016x}")
}

fn endpoint(ip: IpAddr, port: u16) -> Value {
    match ip {
        IpAddr::V4(ip) => json!({"ipv4": ip.to_string(), "port": port}),
        IpAddr::V6(ip) => json!({"ipv6": ip.to_string(), "port": port}),
    }
}

#[cfg(test)]
mod tests;
