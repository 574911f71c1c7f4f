//! Asks another HTTP service whether a request may pass.
//!
//! The service gets the request's method, scheme, host, path and client address as `X-Forwarded-*` fields, those of the
//! client's fields that `request_headers` names, `extra_headers`, and with `request_method: POST` the body. An answer below 300
//! lets the request pass, with the answer's `upstream_headers`; any other goes to the client with its body and
//! `client_headers`. Use it where a service that knows sessions or permissions exists already.
//!
//! Differences from APISIX: `timeout` is for the whole exchange, and an answer of more than 8 MiB is a failure;
//! fields of the connection and of framing (`Host`, `Content-Length`, `Connection` …) named by `request_headers` are not copied,
//! and the gateway's own `X-Forwarded-*` cannot be doubled by naming them in another case; an `extra_headers` value that no field
//! can have refuses the request even with `allow_degradation`.
use crate::authority;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_expr::{Lookup, Template, Variable};
use sluice_plugin::{
    BuildError, Context, Define, Env, Flow, HttpClient, HttpRequest, HttpResponse, Info, Outcome, Phases, Plugin,
    Reply, schema_of,
};
use std::time::Duration;

const NAME: &str = "forward-auth";
/// Bytes of the largest answer.
const MAX_ANSWER: usize = 8 << 20;

/// On a route, service or global rule.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Address of the authorization service.
    pub uri: String,
    /// Let requests pass while the service cannot be asked.
    #[serde(default)]
    pub allow_degradation: bool,
    /// Status for the client while the service cannot be asked.
    #[serde(default = "forbidden")]
    #[schemars(range(min = 200, max = 599))]
    pub status_on_error: u16,
    /// Check the service's certificate.
    #[serde(default = "yes")]
    pub ssl_verify: bool,
    /// Method of the request to the service; `POST` carries the client's body.
    #[serde(default)]
    pub request_method: Method,
    /// Bytes of the largest body that is sent with `POST`; a larger one is refused with 413.
    #[serde(default = "max_body")]
    #[schemars(range(min = 1))]
    pub max_req_body_size: u64,
    /// Fields of the client's request that the service gets.
    #[serde(default)]
    pub request_headers: Vec<String>,
    /// More fields for the service; values may hold variables.
    #[serde(default)]
    pub extra_headers: Map<String, Value>,
    /// Fields of the service's answer that the upstream gets; the client's fields of these names never reach it.
    #[serde(default)]
    pub upstream_headers: Vec<String>,
    /// Fields of a refusing answer that the client gets.
    #[serde(default)]
    pub client_headers: Vec<String>,
    /// Milliseconds for the whole exchange with the service.
    #[serde(default = "three_seconds")]
    #[schemars(range(min = 1, max = 60000))]
    pub timeout: u64,
    /// Use connections again.
    #[serde(default = "yes")]
    pub keepalive: bool,
    /// Milliseconds for which an idle connection is kept.
    #[serde(default = "minute")]
    #[schemars(range(min = 1000))]
    pub keepalive_timeout: u64,
    /// Idle connections kept.
    #[serde(default = "five")]
    #[schemars(range(min = 1))]
    pub keepalive_pool: usize,
}

/// Method of the request to the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    #[default]
    Get,
    Post,
}

fn forbidden() -> u16 {
    403
}
fn yes() -> bool {
    true
}
fn max_body() -> u64 {
    64 << 20
}
fn three_seconds() -> u64 {
    3000
}
fn minute() -> u64 {
    60000
}
fn five() -> usize {
    5
}

/// The plugin (apisix/plugins/forward-auth.lua).
pub struct ForwardAuth {
    config: Config,
    extra: Vec<(String, Template)>,
    /// The body is sent, or a value of `extra_headers` is of it (`post_arg.*`).
    reads_body: bool,
    client: HttpClient,
}

