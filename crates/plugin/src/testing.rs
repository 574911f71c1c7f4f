//! The harness for plugin unit tests: builds a plugin from JSON as the gateway does and runs its phases on a context.
use crate::chain::{Chain, ChainEntry, ChainSource, Step};
use crate::context::{BodyChunk, Context};
use crate::definition::{BuildError, Definition};
use crate::env::Env;
use crate::info::{Phase, Scope};
use crate::plugin::Outcome;
use crate::registry::Registry;
use crate::reply::Reply;
use serde_json::Value;
use std::sync::Arc;

/// A plugin under test.
pub struct Harness {
    pub env: Env,
    chain: Chain,
}

impl Harness {
    /// Checks the configuration against the plugin's schema (defaults injected) and builds it.
    pub fn new(definition: Definition, config: Value) -> Result<Harness, BuildError> {
        Harness::with_env(definition, config, Env::for_tests())
    }

    /// As [`Harness::new`], in this environment.
    pub fn with_env(definition: Definition, mut config: Value, env: Env) -> Result<Harness, BuildError> {
        match env.registry() {
            Some(registry) => registry.check(definition.info.name, Scope::Route, &mut config)?,
            None => check(definition, Scope::Route, &mut config)?,
        }
        let plugin = (definition.build)(&config, &env)?;
        let entry = ChainEntry {
            info: definition.info,
            priority: definition.info.priority,
            filter_reads_body: false,
            overrides: false,
            plugin,
            filter: None,
            error_response: None,
            source: ChainSource::Route,
            config: Arc::new(config),
        };
        Ok(Harness { env, chain: Chain::new(vec![entry]) })
    }

    /// Runs `rewrite` and `access`; the reply, if the plugin gave one. Futures are driven to their end.
    pub fn request(&self, cx: &mut Context) -> Option<Reply> {
        self.phase(Phase::Rewrite, cx).or_else(|| self.phase(Phase::Access, cx))
    }

    /// Runs one request phase.
    pub fn phase(&self, phase: Phase, cx: &mut Context) -> Option<Reply> {
        let mut at = 0;
        loop {
            let outcome = match self.chain.step(phase, &mut at, 0, cx) {
                Step::Done => return None,
                Step::Next => Some(Outcome::Next),
                Step::NeedBody => None,
                Step::Reply(reply) => Some(Outcome::Reply(reply)),
                Step::Wait(future) => Some(block_on(future)),
            };
            match outcome {
                None => cx.request_body = Some(Vec::new()),
                Some(Outcome::Next) => {}
                Some(Outcome::Reply(reply)) => return Some(*self.chain.finish(phase, at, reply)),
            }
        }
    }

    /// Runs `header_filter` on `cx.response`, then `body_filter` over the pieces, and returns the whole body.
    pub fn response(&self, cx: &mut Context, pieces: &[&[u8]]) -> Vec<u8> {
        for encoders in [false, true] {
            self.chain.header_filter(encoders, 0, cx);
        }
        let mut body = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            let mut chunk = BodyChunk { data: piece.to_vec(), last: i + 1 == pieces.len() };
            for encoders in [false, true] {
                self.chain.body_filter(encoders, 0, cx, &mut chunk);
            }
            body.extend_from_slice(&chunk.data);
        }
        body
    }

    /// Runs `body_filter` on one piece, where several plugins see the same body.
    pub fn body(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        for encoders in [false, true] {
            self.chain.body_filter(encoders, 0, cx, chunk);
        }
    }

    /// Runs `log`.
    pub fn log(&self, cx: &mut Context) {
        self.chain.log(0, cx);
    }
}

/// Checks a configuration as the gateway does; the error's text is what a client of the Admin API sees.
pub fn check(definition: Definition, scope: Scope, config: &mut Value) -> Result<(), BuildError> {
    Registry::new(&[&[definition]])?.check(definition.info.name, scope, config)
}

/// Drives a future on this thread.
pub fn block_on<F: std::future::Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(future),
        Err(e) => panic!("no runtime for a test: {e}"),
    }
}
