//! Lets a request in when one of several auth plugins does.
//!
//! The plugins are tried in the order of `auth_plugins`; the first that finds a consumer ends the search. Use it while
//! clients move from one way to another.
//!
//! Differences from APISIX: when a later plugin lets the request in, the response does not carry the
//! `WWW-Authenticate` field of an earlier one.
use crate::challenge::LastReason;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_plugin::{
    BuildError, Context, Define, Env, Flow, Info, Outcome, Phases, Plugin, Registry, Reply, Scope, schema_of,
};
use std::borrow::Cow;
use std::sync::Arc;

/// On a route, service or global rule.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Auth plugins with their configurations, tried in this order: `{"key-auth": {}}`.
    #[schemars(length(min = 2))]
    pub auth_plugins: Vec<Map<String, Value>>,
}

/// The plugin (apisix/plugins/multi-auth.lua).
pub struct MultiAuth {
    plugins: Vec<(String, Arc<dyn Plugin>)>,
}

impl Define for MultiAuth {
    const INFO: Info = Info::new("multi-auth", 2600, Phases::REWRITE).auth().request_body();
    type Config = Config;

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        schema["title"] = json!("work with route or service object");
        if let Some(list) = schema.pointer_mut("/properties/auth_plugins").and_then(Value::as_object_mut) {
            list.remove("items");
        }
        schema
    }

    fn build(config: Config, env: &Env) -> Result<MultiAuth, BuildError> {
        let pairs = config.auth_plugins.into_iter().flatten();
        let plugins = pairs.map(|(name, config)| env.plugin(&name, &config).map(|plugin| (name, plugin)));
        Ok(MultiAuth { plugins: plugins.collect::<Result<_, _>>().map_err(BuildError)? })
    }
}

/// Checks and completes the configurations of the plugins within.
pub fn check_nested(config: &mut Value, registry: &Registry) -> Result<(), BuildError> {
    let list = config.get_mut("auth_plugins").and_then(Value::as_array_mut);
    for (name, config) in list.into_iter().flatten().filter_map(Value::as_object_mut).flatten() {
        match registry.get(name) {
            None => return Err(BuildError(format!("{name} plugin did not found"))),
            Some(definition) if !definition.info.auth => {
                return Err(BuildError(format!("{name} plugin is not supported")));
            }
            Some(_) => {
                let failed = |e| BuildError(format!("plugin {name} check schema failed: {e}"));
                registry.check(name, Scope::Route, config).map_err(failed)?;
            }
        }
    }
    Ok(())
}

impl Plugin for MultiAuth {
    fn wants_request_body(&self, cx: &Context) -> bool {
        self.plugins.iter().any(|(_, plugin)| plugin.wants_request_body(cx))
    }

    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        Flow::wait(async move {
            let mut challenge = None;
            let mut failures: Vec<String> = Vec::new();
            for (name, plugin) in &self.plugins {
                cx.insert(LastReason::default());
                let outcome = match plugin.rewrite(cx) {
                    Flow::Next => Outcome::Next,
                    Flow::Reply(reply) => Outcome::Reply(reply),
                    Flow::Wait(future) => future.await,
                };
                let reason = cx.take::<LastReason>().unwrap_or_default().0;
                let Outcome::Reply(reply) = outcome else { return Outcome::Next };
                failures.push(format!(
                    "{name} failed to authenticate the request, code: {}. error: {reason}",
                    reply.status
                ));
                let named = |(name, _): &(Cow<'static, str>, Vec<u8>)| name.eq_ignore_ascii_case("WWW-Authenticate");
                challenge = reply.headers.into_iter().find(named).or(challenge);
            }
            failures.iter().for_each(|failure| tracing::warn!(route = cx.route_id(), "{failure}"));
            let mut reply = Reply::message(401, "Authorization Failed");
            reply.headers.extend(challenge);
            Outcome::Reply(Box::new(reply))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{add, context, denied, schema_is};
    use sluice_plugin::testing::Harness;
    use sluice_plugin::{Consumers, Definition, define};

    fn definition(name: &str) -> Definition {
        *crate::PLUGINS.iter().find(|d| d.info.name == name).unwrap()
    }

    fn registry() -> Arc<Registry> {
        static OTHER: &[Definition] = &[];
        Arc::new(Registry::new(&[crate::PLUGINS, OTHER]).unwrap())
    }

    fn plugin(config: Value) -> Harness {
        Harness::with_env(definition("multi-auth"), config, Env::for_tests().with_registry(registry())).unwrap()
    }

    fn cx(headers: &[(&str, &str)]) -> Context {
        let mut all = Consumers::default();
        add(&mut all, &definition("key-auth"), &[("anna", None, json!({"key": "k"}))]);
        add(&mut all, &definition("basic-auth"), &[("bert", None, json!({"username": "bert", "password": "pw"}))]);
        context("GET", "/", headers, Arc::new(all))
    }

    #[test]
    fn the_schema_is_that_of_apisix() {
        assert!(define::<MultiAuth>().info.auth);
        schema_is(
            MultiAuth::schema(),
            json!({"type": "object", "title": "work with route or service object",
            "properties": {"auth_plugins": {"type": "array", "minItems": 2}}, "required": ["auth_plugins"]}),
        );
    }

    #[test]
    fn the_plugins_within_are_checked_and_completed() {
        let registry = registry();
        let error =
            |list: Value| registry.check("multi-auth", Scope::Route, &mut json!({"auth_plugins": list})).unwrap_err().0;
        assert_eq!(
            error(json!([{"key-auth": {}}])),
            "property \"auth_plugins\" validation failed: expect array to have at least 2 items"
        );
        assert_eq!(error(json!([{"key-auth": {}}, {"no-auth": {}}])), "no-auth plugin did not found");
        assert_eq!(
            error(json!([{"key-auth": {}}, {"consumer-restriction": {}}])),
            "consumer-restriction plugin is not supported"
        );
        let wrong = "plugin key-auth check schema failed: property \"header\" validation failed: wrong type: expected string, got number";
        assert_eq!(error(json!([{"key-auth": {"header": 1}}, {"basic-auth": {}}])), wrong);
        let mut config = json!({"auth_plugins": [{"key-auth": {}}, {"basic-auth": {}}]});
        registry.check("multi-auth", Scope::Route, &mut config).unwrap();
        assert_eq!(config["auth_plugins"][0]["key-auth"]["query"], "apikey");
    }

    #[test]
    fn the_first_that_succeeds_decides() {
        let plugin = plugin(json!({"auth_plugins": [{"basic-auth": {}}, {"key-auth": {"header": "X-Key"}}]}));
        for (headers, user) in [
            (vec![("Authorization", "Basic YmVydDpwdw==")], Some("bert")),
            (vec![("X-Key", "k")], Some("anna")),
            (vec![("Authorization", "Basic YmVydDpwdw=="), ("X-Key", "k")], Some("bert")),
            (vec![("Authorization", "Basic eDp5"), ("X-Key", "k")], Some("anna")),
            (vec![("Authorization", "Basic eDp5"), ("X-Key", "x")], None),
            (vec![], None),
        ] {
            let mut cx = cx(&headers);
            let reply = plugin.request(&mut cx);
            let expected = user.is_none().then(|| denied("apikey realm=\"key\"", "Authorization Failed"));
            assert_eq!(reply, expected, "{headers:?}");
            assert_eq!(cx.request.headers.get_str("X-Consumer-Username"), user, "{headers:?}");
        }
    }
}
