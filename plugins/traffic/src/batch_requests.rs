//! Takes several requests in one and answers with all their answers.
//!
//! Use it for clients that would otherwise ask many times over a slow network. A request to `/apisix/batch-requests`, which a route
//! with `public-api` must expose, carries a list of requests (`pipeline`); each goes through the gateway as if the client had
//! sent it, one after the other. The answer is a list of their statuses, headers and bodies. Headers of the outer request go with
//! each of them, except those of its body and its connection; `headers` and `query` of the list are for all that do not say
//! otherwise. `timeout` is the most milliseconds that an answer may pause.
//!
//! `plugin_attr.batch-requests.uri` is another path for the endpoint; `plugin_attr.batch-requests.max_response_size`
//! (67108864) the most bytes of all answers' bodies together: a body beyond it is left out, and `read_body_err` says so.
//!
//! Differences from APISIX: where a request of the list gets no answer, those after it are not sent; their answers are 504
//! in both. Requests of a list cannot be lists. Fields that frame a message or belong to a connection (`Content-Length`,
//! `Transfer-Encoding`, `Connection` …) are not taken from the list; names and values that are none are refused with 400.
//! Bodies that are not UTF-8 are sent with replacement characters. Over TLS it works, too.
//
// Read in apisix/plugins/batch-requests.lua, apisix/api_router.lua and lua-resty-http's `request_pipeline`.
use crate::own_gateway::{Gateway, Wire};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_model::Schema;
use sluice_plugin::{BuildError, Context, Define, Endpoint, Env, Flow, Info, Outcome, Phases, Plugin, Reply};
use std::sync::Arc;
use std::time::Duration;

mod answers;
pub(crate) mod pipeline;

const NAME: &str = "batch-requests";
const URI: &str = "/apisix/batch-requests";

/// The plugin has no configuration on objects.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct Config {}

/// `plugin_metadata`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Metadata {
    /// max pipeline body size in bytes
    #[serde(default = "max_body_size")]
    #[schemars(extend("exclusiveMinimum" = 0), schema_with = "integer")]
    max_body_size: u64,
    /// max number of requests allowed in the pipeline
    #[serde(default = "max_pipeline_items")]
    #[schemars(extend("exclusiveMinimum" = 0), schema_with = "integer")]
    max_pipeline_items: u64,
}

fn integer(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "integer"})
}
fn max_body_size() -> u64 {
    1 << 20
}
fn max_pipeline_items() -> u64 {
    1000
}

/// The plugin, which runs in no phase.
pub struct BatchRequests;

impl Define for BatchRequests {
    const INFO: Info = Info::new(NAME, 4010, Phases::NONE).global();
    type Config = Config;

    fn build(_: Config, _: &Env) -> Result<Self, BuildError> {
        Ok(BatchRequests)
    }
}

impl Plugin for BatchRequests {}

/// What the endpoint's handler knows.
struct Handler {
    limits: Metadata,
    /// Bytes of all answers' bodies.
    max_response_size: usize,
    schema: Schema,
    real_ip_header: Arc<str>,
    gateway: Gateway,
}

/// The one endpoint.
pub fn endpoints(env: &Env) -> Vec<Endpoint> {
    let attributes = env.attribute(NAME);
    let default = Metadata { max_body_size: max_body_size(), max_pipeline_items: max_pipeline_items() };
    let limits = env.metadata(NAME).and_then(|m| Metadata::deserialize(m).ok()).unwrap_or(default);
    let max_response_size = attributes["max_response_size"].as_u64().and_then(|n| usize::try_from(n).ok());
    let parts = Schema::new(pipeline::schema()).map_err(|e| e.to_string());
    let (schema, gateway) = match parts.and_then(|schema| Ok((schema, Gateway::new(env)?))) {
        Ok(parts) => parts,
        Err(error) => {
            tracing::error!("batch-requests: {error}");
            return Vec::new();
        }
    };
    let handler = Arc::new(Handler {
        max_response_size: max_response_size.unwrap_or(64 << 20),
        schema,
        real_ip_header: env.real_ip_header.clone(),
        gateway,
        limits,
    });
    vec![Endpoint {
        methods: &["POST"],
        uri: attributes["uri"].as_str().unwrap_or(URI).into(),
        body_limit: handler.limits.max_body_size,
        handler: Arc::new(move |cx| {
            let handler = handler.clone();
            Flow::wait(async move { Outcome::Reply(Box::new(handler.answer(cx).await)) })
        }),
    }]
}

fn table(status: u16, body: &Value) -> Reply {
    Reply::json(status, body).header("Content-Type", "application/json")
}

fn error(status: u16, message: impl std::fmt::Display) -> Reply {
    table(status, &json!({"error_msg": message.to_string()}))
}

impl Handler {
    async fn answer(&self, cx: &Context) -> Reply {
        if self.gateway.is_own(cx) {
            return error(400, "a pipeline request cannot be a pipeline");
        }
        match self.read(cx) {
            Ok((requests, timeout)) => match self.gateway.connect(cx, timeout).await {
                Ok(mut line) => {
                    table(200, &answers::send_all(&mut line, &requests, timeout, self.max_response_size).await)
                }
                Err(e) => error(500, format_args!("connect to apisix failed: {e}")),
            },
            Err(reply) => reply,
        }
    }

    /// The requests of a body, as bytes to send.
    fn read(&self, cx: &Context) -> Result<(Vec<Wire>, Duration), Reply> {
        let length = match cx.request.framing {
            sluice_http::h1::Framing::Length(length) if cx.request_body.is_none() => length,
            _ => cx.request_body.as_ref().map_or(0, |body| body.len() as u64),
        };
        let limit = self.limits.max_body_size;
        if length > limit {
            return Err(error(
                413,
                format_args!("request size {length} is greater than the maximum size {limit} allowed"),
            ));
        }
        let body = cx.request_body.as_deref().unwrap_or_default();
        if body.is_empty() {
            return Err(error(400, "no request body, you should give at least one pipeline setting"));
        }
        let mut data: Value = serde_json::from_slice(body).map_err(|e| {
            let (text, at) = (String::from_utf8_lossy(body), e.column());
            error(
                400,
                format_args!(
                    "invalid request body: {text}, err: Expected value but found invalid token at character {at}"
                ),
            )
        })?;
        self.schema.check(&mut data).map_err(|e| error(400, format_args!("bad request body: {}", e.message)))?;
        let batch: pipeline::Batch =
            serde_json::from_value(data).map_err(|e| error(400, format_args!("bad request body: {e}")))?;
        let (count, most) = (batch.len(), self.limits.max_pipeline_items);
        if count as u64 > most {
            return Err(error(400, format_args!("too many pipeline requests, {count} exceeds the maximum of {most}")));
        }
        let timeout = batch.timeout();
        match batch.requests(cx, &self.real_ip_header) {
            Ok(requests) => Ok((requests, timeout)),
            Err(e) => Err(error(400, format_args!("bad request body: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests;
