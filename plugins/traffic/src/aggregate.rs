//! `aggregate` answers with what several calls together say, as one JSON document.
//!
//! Use it where a client would otherwise ask several services for one page. `calls` go through this gateway's own routes
//! (`uri`, with all that the routes do: authentication, limits, caches), or straight to a server (`url`), in `parallel` or in
//! `sequence`. Texts of a call may hold variables, in a sequence also what earlier calls said: `$call.NAME.status`,
//! `$call.NAME.body.user.id`. Of each answer `pick` takes a part, `select` keeps fields and `rename` renames them. `merge` says how
//! the parts become one: `group` (an object with a field per call), `flat` (one object of all fields; later calls win)
//! or `list`.
//!
//! A call fails where there is no answer in time, its status is not 2xx, or its answer is too large. Where a call that is `required`
//! fails, the client gets `failure_code` and the reasons, and a sequence is broken off. Otherwise the answer is partial: it lacks that
//! part (`null` in a group or list), names it in `X-Aggregate-Partial`, and tells why in the field `_errors` where it is an object.
//!
//! To routes of the gateway a call takes the client's header fields along (not those of the body, of conditions and ranges, nor
//! `Accept-Encoding`), to other servers only `forward_headers`. Values of variables are percent-encoded in `uri` and `url`, and
//! written as JSON text in `body`. Header fields of the answers go no further. It is Sluice's own. The surprise: calls cannot reach another `aggregate` or `batch-requests`
//! (508), so that nothing multiplies without end.
use crate::own_gateway::Gateway;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_plugin::{
    BuildError, Context, Define, Env, Flow, HttpClient, HttpOptions, Info, Outcome, Phases, Plugin, Reply,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

mod call;
mod shape;
#[cfg(test)]
mod tests;

use call::{Call, CallConfig, Said};

/// Configuration of `aggregate`.
#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// The calls, at most 32.
    #[schemars(with = "Vec<Value>")]
    calls: Vec<CallConfig>,
    /// `parallel`, or `sequence`: one after the other, in their order.
    mode: Mode,
    /// How the answers become one: `group`, `flat` or `list`.
    merge: Merge,
    /// The most milliseconds that all calls may take together.
    timeout: u64,
    /// The most bytes of one call's answer.
    max_response_size: usize,
    /// Status where a required call fails.
    failure_code: u16,
    /// Status of a partial answer.
    partial_code: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Parallel,
    Sequence,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Merge {
    Group,
    Flat,
    List,
}

/// The plugin.
pub struct Aggregate {
    calls: Box<[Call]>,
    mode: Mode,
    merge: Merge,
    timeout: Duration,
    keep: usize,
    failure_code: u16,
    partial_code: u16,
    reads_body: bool,
    gateway: Gateway,
    client: HttpClient,
    real_ip_header: Arc<str>,
}

impl Define for Aggregate {
    const INFO: Info = Info::new("aggregate", 411, Phases::ACCESS).request_body();
    type Config = Config;

    fn schema() -> Value {
        let code = |text: &str, default: u16| json!({"description": text, "type": "integer", "minimum": 200, "maximum": 599, "default": default});
        json!({
            "type": "object",
            "required": ["calls"],
            "properties": {
                "calls": {
                    "description": "The calls.",
                    "type": "array", "minItems": 1, "maxItems": 32, "items": call::schema()
                },
                "mode": {
                    "description": "All at once, or one after the other in their order.",
                    "type": "string", "enum": ["parallel", "sequence"], "default": "parallel"
                },
                "merge": {
                    "description": "How the answers become one: an object with a field per call, one object of all fields, or a list.",
                    "type": "string", "enum": ["group", "flat", "list"], "default": "group"
                },
                "timeout": {
                    "description": "The most milliseconds that all calls may take together.",
                    "type": "integer", "minimum": 1, "maximum": 600_000, "default": 10_000
                },
                "max_response_size": {
                    "description": "The most bytes of one call's answer.",
                    "type": "integer", "minimum": 1, "default": 1_048_576
                },
                "failure_code": code("Status where a required call fails.", 502),
                "partial_code": code("Status of a partial answer.", 200)
            }
        })
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        for (i, call) in config.calls.iter().enumerate() {
            call.check().map_err(|e| BuildError(format!("calls[{i}]: {e}")))?;
            if config.calls.iter().take(i).any(|other| other.name == call.name) {
                return Err(BuildError(format!("calls[{i}]: there are two calls {}", call.name)));
            }
        }
        Ok(())
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let calls: Box<[Call]> = config.calls.into_iter().map(Call::compile).collect();
        Ok(Aggregate {
            reads_body: calls.iter().any(Call::reads_body),
            calls,
            mode: config.mode,
            merge: config.merge,
            timeout: Duration::from_millis(config.timeout),
            keep: config.max_response_size,
            failure_code: config.failure_code,
            partial_code: config.partial_code,
            gateway: Gateway::new(env).map_err(BuildError)?,
            client: env.http_client(&HttpOptions::default()),
            real_ip_header: env.real_ip_header.clone(),
        })
    }
}

/// Waits for all, polling each whenever one of them is ready; there are few.
async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<Pin<Box<F>>> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|task| {
        let mut left = false;
        for (future, done) in waiting.iter_mut().zip(&mut done) {
            if done.is_none() {
                match future.as_mut().poll(task) {
                    Poll::Ready(output) => *done = Some(output),
                    Poll::Pending => left = true,
                }
            }
        }
        if left { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    done.into_iter().flatten().collect()
}

impl Aggregate {
    async fn say(&self, call: &Call, cx: &Context, before: &[(&Call, Said)]) -> Said {
        let limit = call.timeout.min(self.timeout);
        let asked = async {
            if call.is_own() {
                call.through_gateway(&self.gateway, &self.real_ip_header, cx, before, limit, self.keep).await
            } else {
                call.to_server(&self.client, cx, before, limit, self.keep).await
            }
        };
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok(said)) => said,
            Ok(Err(error)) => Said::failed(error),
            Err(_) => Said::failed("timeout"),
        }
    }

    async fn answer(&self, cx: &Context) -> Reply {
        if self.gateway.is_own(cx) {
            return Reply::message(508, "an aggregate cannot be called by another");
        }
        let mut said: Vec<(&Call, Said)> = Vec::with_capacity(self.calls.len());
        if self.mode == Mode::Parallel {
            let answers = all(self.calls.iter().map(|call| self.say(call, cx, &[]))).await;
            said.extend(self.calls.iter().zip(answers));
        } else {
            let deadline = tokio::time::Instant::now() + self.timeout;
            for call in &self.calls {
                let answer = match tokio::time::timeout_at(deadline, self.say(call, cx, &said)).await {
                    Ok(answer) => answer,
                    Err(_) => Said::failed("timeout"),
                };
                let stop = call.required && answer.error.is_some();
                said.push((call, answer));
                if stop {
                    break;
                }
            }
        }
        self.merged(said)
    }

    fn merged(&self, said: Vec<(&Call, Said)>) -> Reply {
        let failed: Vec<&str> = said.iter().filter(|(_, s)| s.error.is_some()).map(|(c, _)| c.name.as_str()).collect();
        let errors: Map<String, Value> =
            said.iter().filter_map(|(call, said)| Some((call.name.clone(), said.told()?))).collect();
        let json_reply =
            |status: u16, body: &Value| Reply::json(status, body).header("Content-Type", "application/json");
        if let Some((call, _)) = said.iter().find(|(call, said)| call.required && said.error.is_some()) {
            tracing::warn!(plugin = "aggregate", call = %call.name, "a required call failed");
            let message = format!("call {} failed", call.name);
            return json_reply(self.failure_code, &json!({"message": message, "errors": errors}));
        }
        let names = failed.join(", ");
        let parts = said.into_iter().map(|(call, said)| {
            let part = if said.error.is_some() { Value::Null } else { call.shape.apply(said.body) };
            (call.name.clone(), part)
        });
        let mut body = match self.merge {
            Merge::Group => Value::Object(parts.collect()),
            Merge::List => Value::Array(parts.map(|(_, part)| part).collect()),
            Merge::Flat => {
                let mut all = Map::new();
                for (name, part) in parts {
                    match part {
                        Value::Object(fields) => all.extend(fields),
                        Value::Null => {}
                        // What has no fields keeps the call's name.
                        other => {
                            all.insert(name, other);
                        }
                    }
                }
                Value::Object(all)
            }
        };
        if names.is_empty() {
            return json_reply(200, &body);
        }
        if let Value::Object(fields) = &mut body {
            fields.insert("_errors".into(), Value::Object(errors));
        }
        json_reply(self.partial_code, &body).header("X-Aggregate-Partial", names)
    }
}

impl Plugin for Aggregate {
    fn wants_request_body(&self, _cx: &Context) -> bool {
        self.reads_body
    }

    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        Flow::wait(async move { Outcome::Reply(Box::new(self.answer(cx).await)) })
    }
}
