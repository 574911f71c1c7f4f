//! `http-logger`: posts batches of log entries as JSON to an HTTP or HTTPS server.
//!
//! Use it where a collector takes JSON over HTTP. A batch is one request: a JSON array, or a line for each entry with
//! `concat_method: new_line`; with `batch_max_size: 1` each entry is a request of its own (apisix/plugins/http-logger.lua).
//!
//! Differences from APISIX: a batch is sent exactly when it is due (APISIX looks every `inactive_timeout` seconds); what waits
//! is bounded in bytes over all loggers (`sluice.limits.log_pending_bytes`) beside `max_pending_entries`, which holds for the
//! node instead of each worker; `Host` carries the port where the uri has one; connections are kept and used again.
use crate::log_entry::LogOptions;
use crate::logger::{self, BatchConfig, Logger, PHASES, entry_hooks, seconds};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluice_plugin::{BuildError, Context, Define, Env, HttpClient, HttpOptions, HttpRequest, HttpStage, Info, Plugin};
use sluice_telemetry::{BatchError, BatchSink};

const NAME: &str = "http-logger";
const QUEUE: &str = "http logger";

/// Sends log entries to an HTTP server.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Where entries are posted to.
    #[schemars(schema_with = "logger::uri")]
    pub uri: String,
    /// Value of `Authorization`.
    pub auth_header: Option<String>,
    /// Seconds for one request.
    #[serde(default = "three")]
    #[schemars(range(min = 1))]
    pub timeout: u64,
    /// A JSON array, or a line for each entry.
    #[serde(default)]
    pub concat_method: ConcatMethod,
    /// Check the server's certificate.
    #[serde(default)]
    pub ssl_verify: bool,
    #[serde(flatten)]
    pub log: LogOptions,
    #[serde(flatten)]
    pub batch: BatchConfig,
}

fn three() -> u64 {
    3
}

/// How the entries of a batch become one body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConcatMethod {
    #[default]
    Json,
    NewLine,
}

pub struct HttpLogger {
    logger: Logger<Vec<u8>>,
}

/// One server.
struct Sink {
    client: HttpClient,
    request: HttpRequest,
    /// For messages.
    host: String,
    port: String,
    concat: ConcatMethod,
    single: bool,
}

impl Sink {
    fn new(config: &Config, env: &Env) -> Sink {
        let options = HttpOptions { verify: config.ssl_verify, ..HttpOptions::default() };
        let (scheme, rest) = config.uri.split_once("://").unwrap_or(("http", &config.uri));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
            Some((host, port)) => (host, port),
            None => (authority, if scheme == "https" { "443" } else { "80" }),
        };
        let kind = match config.concat_method {
            ConcatMethod::Json => "application/json",
            ConcatMethod::NewLine => "text/plain",
        };
        let mut request = HttpRequest::new("POST", plain_lists(&config.uri))
            .header("Content-Type", kind)
            .timeout(seconds(config.timeout));
        if let Some(authorization) = &config.auth_header {
            request = request.header("Authorization", authorization.as_str());
        }
        Sink {
            client: env.http_client(&options),
            request,
            host: host.into(),
            port: port.into(),
            concat: config.concat_method,
            single: config.batch.single(),
        }
    }
}

/// The uri with `name[]=a` as `name=a`: APISIX's client reads the query and writes it anew (lua `net.url`, `ngx.encode_args`).
fn plain_lists(uri: &str) -> String {
    let Some((path, query)) = uri.split_once('?') else { return uri.to_owned() };
    let plain = |pair: &str| match pair.split_once('=') {
        Some((name, value)) => format!("{}={value}", name.strip_suffix("[]").unwrap_or(name)),
        None => pair.to_owned(),
    };
    let query: Vec<String> = query.split('&').map(plain).collect();
    format!("{path}?{}", query.join("&"))
}

impl BatchSink<Vec<u8>> for Sink {
    async fn deliver(&self, entries: &[Vec<u8>]) -> Result<(), BatchError> {
        let body = match self.concat {
            ConcatMethod::Json => logger::array(entries, self.single),
            ConcatMethod::NewLine => entries.join(&b'\n'),
        };
        let Sink { host, port, .. } = self;
        let answer = self.client.send(self.request.clone().body(body)).await.map_err(|error| {
            BatchError::new(match error.stage {
                HttpStage::Connect => format!("failed to connect to host[{host}] port[{port}] {error}"),
                HttpStage::Tls => format!("failed to perform SSL with host[{host}] port[{port}] {error}"),
                HttpStage::Exchange => format!("error while sending data to [{host}] port[{port}] {error}"),
            })
        })?;
        if answer.status < 400 {
            return Ok(());
        }
        let (status, body) = (answer.status, answer.text());
        Err(BatchError::new(format!("server returned status code[{status}] host[{host}] port[{port}] body[{body}]")))
    }
}

