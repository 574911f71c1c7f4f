//! Asks an Open Policy Agent server whether a request may pass.
//!
//! The server gets the request (and with `with_route`, `with_service`, `with_consumer` those objects) as `input` of
//! `/v1/data/POLICY`. Its `result.allow` lets the request pass, with `result.headers` as far as `send_headers_upstream` names
//! them; otherwise `result.status_code`, `result.headers` and `result.reason` make the answer. A server that cannot be asked
//! refuses with 403, one whose answer is no decision with 503.
//!
//! Differences from APISIX: only `allow: true` allows (there any value but `false` does, as `null`, `0` or an empty list); a
//! `status_code` outside of 200 to 599 is 403; a result that is no object is 503 and not 500; `timeout` is for the
//! whole exchange; with `with_route` and `with_service` the plugin stands on a route, service or plugin config, elsewhere such a
//! configuration is refused; the consumer is the stored object with `consumer_name`, without APISIX's internal fields.
use crate::authority;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_expr::{Lookup, Variable};
use sluice_http::target;
use sluice_plugin::{
    BuildError, Clock, Context, Define, Env, Flow, HttpClient, HttpRequest, Info, Outcome, Phases, Plugin, Reply,
};
use std::time::Duration;

const NAME: &str = "opa";

/// On a route, service or global rule.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Address of the server: `https://opa:8181`.
    pub host: String,
    /// Check the server's certificate.
    #[serde(default = "yes")]
    pub ssl_verify: bool,
    /// Path of the decision below `/v1/data/`; its value is an object with `allow`.
    pub policy: String,
    /// Milliseconds for the whole exchange with the server.
    #[serde(default = "three_seconds")]
    #[schemars(range(min = 1, max = 60000))]
    pub timeout: u64,
    /// Use connections again.
    #[serde(default = "yes")]
    pub keepalive: bool,
    /// Fields of the decision's `headers` that the upstream gets; the client's fields of these names never reach it.
    #[schemars(length(min = 1))]
    pub send_headers_upstream: Option<Vec<String>>,
    /// Milliseconds for which an idle connection is kept.
    #[serde(default = "minute")]
    #[schemars(range(min = 1000))]
    pub keepalive_timeout: u64,
    /// Idle connections kept.
    #[serde(default = "five")]
    #[schemars(range(min = 1))]
    pub keepalive_pool: usize,
    /// Send the route, without its upstream.
    #[serde(default)]
    pub with_route: bool,
    /// Send the route's service, without its upstream.
    #[serde(default)]
    pub with_service: bool,
    /// Send the consumer, its secrets included.
    #[serde(default)]
    pub with_consumer: bool,
}

fn yes() -> bool {
    true
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

/// The plugin (apisix/plugins/opa.lua, apisix/plugins/opa/helper.lua).
pub struct Opa {
    config: Config,
    endpoint: String,
    client: HttpClient,
    clock: Clock,
}

impl Define for Opa {
    const INFO: Info = Info::new(NAME, 2001, Phases::ACCESS).objects();
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Opa, BuildError> {
        let kind = env.resource_key.split('/').next().unwrap_or_default();
        let elsewhere = matches!(kind, "global_rules" | "consumers" | "consumer_groups" | "credentials");
        if (config.with_route || config.with_service) && elsewhere {
            let message = "with_route and with_service need the plugin on a route, service or plugin config";
            return Err(BuildError::new(message));
        }
        authority::warn_insecure(NAME, "host", &config.host, config.ssl_verify);
        let options =
            authority::options(config.ssl_verify, config.keepalive, config.keepalive_timeout, config.keepalive_pool);
        let endpoint = format!("{}/v1/data/{}", config.host, config.policy);
        Ok(Opa { client: env.http_client(&options), clock: env.clock.clone(), endpoint, config })
    }
}

impl Plugin for Opa {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let request = HttpRequest::new("POST", &*self.endpoint)
            .header("Content-Type", "application/json")
            .timeout(Duration::from_millis(self.config.timeout))
            .body(json!({"input": self.input(cx)}).to_string());
        Flow::wait(async move {
            let answer = match self.client.send(request).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::error!(route = cx.route_id(), "failed to process OPA decision, err: {error}");
                    return Outcome::Reply(Box::new(Reply::status(403)));
                }
            };
            let Ok(Value::Object(mut data)) = serde_json::from_slice(&answer.body) else {
                tracing::error!(route = cx.route_id(), "invalid response body: {}", shown(&answer.text()));
                return Outcome::Reply(Box::new(Reply::status(503)));
            };
            match data.remove("result") {
                Some(Value::Object(result)) => self.apply(cx, result),
                result => {
                    let trouble = result.map_or("field does not exist", |_| "is no object");
                    let (route, text) = (cx.route_id(), shown(&answer.text()));
                    tracing::error!(route, "invalid OPA decision format: {text} err: `result` {trouble}");
                    Outcome::Reply(Box::new(Reply::status(503)))
                }
            }
        })
    }
}

