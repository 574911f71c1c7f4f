//! Shows the shape of a plugin. With `ip` it sends the request to that node instead of the route's upstream; everything
//! else in its configuration is only checked. For trying things out, not for production.
//!
//! Differs from APISIX (apisix/plugins/example-plugin.lua): nothing is logged in its phases.
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_plugin::{
    BuildError, Context, ControlEndpoint, ControlRequest, Define, Env, Flow, Info, Phases, Plugin, Reply, UpstreamRef,
};

/// Configuration of `example-plugin`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Any number from 0 on; not used.
    #[schemars(extend("minimum" = 0))]
    #[allow(dead_code, reason = "part of the schema only")]
    i: f64,
    /// Any text; not used.
    #[allow(dead_code, reason = "part of the schema only")]
    s: Option<String>,
    /// Any list with an item; not used.
    #[schemars(schema_with = "list")]
    #[allow(dead_code, reason = "part of the schema only")]
    #[serde(default)]
    t: Option<Value>,
    /// Address of the node to send requests to.
    ip: Option<String>,
    /// Port of the node; 80 by default.
    port: Option<i64>,
}

fn list(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "array", "minItems": 1})
}

/// `plugin_metadata` of `example-plugin`; checked and not used.
#[derive(Deserialize, JsonSchema)]
pub struct Metadata {
    /// Any number from 0 on.
    #[schemars(extend("minimum" = 0))]
    #[allow(dead_code, reason = "part of the schema only")]
    ikey: f64,
    /// Any text.
    #[allow(dead_code, reason = "part of the schema only")]
    skey: String,
}

/// Says `world`, with `?json` as JSON.
pub const CONTROL: &[ControlEndpoint] =
    &[ControlEndpoint { methods: &["GET"], uri: "/v1/plugin/example-plugin/hello", handler: hello }];

fn hello(request: &ControlRequest<'_>) -> Reply {
    if request.args.iter().any(|(name, _)| name == "json") {
        return Reply::json(200, &json!({"msg": "world"})).header("Content-Type", "application/json");
    }
    Reply::text(200, "world\n")
}

/// See the file's head.
pub struct ExamplePlugin {
    upstream: Option<UpstreamRef>,
}

impl Define for ExamplePlugin {
    const INFO: Info = Info::new("example-plugin", 0, Phases::ACCESS);
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let Some(ip) = config.ip else { return Ok(ExamplePlugin { upstream: None }) };
        let node = json!({"host": ip, "port": config.port.unwrap_or(80), "weight": 1});
        let upstream = json!({"type": "roundrobin", "nodes": [node]});
        Ok(ExamplePlugin { upstream: Some(env.upstream("example-plugin", &upstream).map_err(BuildError)?) })
    }
}

impl Plugin for ExamplePlugin {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if let Some(upstream) = &self.upstream {
            cx.upstream.upstream = Some(upstream.clone());
        }
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::Harness;
    use sluice_plugin::{Scope, define, testing};

    #[test]
    fn the_schema_is_apisix_s() {
        let definition = define::<ExamplePlugin>().metadata::<Metadata>();
        let check = |mut config: Value| testing::check(definition, Scope::Route, &mut config).map_err(|e| e.0);
        assert_eq!(check(json!({"i": 1, "t": [1]})), Ok(()));
        assert_eq!(check(json!({})), Err("property \"i\" is required".into()));
        assert_eq!(
            check(json!({"i": -1})),
            Err("property \"i\" validation failed: expected -1 to be at least 0".into())
        );
        assert!(check(json!({"i": 1, "t": []})).is_err());
    }

    #[test]
    fn without_an_address_nothing_happens() {
        let harness = Harness::new(define::<ExamplePlugin>(), json!({"i": 0})).unwrap();
        let mut cx = Context::for_tests("GET", "/");
        assert!(harness.request(&mut cx).is_none());
        assert!(cx.upstream.upstream.is_none());
    }
}
