//! `loki-logger`: pushes batches of log entries to Grafana Loki.
//!
//! Entries are grouped into streams by their labels, whose values may hold variables; the time of an entry is the beginning of
//! its request (apisix/plugins/loki-logger.lua). One of several endpoints is chosen by chance for each batch.
//!
//! Differences from APISIX: a batch is sent exactly when it is due; what waits is bounded in bytes over all loggers
//! (`sluice.limits.log_pending_bytes`); times have whole milliseconds.
use crate::log_entry::{LogOptions, start_millis, write_text};
use crate::logger::{self, BatchConfig, Logger, PHASES, entry_hooks};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value};
use sluice_expr::Template;
use sluice_plugin::{BuildError, Context, Define, Env, HttpClient, HttpOptions, HttpRequest, Info, Plugin};
use sluice_telemetry::{BatchEntry, BatchError, BatchSink};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "loki-logger";
const QUEUE: &str = "loki logger";

fn uris(generator: &mut SchemaGenerator) -> Schema {
    let uri = logger::uri(generator);
    json_schema!({"type": "array", "minItems": 1, "items": uri})
}
fn texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "patternProperties": {".*": {"type": "string", "minLength": 1}}})
}

/// Sends log entries to Loki.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Base addresses of Loki.
    #[schemars(schema_with = "uris")]
    pub endpoint_addrs: Vec<String>,
    /// The path that takes entries.
    #[serde(default = "endpoint_uri")]
    #[schemars(length(min = 1))]
    pub endpoint_uri: String,
    /// Value of `X-Scope-OrgID`.
    #[serde(default = "tenant_id")]
    pub tenant_id: String,
    /// Further fields of the request.
    #[serde(default)]
    #[schemars(schema_with = "texts")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Labels of an entry's stream; values may hold `$variables`.
    #[serde(default = "job")]
    #[schemars(schema_with = "texts")]
    pub log_labels: Map<String, Value>,
    /// Check the server's certificate.
    #[serde(default)]
    pub ssl_verify: bool,
    /// Milliseconds for one request.
    #[serde(default = "three_thousand")]
    #[schemars(range(min = 1, max = 60000))]
    pub timeout: u64,
    /// Use connections again.
    #[serde(default = "yes")]
    pub keepalive: bool,
    /// Milliseconds that an idle connection is kept.
    #[serde(default = "sixty_thousand")]
    #[schemars(range(min = 1000))]
    pub keepalive_timeout: u64,
    /// Idle connections kept.
    #[serde(default = "five")]
    #[schemars(range(min = 1))]
    pub keepalive_pool: u64,
    #[serde(flatten)]
    pub log: LogOptions,
    #[serde(flatten)]
    pub batch: BatchConfig,
}

fn endpoint_uri() -> String {
    "/loki/api/v1/push".into()
}
fn tenant_id() -> String {
    "fake".into()
}
fn job() -> Map<String, Value> {
    [("job".to_owned(), Value::from("apisix"))].into_iter().collect()
}
fn three_thousand() -> u64 {
    3000
}
fn sixty_thousand() -> u64 {
    60_000
}
fn five() -> u64 {
    5
}
fn yes() -> bool {
    true
}

/// A line of a stream.
pub struct Line {
    text: Vec<u8>,
    /// The stream: its labels as JSON.
    labels: Arc<[u8]>,
    /// Milliseconds since the epoch.
    time: u64,
}

impl BatchEntry for Line {
    fn bytes(&self) -> usize {
        self.text.capacity() + 24
    }
}

/// The labels of entries.
enum Labels {
    Constant(Arc<[u8]>),
    Templates(Vec<(String, Template)>),
}

fn labels_json<'a>(labels: impl Iterator<Item = (&'a str, Vec<u8>)>) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (i, (name, value)) in labels.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_text(name.as_bytes(), &mut out);
        out.push(b':');
        write_text(&value, &mut out);
    }
    out.push(b'}');
    out
}

impl Labels {
    fn compile(labels: &Map<String, Value>) -> Labels {
        let mut templates: Vec<(String, Template)> = labels
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), Template::compile(value.as_str()?))))
            .collect();
        // Sorted, so that equal sets are equal texts.
        templates.sort_by(|a, b| a.0.cmp(&b.0));
        let constants = templates.iter().map(|(n, t)| Some((n.as_str(), t.constant()?.as_bytes().to_vec())));
        match constants.collect::<Option<Vec<_>>>() {
            Some(constants) => Labels::Constant(labels_json(constants.into_iter()).into()),
            None => Labels::Templates(templates),
        }
    }

    fn of(&self, cx: &Context) -> Arc<[u8]> {
        match self {
            Labels::Constant(labels) => labels.clone(),
            Labels::Templates(templates) => {
                labels_json(templates.iter().map(|(name, template)| {
                    let mut value = Vec::new();
                    // A template none of whose variables is known stays as it is written.
                    template.render_into(cx, "", &mut value);
                    (name.as_str(), value)
                }))
                .into()
            }
        }
    }
}

