//! `elasticsearch-logger`: writes log entries into Elasticsearch (or OpenSearch) by its bulk API.
//!
//! The index may hold times (`{%Y.%m.%d}`, local time, `!` in front: UTC) and variables; one of several endpoints is chosen by
//! chance for each batch. The server's version is asked for once, since versions 5 and 6 want a type beside the index
//! (apisix/plugins/elasticsearch-logger.lua).
//!
//! Differences from APISIX: the version is asked for beside requests, before the first batch, where APISIX makes the first
//! request wait; a batch is sent exactly when it is due; what waits is bounded in bytes over all loggers
//! (`sluice.limits.log_pending_bytes`). Entries that a bulk refuses one by one are not looked at, as in APISIX.
use crate::log_entry::{LogOptions, write_text};
use crate::logger::{self, BatchConfig, Logger, PHASES, entry_hooks, seconds};
use base64::Engine;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_expr::Template;
use sluice_plugin::{BuildError, Context, Define, Env, HttpClient, HttpOptions, HttpRequest, Info, Plugin};
use sluice_telemetry::{BatchEntry, BatchError, BatchSink};
use std::collections::BTreeMap;
use tokio::sync::OnceCell;

mod index_time;
#[cfg(test)]
mod tests;

use index_time::TimeFormat;

const NAME: &str = "elasticsearch-logger";

fn headers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "patternProperties": {"^[^:]+$": {"type": "string", "minLength": 1}},
        "additionalProperties": false,
    })
}
fn endpoint(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "[^/]$"})
}
fn endpoints(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "[^/]$"}})
}
fn auth(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "username": {"type": "string", "minLength": 1},
            "password": {"type": "string", "minLength": 1},
        },
        "oneOf": [{"required": ["username", "password"]}],
    })
}

/// Sends log entries to Elasticsearch.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Deprecated: one of `endpoint_addrs`.
    #[serde(default)]
    #[schemars(schema_with = "endpoint")]
    pub endpoint_addr: Option<String>,
    /// Base addresses, without a slash at the end.
    #[serde(default)]
    #[schemars(schema_with = "endpoints")]
    pub endpoint_addrs: Option<Vec<String>>,
    /// Where entries go.
    pub field: IndexField,
    /// Basic authentication.
    #[serde(default)]
    #[schemars(schema_with = "auth")]
    pub auth: Option<Credentials>,
    /// Further fields of the requests; they stand in for those that the plugin sends itself.
    #[serde(default)]
    #[schemars(schema_with = "headers")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Seconds for one request.
    #[serde(default = "ten")]
    #[schemars(range(min = 1))]
    pub timeout: u64,
    /// Check the server's certificate.
    #[serde(default = "yes")]
    pub ssl_verify: bool,
    #[serde(flatten)]
    pub log: LogOptions,
    #[serde(flatten)]
    pub batch: BatchConfig,
}

/// Where entries go.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct IndexField {
    /// The index; may hold times and variables.
    pub index: String,
}

#[derive(Debug, Deserialize)]
pub struct Credentials {
    username: String,
    password: String,
}

fn ten() -> u64 {
    10
}
fn yes() -> bool {
    true
}

/// An entry of a bulk.
pub struct Item {
    index: Vec<u8>,
    entry: Vec<u8>,
}

impl BatchEntry for Item {
    fn bytes(&self) -> usize {
        self.index.capacity() + self.entry.capacity()
    }
}

/// A part of an index's name.
enum Part {
    Time(TimeFormat),
    Text(Template),
}

/// The name of an index, compiled.
struct Index(Vec<Part>);

impl Index {
    /// A `{…}` without `$` before it is a time.
    fn compile(text: &str) -> Index {
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find('{') {
            let (before, after) = (rest.get(..at).unwrap_or(""), rest.get(at + 1..).unwrap_or(""));
            plain.push_str(before);
            match after.split_once('}').filter(|_| !plain.ends_with('$')) {
                Some((format, left)) => {
                    parts.push(Part::Text(Template::compile(&std::mem::take(&mut plain))));
                    parts.push(Part::Time(TimeFormat::compile(format)));
                    rest = left;
                }
                None => {
                    plain.push('{');
                    rest = after;
                }
            }
        }
        plain.push_str(rest);
        parts.push(Part::Text(Template::compile(&plain)));
        Index(parts)
    }

    fn render(&self, cx: &Context) -> Vec<u8> {
        let mut out = Vec::new();
        for part in &self.0 {
            match part {
                Part::Time(format) => out.extend_from_slice(format.render(std::time::SystemTime::now()).as_bytes()),
                Part::Text(template) => {
                    template.render_into(cx, "", &mut out);
                }
            }
        }
        out
    }
}

pub struct ElasticsearchLogger {
    logger: Logger<Item>,
    index: Index,
}

struct Sink {
    client: HttpClient,
    endpoints: Vec<String>,
    /// The request for the version.
    ask: HttpRequest,
    bulk: HttpRequest,
    /// The server's major version, once it is known.
    version: OnceCell<String>,
}