impl Define for ForwardAuth {
    const INFO: Info = Info::new(NAME, 2002, Phases::ACCESS).request_body();
    type Config = Config;

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        schema["properties"]["extra_headers"] = json!({
            "type": "object", "minProperties": 1, "patternProperties": {"^[^:]+$": {"type": "string"}},
            "description": "More fields for the service; values may hold variables.",
        });
        schema
    }
    fn check(config: &Config) -> Result<(), BuildError> {
        config.extra_headers.keys().try_for_each(|name| authority::check_name("extra_headers", name))
    }
    fn build(config: Config, env: &Env) -> Result<ForwardAuth, BuildError> {
        authority::warn_insecure(NAME, "uri", &config.uri, config.ssl_verify);
        let options =
            authority::options(config.ssl_verify, config.keepalive, config.keepalive_timeout, config.keepalive_pool);
        let extra = config.extra_headers.iter();
        let extra: Vec<_> =
            extra.filter_map(|(name, v)| Some((name.clone(), Template::compile(v.as_str()?)))).collect();
        let reads_body = config.request_method == Method::Post
            || extra.iter().any(|(_, template)| template.variables().any(Variable::needs_request_body));
        Ok(ForwardAuth { client: env.http_client(&options), extra, reads_body, config })
    }
}

impl Plugin for ForwardAuth {
    fn wants_request_body(&self, _: &Context) -> bool {
        self.reads_body
    }

    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let request = match self.question(cx) {
            Ok(request) => request,
            Err(status) => return Flow::reply(Reply::status(status)),
        };
        Flow::wait(async move {
            match self.client.send(request).await {
                Ok(answer) if answer.status >= 300 => Outcome::Reply(Box::new(self.refusal(answer))),
                Ok(answer) => {
                    for name in &self.config.upstream_headers {
                        authority::set_request_header(cx, name, values(&answer, name));
                    }
                    Outcome::Next
                }
                Err(_) if self.config.allow_degradation => Outcome::Next,
                Err(error) => {
                    tracing::warn!(route = cx.route_id(), "failed to process forward auth, err: {error}");
                    Outcome::Reply(Box::new(Reply::status(self.config.status_on_error)))
                }
            }
        })
    }
}

fn values<'a>(answer: &'a HttpResponse, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    answer.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_slice())
}

impl ForwardAuth {
    /// What the service is asked, or the status of a request that cannot be put to it.
    fn question(&self, cx: &Context) -> Result<HttpRequest, u16> {
        let uri = cx.variable(&Variable::RequestUri).map(|uri| uri.into_bytes().into_owned()).unwrap_or_default();
        let method = match self.config.request_method {
            Method::Get => "GET",
            Method::Post => "POST",
        };
        let mut request = HttpRequest::new(method, &*self.config.uri)
            .timeout(Duration::from_millis(self.config.timeout))
            .max_response(MAX_ANSWER)
            .header("X-Forwarded-Proto", cx.connection.scheme())
            .header("X-Forwarded-Method", cx.request.method_text())
            .header("X-Forwarded-Host", cx.request.host())
            .header("X-Forwarded-Uri", uri)
            .header("X-Forwarded-For", cx.client_ip_text());
        if self.config.request_method == Method::Post {
            if let Some(encoding) = cx.request.headers.get("content-encoding") {
                request = request.header("Content-Encoding", encoding);
            }
            let body = cx.request_body.as_deref().unwrap_or_default();
            if body.len() as u64 > self.config.max_req_body_size {
                let limit = self.config.max_req_body_size;
                let (route, length) = (cx.route_id(), body.len());
                tracing::error!(route, "failed to read request body: {length} bytes are more than {limit}");
                return Err(413);
            }
            if body.is_empty() {
                // a POST says its length even where there is none (RFC 9110, 8.6); the client adds it to others
                request = request.header("Content-Length", "0");
            }
            request = request.body(body.to_vec());
        }
        for (name, template) in &self.extra {
            let value = template.render(cx, "");
            if !authority::is_value(&value) {
                tracing::warn!(
                    route = cx.route_id(),
                    "failed to process forward auth, err: invalid characters found in header value, header: {name}"
                );
                return Err(self.config.status_on_error);
            }
            request.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
            request = request.header(name.as_str(), value);
        }
        for name in &self.config.request_headers {
            let known = request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
            if known || authority::frames(name) {
                continue;
            }
            if let Some(value) = cx.request.headers.get(name) {
                request = request.header(name.as_str(), value);
            }
        }
        Ok(request)
    }

    fn refusal(&self, answer: HttpResponse) -> Reply {
        let mut reply = Reply::status(answer.status);
        for name in &self.config.client_headers {
            for value in values(&answer, name) {
                reply = reply.header(name.clone(), value);
            }
        }
        reply.body = sluice_plugin::reply::ReplyBody::Bytes(answer.body);
        reply
    }
}

#[cfg(test)]
mod tests;
