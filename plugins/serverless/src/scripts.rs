//! Lua outside plugins: `filter_func` and `script` of routes, `_meta.pre_function`.
use crate::functions::{Runner, filter_body};
use crate::host::Looked;
use serde_json::Value;
use sluice_engine_lua::{Engine, Form, Limits, Paused, Phase as LuaPhase, Script, check, evaluate};
use sluice_expr::{Lookup, Predicate};
use sluice_model::Lua;
use sluice_plugin::{BodyChunk, Clock, Context, Env, Flow, NamedPlugin, Outcome, Phase, Plugin, Scripts};
use std::sync::Arc;

const SHARED: &str = "sluice.lua";

/// The engine of the process: the one that [`LuaScripts`] put into the environment, else one with the default limits.
pub(crate) fn engine(env: &Env) -> Arc<Engine> {
    env.shared.get_or_insert(SHARED, Engine::default)
}

/// LuaJIT for configuration.
pub struct LuaScripts {
    engine: Arc<Engine>,
    clock: Clock,
}

impl LuaScripts {
    /// The first call for an environment sets the limits of its plugins, too.
    pub fn new(env: &Env, limits: Limits) -> LuaScripts {
        let engine = env.shared.get_or_insert(SHARED, || Engine::new(limits));
        LuaScripts { engine, clock: env.clock.clone() }
    }

    fn script(&self, form: Form, owner: &str, name: &str, source: &str, config: &Value) -> Arc<Script> {
        Script::new(self.engine.clone(), form, owner, name, &[source.to_owned()], config)
    }
}

impl Scripts for LuaScripts {
    fn check(&self, purpose: Lua, source: &str) -> Result<(), String> {
        let form = match purpose {
            Lua::FilterFunc => Form::Predicate,
            Lua::Script => Form::Object,
            Lua::PreFunction => Form::PreFunction,
        };
        check(&self.engine, form, source).map_err(|e| e.0)
    }

    fn predicate(&self, owner: &str, source: &str) -> Arc<dyn Predicate> {
        Arc::new(FilterFunc(self.script(Form::Predicate, owner, "filter_func", source, &Value::Null)))
    }

    fn route_script(&self, owner: &str, source: &str) -> Arc<dyn Plugin> {
        let script = self.script(Form::Object, owner, "script", source, &Value::Null);
        Arc::new(RouteScript(Runner { script, clock: self.clock.clone() }))
    }

    fn pre_function(&self, owner: &str, config: &Value, source: &str, plugin: NamedPlugin) -> Arc<dyn Plugin> {
        let name = format!("pre_function execution for plugin {} failed", plugin.name);
        let script = self.script(Form::PreFunction, owner, &name, source, config);
        Arc::new(WithPreFunction { runner: Runner { script, clock: self.clock.clone() }, plugin: plugin.plugin })
    }
}

/// A route's `filter_func`.
#[derive(Debug)]
struct FilterFunc(Arc<Script>);

impl Predicate for FilterFunc {
    fn holds(&self, lookup: &dyn Lookup) -> bool {
        evaluate(&self.0, &mut Looked(lookup))
    }
    fn reads_body(&self) -> bool {
        self.0.reads_body()
    }
}

/// A route's `script` (apisix/script.lua). Of the request phases it has `access` and `before_proxy`.
struct RouteScript(Runner);

impl Plugin for RouteScript {
    fn wants_request_body(&self, _cx: &Context) -> bool {
        self.0.script.reads_body()
    }
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        self.0.request(Phase::Access, cx)
    }
    fn before_proxy<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if self.0.script.names(LuaPhase::BeforeProxy) { self.0.request(Phase::BeforeProxy, cx) } else { Flow::Next }
    }
    fn header_filter(&self, cx: &mut Context) {
        if self.0.script.names(LuaPhase::HeaderFilter) {
            self.0.run(Phase::HeaderFilter, cx);
        }
        if self.0.script.names(LuaPhase::BodyFilter) {
            filter_body(cx);
        }
    }
    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        if self.0.script.names(LuaPhase::BodyFilter) {
            self.0.body(cx, chunk);
        }
    }
    fn log(&self, cx: &mut Context) {
        if self.0.script.names(LuaPhase::Log) {
            self.0.run(Phase::Log, cx);
        }
    }
}

/// A plugin with `_meta.pre_function` (apisix/plugin.lua `run_meta_pre_function`).
struct WithPreFunction {
    runner: Runner,
    plugin: Arc<dyn Plugin>,
}

impl WithPreFunction {
    fn hook<'a>(&'a self, phase: Phase, cx: &'a mut Context) -> Flow<'a> {
        match self.runner.before(phase, cx) {
            Ok(Outcome::Next) => self.inner(phase, cx),
            Ok(reply) => reply.into(),
            Err(paused) => Flow::wait(self.sleep(paused, phase, cx)),
        }
    }

    fn inner<'a>(&'a self, phase: Phase, cx: &'a mut Context) -> Flow<'a> {
        match phase {
            Phase::Rewrite => self.plugin.rewrite(cx),
            Phase::Access => self.plugin.access(cx),
            _ => self.plugin.before_proxy(cx),
        }
    }

    async fn sleep(&self, paused: Paused, phase: Phase, cx: &mut Context) -> Outcome {
        match self.runner.sleep(paused, phase, cx).await {
            Outcome::Next => match self.inner(phase, cx) {
                Flow::Next => Outcome::Next,
                Flow::Reply(reply) => Outcome::Reply(reply),
                Flow::Wait(future) => future.await,
            },
            reply => reply,
        }
    }
}

impl Plugin for WithPreFunction {
    fn wants_request_body(&self, cx: &Context) -> bool {
        self.runner.script.reads_body() || self.plugin.wants_request_body(cx)
    }
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        self.hook(Phase::Rewrite, cx)
    }
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        self.hook(Phase::Access, cx)
    }
    fn before_proxy<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        self.hook(Phase::BeforeProxy, cx)
    }
    fn header_filter(&self, cx: &mut Context) {
        self.runner.run(Phase::HeaderFilter, cx);
        self.plugin.header_filter(cx);
    }
    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        self.runner.body(cx, chunk);
        self.plugin.body_filter(cx, chunk);
    }
    fn log(&self, cx: &mut Context) {
        self.runner.run(Phase::Log, cx);
        self.plugin.log(cx);
    }
}