pub struct LokiLogger {
    logger: Logger<Line>,
    labels: Labels,
}

struct Sink {
    client: HttpClient,
    urls: Vec<String>,
    request: HttpRequest,
}

/// The body of a push: streams in the order of their first lines.
fn push_body(lines: &[Line]) -> Vec<u8> {
    let mut streams: Vec<(&[u8], Vec<&Line>)> = Vec::new();
    let mut places: BTreeMap<&[u8], usize> = BTreeMap::new();
    for line in lines {
        let place = *places.entry(&line.labels).or_insert_with(|| {
            streams.push((&line.labels, Vec::new()));
            streams.len() - 1
        });
        if let Some((_, stream)) = streams.get_mut(place) {
            stream.push(line);
        }
    }
    let mut out = Vec::with_capacity(lines.iter().map(|l| l.text.len() * 5 / 4 + 32).sum());
    out.extend_from_slice(b"{\"streams\":[");
    for (i, (labels, stream)) in streams.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"stream\":");
        out.extend_from_slice(labels);
        out.extend_from_slice(b",\"values\":[");
        for (i, line) in stream.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            // Nanoseconds as a text: numbers of JSON are not so exact.
            out.extend_from_slice(format!("[\"{}000000\",", line.time).as_bytes());
            write_text(&line.text, &mut out);
            out.push(b']');
        }
        out.extend_from_slice(b"]}");
    }
    out.extend_from_slice(b"]}");
    out
}

impl BatchSink<Line> for Sink {
    async fn deliver(&self, lines: &[Line]) -> Result<(), BatchError> {
        let url = self.urls.get(rand::random_range(0..self.urls.len().max(1))).cloned().unwrap_or_default();
        let request = HttpRequest { url, ..self.request.clone() }.body(push_body(lines));
        let answer = self.client.send(request).await.map_err(|e| BatchError::new(e.message))?;
        if answer.status < 300 {
            return Ok(());
        }
        let (status, body) = (answer.status, answer.text());
        Err(BatchError::new(format!("loki server returned status: {status}, body: {body}")))
    }
}

impl Define for LokiLogger {
    const INFO: Info = Info::new(NAME, 414, PHASES).secrets(&["headers"]).request_body();
    type Config = Config;

    fn schema() -> Value {
        logger::schema::<Config>(QUEUE, Self::INFO.secrets)
    }
    fn check(config: &Config) -> Result<(), BuildError> {
        config.log.check_body_expressions()
    }
    fn build(config: Config, env: &Env) -> Result<LokiLogger, BuildError> {
        let switch = Some(("ssl_verify", config.ssl_verify));
        logger::warn_insecure(NAME, ("endpoint_addrs", &config.endpoint_addrs), switch);
        let options = HttpOptions {
            verify: config.ssl_verify,
            keepalive: config.keepalive.then(|| Duration::from_millis(config.keepalive_timeout.min(86_400_000))),
            keepalive_pool: usize::try_from(config.keepalive_pool).unwrap_or(usize::MAX),
            ..HttpOptions::default()
        };
        let mut request = HttpRequest::new("POST", "").timeout(Duration::from_millis(config.timeout));
        let own = config.headers.iter().flatten();
        for (name, value) in own.filter(|(n, _)| !["x-scope-orgid", "content-type"].contains(&&*n.to_ascii_lowercase()))
        {
            request = request.header(name.as_str(), value.as_str());
        }
        request = request.header("X-Scope-OrgID", config.tenant_id.as_str()).header("Content-Type", "application/json");
        let sink = || Sink {
            client: env.http_client(&options),
            urls: config.endpoint_addrs.iter().map(|a| format!("{a}{}", config.endpoint_uri)).collect(),
            request,
        };
        let logger = Logger::open(env, NAME, QUEUE, &config, (&config.log, &config.batch), sink)?;
        Ok(LokiLogger { logger, labels: Labels::compile(&config.log_labels) })
    }
}

impl Plugin for LokiLogger {
    entry_hooks!();
    fn log(&self, cx: &mut Context) {
        self.logger.push(cx, Some("no-matched"), |cx, entry| Line {
            text: entry.to_vec(),
            labels: self.labels.of(cx),
            time: start_millis(cx),
        });
    }
}