impl Define for HttpLogger {
    const INFO: Info = Info::new(NAME, 410, PHASES).secrets(&["auth_header"]).request_body();
    type Config = Config;

    fn schema() -> Value {
        logger::schema::<Config>(QUEUE, Self::INFO.secrets)
    }
    fn check(config: &Config) -> Result<(), BuildError> {
        config.log.check_body_expressions()
    }
    fn build(config: Config, env: &Env) -> Result<HttpLogger, BuildError> {
        logger::warn_insecure(
            NAME,
            ("uri", std::slice::from_ref(&config.uri)),
            Some(("ssl_verify", config.ssl_verify)),
        );
        let logger = Logger::open(env, NAME, QUEUE, &config, (&config.log, &config.batch), || Sink::new(&config, env))?;
        Ok(HttpLogger { logger })
    }
}

impl Plugin for HttpLogger {
    entry_hooks!();
    fn log(&self, cx: &mut Context) {
        self.logger.push(cx, Some("no-matched"), |_, entry| entry.to_vec());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::testing::check;
    use sluice_plugin::{HttpError, HttpResponse, Scope, define};
    use std::sync::{Arc, Mutex};

    fn config(more: Value) -> Config {
        let mut config = json!({"uri": "http://sink:8080/x?a[]=1&b=2"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        check(define::<HttpLogger>(), Scope::Route, &mut config).unwrap();
        serde_json::from_value(config).unwrap()
    }

    /// What reaches the server, which answers `status`; and what the sink says.
    fn deliver(more: Value, status: Option<u16>, entries: &[&str]) -> (Vec<HttpRequest>, Result<(), String>) {
        let seen: Arc<Mutex<Vec<HttpRequest>>> = Arc::default();
        let inner = seen.clone();
        let env = Env::for_tests().with_http(move |request: &HttpRequest| {
            inner.lock().unwrap().push(request.clone());
            match status {
                Some(status) => Ok(HttpResponse { status, body: b"why".to_vec(), ..HttpResponse::default() }),
                None => Err(HttpError { message: "connection refused".into(), stage: HttpStage::Connect }),
            }
        });
        let sink = Sink::new(&config(more), &env);
        let entries: Vec<Vec<u8>> = entries.iter().map(|e| e.as_bytes().to_vec()).collect();
        let result = sluice_plugin::testing::block_on(sink.deliver(&entries)).map_err(|e| e.message);
        let seen = seen.lock().unwrap().clone();
        (seen, result)
    }

    #[test]
    fn bodies_by_concat_method_and_size() {
        let body = |more: Value, entries: &[&str]| {
            let (seen, result) = deliver(more, Some(200), entries);
            assert_eq!(result, Ok(()));
            String::from_utf8(seen[0].body.to_vec()).unwrap()
        };
        assert_eq!(body(json!({}), &["{}", "{}"]), "[{},{}]");
        assert_eq!(body(json!({}), &["{}"]), "[{}]");
        assert_eq!(body(json!({"batch_max_size": 1}), &["{}"]), "{}");
        assert_eq!(body(json!({"concat_method": "new_line"}), &["{}", "{}"]), "{}\n{}");
    }

    #[test]
    fn the_request_is_apisix_s() {
        let (seen, _) = deliver(json!({"auth_header": "Basic x"}), Some(200), &["{}"]);
        assert_eq!((&*seen[0].method, &*seen[0].url), ("POST", "http://sink:8080/x?a=1&b=2"));
        let header = |name: &str| seen[0].headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_slice());
        assert_eq!(header("Authorization"), Some(&b"Basic x"[..]));
        assert_eq!(header("Content-Type"), Some(&b"application/json"[..]));
    }

    #[test]
    fn failures_have_apisix_s_words() {
        let (_, refused) = deliver(json!({}), None, &["{}"]);
        assert_eq!(refused, Err("failed to connect to host[sink] port[8080] connection refused".into()));
        let (_, status) = deliver(json!({}), Some(400), &["{}"]);
        assert_eq!(status, Err("server returned status code[400] host[sink] port[8080] body[why]".into()));
    }

    #[test]
    fn the_schema_says_what_is_wrong() {
        let error = |mut config: Value| check(define::<HttpLogger>(), Scope::Route, &mut config).unwrap_err().0;
        assert_eq!(error(json!({})), "property \"uri\" is required");
        assert!(error(json!({"uri": "http://a", "timeout": 0})).contains("timeout"));
        let schema = HttpLogger::schema();
        assert_eq!(schema["properties"]["name"]["default"], "http logger");
        assert_eq!(schema["properties"].get("match"), None);
    }
}
