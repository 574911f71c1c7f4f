//! `debug-logger`: explains single live requests: which routes were candidates and why each lost, the merged configuration of
//! plugins and where each part came from, what each hook changed and how long it took, the choice of nodes, retries, the cache.
//!
//! Requests are chosen by a field with a signed token (`sluice explain-token` makes one) or by chance (`sample_ratio`);
//! `_meta.filter` narrows it further. The record goes to the log, a file or an HTTP server, and is kept in memory for
//! `GET /v1/explain/ID` on the Control API, which the answer to a signed request names. A global rule with it covers all
//! requests, those that match no route included. Without the plugin nothing of this costs anything; with it, a request that
//! is not chosen pays a look at its fields. Values of fields, arguments and variables that look like secrets are masked.
//!
//! Ours: APISIX has no such plugin.
use crate::logger;
use aws_lc_rs::hmac;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluice_plugin::record::{Explained, Record, RecordSink};
use sluice_plugin::{
    BuildError, Clock, Context, Define, Env, Flow, HttpClient, HttpOptions, HttpRequest, Info, Phases, Plugin,
};
use sluice_telemetry::line_file::DEFAULT_MAX_PENDING;
use sluice_telemetry::{BatchError, BatchOptions, BatchQueue, BatchSink, LineFile};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "debug-logger";
const VERSION: &str = "v1";

/// Explains live requests.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Signs tokens (HMAC-SHA256). Without it only chance chooses.
    #[schemars(length(min = 16))]
    pub key: Option<String>,
    /// The field that carries the token. It never reaches the upstream; the answer has the record's path under the same name.
    #[serde(default = "header")]
    #[schemars(length(min = 1), regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))]
    pub header: String,
    /// Seconds that a token may still be valid; one for longer is not accepted.
    #[serde(default = "hour")]
    #[schemars(range(min = 1))]
    pub max_age: u64,
    /// The share of requests that is explained without a token.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub sample_ratio: f64,
    /// Write records into the error log, at this level.
    pub log_level: Option<Level>,
    /// Append records to this file, a line each.
    #[schemars(length(min = 1))]
    pub path: Option<String>,
    /// Post records to this server, as JSON arrays.
    #[serde(default)]
    #[schemars(schema_with = "logger::uri")]
    pub endpoint: Option<String>,
    /// Keep records in memory for the Control API: 256 of the node, 8 MiB in all.
    #[serde(default = "yes")]
    pub keep: bool,
    /// Name the record's path in the answer to a request with a token.
    #[serde(default = "yes")]
    pub response_header: bool,
}

fn header() -> String {
    "Sluice-Explain".into()
}
fn hour() -> u64 {
    3600
}
fn yes() -> bool {
    true
}

/// Levels of the error log.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

fn signature(key: &[u8], expires: u64) -> hmac::Tag {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, format!("sluice-explain.{VERSION}.{expires}").as_bytes())
}

/// A token that is valid until then, in seconds since the epoch.
pub fn token(key: &str, expires: u64) -> String {
    let mut out = format!("{VERSION}.{expires}.");
    for byte in signature(key.as_bytes(), expires).as_ref() {
        // Writing to memory cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Why a token is not accepted; never what would have been right.
fn verify(token: &[u8], key: &str, now: u64, max_age: u64) -> Result<(), &'static str> {
    let malformed = "malformed token";
    let text = std::str::from_utf8(token).map_err(|_| malformed)?;
    let (version, rest) = text.split_once('.').ok_or(malformed)?;
    let (expires, _) = rest.split_once('.').filter(|_| version == VERSION).ok_or(malformed)?;
    let expires: u64 = expires.parse().map_err(|_| malformed)?;
    let right = self::token(key, expires);
    aws_lc_rs::constant_time::verify_slices_are_equal(right.as_bytes(), token).map_err(|_| "wrong signature")?;
    match expires {
        _ if expires < now => Err("expired token"),
        _ if expires - now > max_age => Err("token valid for longer than max_age"),
        _ => Ok(()),
    }
}

/// Where records go.
struct Sinks {
    level: Option<Level>,
    file: Option<LineFile>,
    queue: Option<Arc<BatchQueue<Vec<u8>>>>,
    kept: Option<Arc<Explained>>,
}

impl RecordSink for Sinks {
    fn deliver(&self, id: &str, record: Value) {
        let text = record.to_string();
        match self.level {
            None => {}
            Some(Level::Debug) => tracing::debug!(always = true, "debug-logger: {text}"),
            Some(Level::Info) => tracing::info!(always = true, "debug-logger: {text}"),
            Some(Level::Warn) => tracing::warn!(always = true, "debug-logger: {text}"),
            Some(Level::Error) => tracing::error!(always = true, "debug-logger: {text}"),
        }
        if let Some(file) = &self.file {
            file.push(text.as_bytes());
        }
        if let Some(kept) = &self.kept {
            kept.keep(id, text.as_bytes());
        }
        if let Some(queue) = &self.queue {
            queue.push(text.into_bytes());
        }
    }
}

/// A server that takes records.
struct Server {
    client: HttpClient,
    request: HttpRequest,
}

impl BatchSink<Vec<u8>> for Server {
    async fn deliver(&self, records: &[Vec<u8>]) -> Result<(), BatchError> {
        let body = logger::array(records, false);
        let answer = self.client.send(self.request.clone().body(body)).await;
        match answer.map_err(|error| BatchError::new(error.message))?.status {
            200..400 => Ok(()),
            status => Err(BatchError::new(format!("server returned status code[{status}]"))),
        }
    }
}

pub struct DebugLogger {
    config: Config,
    clock: Clock,
    sinks: Arc<Sinks>,
}

impl Define for DebugLogger {
    const INFO: Info = Info::new(NAME, 26_000, Phases::REWRITE.and(Phases::HEADER_FILTER)).secrets(&["key"]);
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        if config.key.is_none() && config.sample_ratio == 0.0 {
            return Err(BuildError::new("either \"key\" or \"sample_ratio\" is needed to choose requests"));
        }
        Ok(())
    }

    fn build(config: Config, env: &Env) -> Result<DebugLogger, BuildError> {
        let file = match config.path.as_ref().filter(|_| env.control.is_some()) {
            None => None,
            Some(path) => {
                let path = env.prefix.join(path);
                let file = LineFile::start(path, DEFAULT_MAX_PENDING, Some(env.logs.account(NAME)));
                let file = file.map_err(BuildError::new)?;
                env.logs.drain_at_end(&file.draining());
                Some(file)
            }
        };
        let queue = config.endpoint.as_ref().zip(env.control.as_ref()).map(|(endpoint, control)| {
            let options = BatchOptions { name: NAME.into(), batch_max_size: 100, ..BatchOptions::default() };
            let options = BatchOptions { inactive_timeout: Duration::from_secs(1), ..options };
            let sink = || Server {
                client: env.http_client(&HttpOptions::default()),
                request: HttpRequest::new("POST", endpoint.as_str()).header("Content-Type", "application/json"),
            };
            env.logs.open(control, NAME, &format!("{NAME}#{endpoint}"), options, sink)
        });
        let kept = config.keep.then(|| env.explained.clone());
        let sinks = Arc::new(Sinks { level: config.log_level, file, queue, kept });
        Ok(DebugLogger { config, clock: env.clock.clone(), sinks })
    }
}

