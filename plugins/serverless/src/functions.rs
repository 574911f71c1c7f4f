//! What the two serverless plugins share: configuration, and functions run in one phase.
use crate::host::{Seen, lua_phase};
use crate::scripts::engine;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_engine_lua::{Body, Engine, Form, Outcome as Called, Script, check, execute};
use sluice_plugin::{BodyChunk, BuildError, Clock, Context, Env, Flow, Outcome, Phase, Reply};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Configuration of `serverless-pre-function` and `serverless-post-function`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
pub struct Config {
    /// When the functions run.
    #[serde(default)]
    #[schemars(extend("default" = "access"))]
    phase: When,
    /// Lua chunks that each return `function(conf, ctx)`; they run in this order.
    #[schemars(length(min = 1))]
    functions: Vec<String>,
}

/// A phase.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum When {
    Rewrite,
    #[default]
    Access,
    HeaderFilter,
    BodyFilter,
    Log,
    BeforeProxy,
}

impl Config {
    /// apisix/plugins/serverless/init.lua `check_schema`
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        for source in &self.functions {
            check(checker(), Form::Functions, source).map_err(BuildError::new)?;
        }
        Ok(())
    }
}

/// The engine that only checks: a check has no environment.
pub(crate) fn checker() -> &'static Arc<Engine> {
    static CHECKER: OnceLock<Arc<Engine>> = OnceLock::new();
    CHECKER.get_or_init(Arc::default)
}

/// The functions of one configuration.
pub(crate) struct Functions {
    runner: Runner,
    phase: Phase,
}

impl Functions {
    pub(crate) fn new(name: &str, config: &Config, env: &Env) -> Functions {
        let phase = match config.phase {
            When::Rewrite => Phase::Rewrite,
            When::Access => Phase::Access,
            When::HeaderFilter => Phase::HeaderFilter,
            When::BodyFilter => Phase::BodyFilter,
            When::Log => Phase::Log,
            When::BeforeProxy => Phase::BeforeProxy,
        };
        let as_json = serde_json::to_value(config).unwrap_or_default();
        let owner = &env.resource_key;
        let script = Script::new(engine(env), Form::Functions, owner, name, &config.functions, &as_json);
        Functions { runner: Runner { script, clock: env.clock.clone() }, phase }
    }

    pub(crate) fn reads_body(&self) -> bool {
        matches!(self.phase, Phase::Rewrite | Phase::Access | Phase::BeforeProxy) && self.runner.script.reads_body()
    }

    pub(crate) fn request<'a>(&'a self, phase: Phase, cx: &'a mut Context) -> Flow<'a> {
        if phase == self.phase { self.runner.request(phase, cx) } else { Flow::Next }
    }

    pub(crate) fn header_filter(&self, cx: &mut Context) {
        match self.phase {
            Phase::HeaderFilter => self.runner.run(Phase::HeaderFilter, cx),
            Phase::BodyFilter => filter_body(cx),
            _ => {}
        }
    }

    pub(crate) fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        if self.phase == Phase::BodyFilter {
            self.runner.body(cx, chunk);
        }
    }

    pub(crate) fn log(&self, cx: &mut Context) {
        if self.phase == Phase::Log {
            self.runner.run(Phase::Log, cx);
        }
    }
}

/// The body's size may change; nobody knows until it has passed.
pub(crate) fn filter_body(cx: &mut Context) {
    cx.response.headers.remove("content-length");
    cx.filter_body();
}

/// Runs a script on a context.
pub(crate) struct Runner {
    pub(crate) script: Arc<Script>,
    pub(crate) clock: Clock,
}

/// What a call in a request phase means for the request.
fn outcome(result: Called, cx: &mut Context) -> Result<Outcome, sluice_engine_lua::Paused> {
    Ok(match result {
        Called::Next => Outcome::Next,
        Called::Begun { status, body } => {
            cx.begin_reply(status, &body);
            Outcome::Next
        }
        Called::Exit { status, body: Some(body) } => Outcome::Reply(Box::new(Reply::text(status, body))),
        Called::Exit { status, body: None } => Outcome::Reply(Box::new(Reply::status(status))),
        Called::Failed(_) => Outcome::Reply(Box::new(Reply::status(500))),
        Called::Wait(paused) => return Err(paused),
    })
}

impl Runner {
    /// A request phase.
    pub(crate) fn request<'a>(&'a self, phase: Phase, cx: &'a mut Context) -> Flow<'a> {
        let called = execute(&self.script, lua_phase(phase), &mut Seen::new(cx, phase), None);
        match outcome(called, cx) {
            Ok(outcome) => outcome.into(),
            Err(paused) => Flow::wait(self.sleep(paused, phase, cx)),
        }
    }

    /// Sleeps and goes on, as often as the script wants.
    pub(crate) async fn sleep(&self, mut paused: sluice_engine_lua::Paused, phase: Phase, cx: &mut Context) -> Outcome {
        loop {
            let time = Duration::try_from_secs_f64(paused.seconds).unwrap_or(Duration::MAX / 4);
            self.clock.sleep(time).await;
            let called = paused.resume(&mut Seen::new(cx, phase));
            match outcome(called, cx) {
                Ok(outcome) => return outcome,
                Err(again) => paused = again,
            }
        }
    }

    /// A phase that cannot answer any more.
    pub(crate) fn run(&self, phase: Phase, cx: &mut Context) {
        execute(&self.script, lua_phase(phase), &mut Seen::new(cx, phase), None);
    }

    /// A piece of the response's body.
    pub(crate) fn body(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        let mut body = Body { data: std::mem::take(&mut chunk.data), last: chunk.last };
        let phase = Phase::BodyFilter;
        execute(&self.script, lua_phase(phase), &mut Seen::new(cx, phase), Some(&mut body));
        chunk.data = body.data;
    }

    /// As [`Runner::request`], for a pre-function: it may end the request (`ngx.exit`), its errors do not.
    pub(crate) fn before(&self, phase: Phase, cx: &mut Context) -> Result<Outcome, sluice_engine_lua::Paused> {
        match execute(&self.script, lua_phase(phase), &mut Seen::new(cx, phase), None) {
            Called::Failed(_) => Ok(Outcome::Next),
            other => outcome(other, cx),
        }
    }
}