/// What goes into a log is short and one line.
fn shown(text: &str) -> String {
    text.escape_debug().take(500).collect()
}

impl Opa {
    fn input(&self, cx: &Context) -> Value {
        let text = |variable: Variable| {
            cx.variable(&variable).map_or_else(String::new, |v| String::from_utf8_lossy(&v.as_bytes()).into_owned())
        };
        let mut input = json!({
            "type": "http",
            "request": {
                "scheme": cx.connection.scheme(),
                "method": cx.request.method_text(),
                "host": cx.request.host(),
                "port": cx.connection.local.port(),
                "path": text(Variable::Uri),
                "headers": fields(cx),
                "query": query(cx.request.query().unwrap_or_default()),
            },
            "var": {
                "server_addr": text(Variable::ServerAddr),
                "server_port": text(Variable::ServerPort),
                "remote_addr": cx.client_ip_text(),
                "remote_port": text(Variable::RemotePort),
                "timestamp": self.clock.seconds(),
            },
        });
        let objects = cx.route.as_ref().and_then(|route| route.objects.as_ref());
        if let Some(objects) = objects.filter(|_| self.config.with_route) {
            input["route"] = objects.route.clone();
        }
        if let Some(service) = objects.filter(|_| self.config.with_service).and_then(|o| o.service.as_ref()) {
            input["service"] = service.clone();
        }
        if let Some(found) = cx.consumer.as_ref().filter(|_| self.config.with_consumer) {
            let mut consumer = found.consumer.raw.clone();
            if let Some(consumer) = consumer.as_object_mut() {
                consumer.insert("username".into(), json!(&*found.consumer.username));
                consumer.insert("consumer_name".into(), json!(&*found.consumer.username));
                if let Some(credential) = &found.credential_id {
                    consumer.insert("credential_id".into(), json!(&**credential));
                }
            }
            input["consumer"] = consumer;
        }
        input
    }

    fn apply(&self, cx: &mut Context, mut result: Map<String, Value>) -> Outcome {
        let headers = match result.remove("headers") {
            Some(Value::Object(headers)) => headers,
            _ => Map::new(),
        };
        if result.get("allow") != Some(&Value::Bool(true)) {
            return Outcome::Reply(Box::new(refusal(&result, headers)));
        }
        for name in self.config.send_headers_upstream.iter().flatten() {
            let named = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
            let values: Vec<String> = named.flat_map(|(_, value)| texts(value)).collect();
            authority::set_request_header(cx, name, values.iter().map(String::as_bytes));
        }
        Outcome::Next
    }
}

fn refusal(result: &Map<String, Value>, headers: Map<String, Value>) -> Reply {
    let status = match result.get("status_code") {
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_f64().map(|n| n as u64),
        None => None,
    };
    let status = status.and_then(|s| u16::try_from(s).ok()).filter(|s| (200..600).contains(s)).unwrap_or(403);
    let mut reply = match result.get("reason") {
        None | Some(Value::Null | Value::Bool(false)) => Reply::status(status),
        Some(Value::String(text)) => Reply::text(status, text.as_str()),
        Some(value) => Reply::text(status, value.to_string()),
    };
    for (name, value) in headers {
        for text in texts(&value) {
            reply = reply.header(name.clone(), text);
        }
    }
    reply
}

/// The values of a field as a policy writes them: a text, a number, a boolean, or a list of these.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Number(number) => vec![number.to_string()],
        Value::Bool(bool) => vec![bool.to_string()],
        Value::Array(list) => list.iter().filter(|v| !v.is_array()).flat_map(texts).collect(),
        Value::Null | Value::Object(_) => Vec::new(),
    }
}

/// A value beside those that a name has: several make a list, as `ngx.req.get_headers` and `get_uri_args` give them.
fn add(all: &mut Map<String, Value>, name: String, value: Value) {
    match all.get_mut(&name) {
        None => {
            all.insert(name, value);
        }
        Some(Value::Array(list)) => list.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
    }
}

fn fields(cx: &Context) -> Value {
    let mut all = Map::new();
    for (name, value) in cx.request.headers.iter() {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        add(&mut all, name, Value::String(String::from_utf8_lossy(value).into_owned()));
    }
    Value::Object(all)
}

/// An argument without `=` is `true`.
fn query(text: &str) -> Value {
    let mut all = Map::new();
    let decoded = |part: &str| String::from_utf8_lossy(&target::decode(part.as_bytes())).into_owned();
    for part in text.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name, Value::String(decoded(value))),
            None => (part, Value::Bool(true)),
        };
        if !name.is_empty() {
            add(&mut all, decoded(name), value);
        }
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests;