impl Sink {
    fn endpoint(&self) -> &str {
        self.endpoints.get(rand::random_range(0..self.endpoints.len().max(1))).map_or("", String::as_str)
    }

    async fn major_version(&self) -> Result<String, String> {
        let request = HttpRequest { url: self.endpoint().to_owned(), ..self.ask.clone() };
        let answer = self.client.send(request).await.map_err(|e| e.message)?;
        if answer.status != 200 {
            return Err(format!("server returned status: {}, body: {}", answer.status, answer.text()));
        }
        let body: Value =
            serde_json::from_slice(&answer.body).map_err(|e| format!("failed to decode response body: {e}"))?;
        let Some(number) = body["version"]["number"].as_str() else {
            return Err("failed to get version from response body".into());
        };
        let major = number.split_once('.').map(|(major, _)| major);
        match major.filter(|m| !m.is_empty() && m.bytes().all(|b| b.is_ascii_digit())) {
            Some(major) => Ok(major.to_owned()),
            None => Err(format!("invalid version format: {number}")),
        }
    }
}

impl BatchSink<Item> for Sink {
    async fn deliver(&self, items: &[Item]) -> Result<(), BatchError> {
        let version = match self.version.get_or_try_init(|| self.major_version()).await {
            Ok(version) => version,
            Err(error) => {
                tracing::error!("failed to get Elasticsearch version: {error}");
                ""
            }
        };
        let kind: &[u8] = if matches!(version, "5" | "6") { b",\"_type\":\"_doc\"}}\n" } else { b"}}\n" };
        let mut body = Vec::with_capacity(items.iter().map(|i| i.bytes() + 48).sum());
        for item in items {
            body.extend_from_slice(b"{\"index\":{\"_index\":");
            write_text(&item.index, &mut body);
            body.extend_from_slice(kind);
            body.extend_from_slice(&item.entry);
            body.push(b'\n');
        }
        let request = HttpRequest { url: format!("{}/_bulk", self.endpoint()), ..self.bulk.clone() }.body(body);
        let answer = self.client.send(request).await.map_err(|e| BatchError::new(e.message))?;
        if answer.status == 200 {
            return Ok(());
        }
        let (status, body) = (answer.status, answer.text());
        Err(BatchError::new(format!("elasticsearch server returned status: {status}, body: {body}")))
    }
}

/// A request with the configured fields, which replace those of the same name.
fn request(config: &Config, method: &str, fields: &[(&str, &str)]) -> HttpRequest {
    let mut request = HttpRequest::new(method, "").timeout(seconds(config.timeout)).max_response(16 << 20);
    let own = |name: &str| config.headers.iter().flatten().any(|(n, _)| n.eq_ignore_ascii_case(name));
    for (name, value) in fields.iter().filter(|(name, _)| !own(name)) {
        request = request.header(*name, *value);
    }
    if let Some(auth) = config.auth.as_ref().filter(|_| !own("authorization")) {
        let token = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", auth.username, auth.password));
        request = request.header("Authorization", format!("Basic {token}"));
    }
    for (name, value) in config.headers.iter().flatten() {
        request = request.header(name.as_str(), value.as_str());
    }
    request
}

impl Define for ElasticsearchLogger {
    const INFO: Info = Info::new(NAME, 413, PHASES).secrets(&["auth.password", "headers"]).request_body();
    type Config = Config;

    fn schema() -> Value {
        let mut schema = logger::schema::<Config>(NAME, Self::INFO.secrets);
        if let Some(schema) = schema.as_object_mut() {
            schema.remove("required");
            let either =
                [{ json!({"required": ["endpoint_addr", "field"]}) }, json!({"required": ["endpoint_addrs", "field"]})];
            schema.insert("oneOf".into(), json!(either));
        }
        schema
    }
    fn build(config: Config, env: &Env) -> Result<ElasticsearchLogger, BuildError> {
        let endpoints = match (&config.endpoint_addr, &config.endpoint_addrs) {
            (Some(one), _) => vec![one.clone()],
            (None, several) => several.clone().unwrap_or_default(),
        };
        let switch = Some(("ssl_verify", config.ssl_verify));
        logger::warn_insecure(NAME, ("endpoint_addrs", config.endpoint_addrs.as_deref().unwrap_or_default()), switch);
        let options = HttpOptions { verify: config.ssl_verify, ..HttpOptions::default() };
        let accepted = [("Content-Type", "application/x-ndjson"), ("Accept", "application/vnd.elasticsearch+json")];
        let sink = || Sink {
            client: env.http_client(&options),
            endpoints,
            ask: request(&config, "GET", &[]),
            bulk: request(&config, "POST", &accepted),
            version: OnceCell::new(),
        };
        let logger = Logger::open(env, NAME, NAME, &config, (&config.log, &config.batch), sink)?;
        Ok(ElasticsearchLogger { logger, index: Index::compile(&config.field.index) })
    }
}

impl Plugin for ElasticsearchLogger {
    entry_hooks!();
    fn log(&self, cx: &mut Context) {
        self.logger.push(cx, None, |cx, entry| Item { index: self.index.render(cx), entry: entry.to_vec() });
    }
}
