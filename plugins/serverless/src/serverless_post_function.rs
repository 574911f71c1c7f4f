//! `serverless-post-function` runs Lua functions of the configuration after all other plugins of its phase.
//!
//! Each string is a chunk that returns `function(conf, ctx)`; a function that returns a status or a body answers the
//! request, and the rest do not run. `ngx`, `apisix.core`, `cjson` and some of `resty.*` are there
//! (apisix/plugins/serverless/init.lua).
//!
//! Differences from APISIX: there are no sockets, timers, subrequests, files or processes; `ngx.sleep` works in the
//! phases before the upstream is asked. A function that runs too long or takes too much memory is ended
//! (`sluice.lua` in config.yaml), and an error in one is a 500. With phase `body_filter` a response has no
//! `Content-Length`, because the function may change its size.
use crate::functions::{Config, Functions};
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Flow, Info, Phase, Phases, Plugin};

/// The plugin.
pub struct ServerlessPostFunction(Functions);

impl Define for ServerlessPostFunction {
    const INFO: Info = Info::new("serverless-post-function", -2000, Phases::ALL).request_body();
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        config.check()
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        Ok(ServerlessPostFunction(Functions::new(Self::INFO.name, &config, env)))
    }
}

impl Plugin for ServerlessPostFunction {
    fn wants_request_body(&self, _cx: &Context) -> bool {
        self.0.reads_body()
    }
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        self.0.request(Phase::Rewrite, cx)
    }
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        self.0.request(Phase::Access, cx)
    }
    fn before_proxy<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        self.0.request(Phase::BeforeProxy, cx)
    }
    fn header_filter(&self, cx: &mut Context) {
        self.0.header_filter(cx);
    }
    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        self.0.body_filter(cx, chunk);
    }
    fn log(&self, cx: &mut Context) {
        self.0.log(cx);
    }
}