impl DebugLogger {
    /// Whether the request carries a valid token; the field goes in any case.
    #[inline]
    fn is_signed(&self, cx: &mut Context) -> bool {
        let Some(key) = &self.config.key else { return false };
        let Some(token) = cx.request.headers.get(&self.config.header) else { return false };
        let verified = verify(token, key, self.clock.seconds(), self.config.max_age);
        if let Err(why) = verified {
            tracing::info!(client = cx.client_ip_text(), "debug-logger: {why}");
        }
        cx.request.headers.remove(&self.config.header);
        verified.is_ok()
    }
}

impl Plugin for DebugLogger {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let signed = self.is_signed(cx);
        let ratio = self.config.sample_ratio;
        if signed || ratio > 0.0 && rand::random::<f64>() < ratio {
            let id = format!("{:032x}", rand::random::<u128>());
            let announced = signed && self.config.response_header;
            Record::begin(cx, id, self.sinks.clone(), announced);
        }
        Flow::Next
    }

    fn header_filter(&self, cx: &mut Context) {
        let path = match cx.record() {
            Some(record) if record.announced => format!("/v1/explain/{}", record.id),
            _ => return,
        };
        cx.response.headers.set(&self.config.header, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::define;
    use sluice_plugin::testing::Harness;

    const KEY: &str = "a key of sixteen bytes";

    #[test]
    fn tokens_are_signed_and_end() {
        let good = token(KEY, 1000);
        let check = |token: &str, now| verify(token.as_bytes(), KEY, now, 600);
        assert_eq!(check(&good, 500), Ok(()));
        assert_eq!(check(&good, 1000), Ok(()));
        assert_eq!(check(&good, 1001), Err("expired token"));
        assert_eq!(check(&good, 399), Err("token valid for longer than max_age"));
        assert_eq!(check(&good.replace("1000", "2000"), 1500), Err("wrong signature"));
        assert_eq!(check(&token("another key, as long", 1000), 500), Err("wrong signature"));
        for wrong in ["", "v1", "v1.1000", "v2.1000.aa", "v1.x.aa", &good[..good.len() - 1]] {
            assert!(check(wrong, 500).is_err(), "{wrong}");
        }
    }

    fn harness(config: Value) -> Harness {
        Harness::new(define::<DebugLogger>(), config).unwrap()
    }

    #[test]
    fn a_token_chooses_a_request_and_stays_here() {
        let harness = harness(json!({"key": KEY, "header": "X-Explain"}));
        let now = harness.env.clock.seconds();
        for (token, chosen) in [(token(KEY, now + 60), true), (token(KEY, now - 1), false)] {
            let mut cx = Context::for_tests("GET", "/");
            cx.request.headers.append("x-explain", &token);
            assert!(harness.request(&mut cx).is_none());
            assert_eq!(cx.request.headers.get("x-explain"), None);
            assert_eq!(cx.trace.is_some(), chosen);
            harness.response(&mut cx, &[b""]);
            let link = cx.response.headers.get_str("x-explain").unwrap_or_default();
            assert_eq!(link.starts_with("/v1/explain/"), chosen, "{link}");
        }
    }

    #[test]
    fn chance_chooses_and_tells_the_client_nothing() {
        let chosen = |ratio: f64| {
            let harness = harness(json!({"sample_ratio": ratio, "key": KEY}));
            let mut cx = Context::for_tests("GET", "/");
            assert!(harness.request(&mut cx).is_none());
            harness.response(&mut cx, &[b""]);
            assert!(!cx.response.headers.contains("sluice-explain"));
            cx.trace.is_some()
        };
        assert!(chosen(1.0) && !chosen(0.0));
    }

    #[test]
    fn something_must_choose() {
        let error = |config: Value| Harness::new(define::<DebugLogger>(), config).err().map(|e| e.0);
        assert_eq!(error(json!({})).unwrap(), "either \"key\" or \"sample_ratio\" is needed to choose requests");
        assert!(error(json!({"key": "short"})).unwrap().contains("key"));
        assert!(error(json!({"sample_ratio": 2})).unwrap().contains("sample_ratio"));
    }
}
