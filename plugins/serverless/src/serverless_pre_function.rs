//! `serverless-pre-function` runs Lua functions of the configuration before all other plugins of its phase.
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
pub struct ServerlessPreFunction(Functions);

impl Define for ServerlessPreFunction {
    const INFO: Info = Info::new("serverless-pre-function", 10000, Phases::ALL).request_body();
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        config.check()
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        Ok(ServerlessPreFunction(Functions::new(Self::INFO.name, &config, env)))
    }
}

impl Plugin for ServerlessPreFunction {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Reply, Scope, define};

    fn plugin(phase: &str, body: &str) -> Harness {
        let function = format!("return function(conf, ctx) {body} end");
        let config = json!({"phase": phase, "functions": [function]});
        Harness::new(define::<ServerlessPreFunction>(), config).unwrap()
    }

    #[test]
    fn a_function_answers_or_lets_pass() {
        let mut cx = Context::for_tests("GET", "/a?x=1");
        assert_eq!(plugin("access", "ngx.exit(201)").request(&mut cx), Some(Reply::status(201)));
        assert_eq!(
            plugin("rewrite", "return 401, {m = ngx.var.arg_x}").request(&mut cx),
            Some(Reply::text(401, "{\"m\":\"1\"}\n"))
        );
        assert_eq!(plugin("log", "ngx.exit(201)").request(&mut cx), None);
        assert_eq!(plugin("access", "error('no')").request(&mut cx), Some(Reply::status(500)));
        assert_eq!(plugin("access", "ngx.sleep(0.5) ngx.print('late')").request(&mut cx), None);
        assert_eq!(cx.take_begun(None), Some(Reply::text(200, "late")));
    }

    #[test]
    fn it_changes_the_request() {
        let mut cx = Context::for_tests("GET", "/a?x=1");
        let body = "ngx.req.set_uri('/b c') ngx.req.set_uri_args({y = 2}) ngx.req.set_header('X-A', 'b')
            ngx.req.set_method(ngx.HTTP_POST) ngx.req.set_body_data('body') ctx.var.mine = 'm' ngx.header['X-Early'] = 'e'";
        assert_eq!(plugin("rewrite", body).request(&mut cx), None);
        assert_eq!(cx.upstream_target(), b"/b%20c?y=2");
        assert_eq!(cx.request.path(), "/b c");
        assert_eq!(cx.request.headers.get_str("x-a"), Some("b"));
        assert_eq!(cx.request.method_text(), "POST");
        assert_eq!(cx.upstream.body.as_deref(), Some(b"body".as_slice()));
        assert_eq!(cx.custom_variable("mine"), Some(b"m".as_slice()));
        cx.apply_early_headers();
        assert_eq!(cx.response.headers.get_str("x-early"), Some("e"));
    }

    #[test]
    fn variables_name_the_upstream() {
        let mut cx = Context::for_tests("GET", "/a");
        let body = "ctx.var.upstream_uri = '/u' ngx.var.upstream_host = 'h' ctx.var.upstream_scheme = 'https' return 200, ctx.var.upstream_uri";
        assert_eq!(plugin("access", body).request(&mut cx), Some(Reply::text(200, "/u")));
        assert_eq!(cx.upstream_target(), b"/u");
        assert_eq!(cx.upstream.host.as_deref(), Some(b"h".as_slice()));
        assert_eq!(cx.upstream.scheme.as_deref(), Some("https"));
    }

    #[test]
    fn it_changes_the_response() {
        let mut cx = Context::for_tests("GET", "/a");
        cx.response.headers.append("X-A", "old");
        let head = plugin("header_filter", "ngx.status = 404 ngx.header['X-A'] = 'new' ngx.header.x_b = {'1', '2'}");
        head.response(&mut cx, &[]);
        assert_eq!(cx.response.status, 404);
        assert_eq!(cx.response.headers.get_str("x-a"), Some("new"));
        assert_eq!(cx.response.headers.get_all("x-b").count(), 2);
        let body = plugin(
            "body_filter",
            "local b = require('apisix.core').response.hold_body_chunk(ctx) if b then ngx.arg[1] = b .. '!' end",
        );
        assert_eq!(body.response(&mut cx, &[b"ab", b"c"]), b"abc!");
    }

    #[test]
    fn configurations_are_checked() {
        let says = |config: serde_json::Value| {
            check(define::<ServerlessPreFunction>(), Scope::Route, &mut config.clone()).map_err(|e| e.0)
        };
        assert_eq!(says(json!({"functions": ["return function() end"]})), Ok(()));
        let wrong = says(json!({"functions": ["a"]})).unwrap_err();
        assert_eq!(wrong, "failed to loadstring: [string \"a\"]:1: '=' expected near '<eof>'");
        let wrong = says(json!({"phase": "abc", "functions": ["return function() end"]})).unwrap_err();
        assert_eq!(wrong, "property \"phase\" validation failed: matches none of the enum values");
    }
}
