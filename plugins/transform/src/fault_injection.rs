//! `fault-injection`: makes a share of the requests slow (`delay`), or answers them with an error (`abort`), to try out
//! what clients do then.
//!
//! `vars` is a list of expressions of which one must hold; an empty list never holds. Where both are configured the
//! delay comes first. A status above 999 is refused, unlike in APISIX. The abort's body and text headers may contain variables (apisix/plugins/fault-injection.lua).
use crate::reply_parts;
use rand::Rng;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_expr::{Expr, Template};
use sluice_plugin::reply::ReplyBody;
use sluice_plugin::{BuildError, Clock, Context, Define, Env, Flow, Info, Outcome, Phases, Plugin, Reply, schema_of};
use std::time::Duration;

/// Configuration of `fault-injection`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1))]
pub struct Config {
    /// Answers instead of the upstream.
    #[serde(default)]
    abort: Option<Abort>,
    /// Waits before the request goes on.
    #[serde(default)]
    delay: Option<Delay>,
}

/// An answer.
#[derive(Debug, Deserialize, JsonSchema)]
struct Abort {
    /// Status of the answer.
    #[schemars(range(min = 200))]
    http_status: u32,
    /// Body of the answer; may contain variables. Without it an error status has the gateway's error page.
    #[serde(default)]
    #[schemars(length(min = 0))]
    body: Option<String>,
    /// Headers of the answer; text may contain variables.
    #[serde(default)]
    #[schemars(with = "Option<Object>")]
    headers: Option<Map<String, Value>>,
    /// Share of the requests, in percent; all where it is missing.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    percentage: Option<u8>,
    /// Only requests for which one of these expressions holds.
    #[serde(default)]
    #[schemars(with = "Option<Vec<Rule>>", length(max = 20))]
    vars: Option<Vec<Value>>,
}

/// A delay.
#[derive(Debug, Deserialize, JsonSchema)]
struct Delay {
    /// Length in seconds, with a fraction.
    #[schemars(range(min = 0))]
    duration: f64,
    /// Share of the requests, in percent; all where it is missing.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    percentage: Option<u8>,
    /// Only requests for which one of these expressions holds.
    #[serde(default)]
    #[schemars(with = "Option<Vec<Rule>>", length(max = 20))]
    vars: Option<Vec<Value>>,
}

/// An object of any members.
#[derive(JsonSchema)]
struct Object {}

/// An expression.
#[derive(JsonSchema)]
#[schemars(inline, extend("type" = "array"))]
struct Rule {}

/// Which requests are hit.
struct Target {
    percentage: Option<u8>,
    vars: Option<Box<[Expr]>>,
}

/// The plugin.
pub struct FaultInjection {
    abort: Option<(Target, Answer)>,
    delay: Option<(Target, Duration)>,
    reads_body: bool,
    clock: Clock,
}

struct Answer {
    status: u16,
    body: Option<Template>,
    headers: Vec<(Box<str>, Template)>,
}

impl Define for FaultInjection {
    const INFO: Info = Info::new("fault-injection", 11000, Phases::REWRITE).request_body();
    type Config = Config;

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        for name in ["abort", "delay"] {
            schema["properties"][name]["properties"]["vars"]["items"] = json!({"type": "array"});
        }
        reply_parts::describe_headers(&mut schema["properties"]["abort"]["properties"]["headers"]);
        schema
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        let abort = config.abort.as_ref().and_then(|a| a.vars.as_ref());
        let delay = config.delay.as_ref().and_then(|d| d.vars.as_ref());
        if let Some(abort) = &config.abort {
            reply_parts::status(abort.http_status)?;
        }
        for vars in [abort, delay] {
            expressions(vars)?;
        }
        Ok(())
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let mut plugin = FaultInjection { abort: None, delay: None, reads_body: false, clock: env.clock.clone() };
        if let Some(delay) = config.delay {
            // Longer than any connection lives; from_secs_f64 would panic on more than it can hold.
            let duration = Duration::try_from_secs_f64(delay.duration).unwrap_or(Duration::MAX / 4);
            let target = Target { percentage: delay.percentage, vars: expressions(delay.vars.as_ref())? };
            plugin.delay = Some((target, duration));
        }
        if let Some(abort) = config.abort {
            let answer = Answer {
                status: reply_parts::status(abort.http_status)?,
                body: abort.body.as_deref().map(Template::compile),
                headers: reply_parts::headers(&abort.headers.unwrap_or_default()),
            };
            let target = Target { percentage: abort.percentage, vars: expressions(abort.vars.as_ref())? };
            plugin.abort = Some((target, answer));
        }
        plugin.reads_body = plugin.needs_request_body();
        Ok(plugin)
    }
}

fn expressions(vars: Option<&Vec<Value>>) -> Result<Option<Box<[Expr]>>, BuildError> {
    let compile = |rules: &Vec<Value>| rules.iter().map(Expr::compile).collect::<Result<_, _>>();
    vars.map(compile).transpose().map_err(BuildError::new)
}

impl Target {
    fn matches(&self, cx: &Context) -> bool {
        self.vars.as_ref().is_none_or(|rules| rules.iter().any(|rule| rule.eval(cx)))
    }
    fn sampled(&self) -> bool {
        self.percentage.is_none_or(|percentage| rand::rng().random_range(1..=100) <= percentage)
    }
}

impl Answer {
    fn reply(&self, cx: &Context) -> Box<Reply> {
        let mut reply = Reply::status(self.status);
        if let Some(body) = &self.body {
            reply.body = ReplyBody::Bytes(body.render(cx, ""));
        }
        for (name, value) in &self.headers {
            reply = reply.header(name.to_string(), value.render(cx, ""));
        }
        Box::new(reply)
    }
}

impl FaultInjection {
    fn needs_request_body(&self) -> bool {
        let targets = [self.abort.as_ref().map(|a| &a.0), self.delay.as_ref().map(|d| &d.0)];
        let mut rules = targets.into_iter().flatten().flat_map(|t| t.vars.iter().flatten());
        let answer = self.abort.as_ref().map(|a| &a.1);
        let templates = answer.iter().flat_map(|a| a.body.iter().chain(a.headers.iter().map(|(_, value)| value)));
        rules.any(Expr::needs_request_body)
            || templates.flat_map(Template::variables).any(|variable| variable.needs_request_body())
    }
}

impl Plugin for FaultInjection {
    fn wants_request_body(&self, _cx: &Context) -> bool {
        self.reads_body
    }

    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        // Both are decided before the delay, so that a request is hit by what it was when it came.
        let abort = self.abort.as_ref().filter(|(target, _)| target.matches(cx) && target.sampled());
        let delay = self.delay.as_ref().filter(|(target, _)| target.matches(cx) && target.sampled());
        match (delay, abort) {
            (None, None) => Flow::Next,
            (None, Some((_, answer))) => Flow::Reply(answer.reply(cx)),
            (Some((_, duration)), abort) => Flow::wait(async move {
                self.clock.sleep(*duration).await;
                abort.map_or(Outcome::Next, |(_, answer)| Outcome::Reply(answer.reply(cx)))
            }),
        }
    }
}

#[cfg(test)]
mod tests;
