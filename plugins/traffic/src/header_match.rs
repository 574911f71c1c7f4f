//! Routes by a request header: the first rule whose header has one of the given values, matches a regular expression, or is
//! merely there, sends the request to its upstream. Without a matching rule the route's own upstream serves.
//!
//! Use it where a header alone decides, such as a release channel or a tenant; for conditions on several things at once, or for
//! shares of traffic, there is `traffic-split`. Where both stand on a route, the header decides and the shares hold for
//! the rest. It is Sluice's own, so there is nothing to differ from.
use crate::value_rule::{self, Config, Rules};
use serde_json::Value;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin};

/// The plugin.
pub struct HeaderMatch(Rules);

impl Define for HeaderMatch {
    // After `traffic-split`: the last choice counts.
    const INFO: Info = Info::new("header-match", 965, Phases::ACCESS);
    type Config = Config;

    fn schema() -> Value {
        value_rule::schema()
    }
    fn check(config: &Config) -> Result<(), BuildError> {
        value_rule::check(config)
    }
    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        Rules::compile(Self::INFO.name, config, env).map(HeaderMatch)
    }
}

impl Plugin for HeaderMatch {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let headers = &cx.request.headers;
        if let Some(choice) = self.0.choose(|name, holds| headers.get_all(name).any(holds)) {
            cx.upstream.upstream = Some(choice.clone());
        }
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Definition, Scope, UpstreamRef, define};

    const DEFINITION: Definition = define::<HeaderMatch>();

    fn chosen(rules: &Value, headers: &[(&str, &str)]) -> Option<String> {
        let plugin = Harness::new(DEFINITION, json!({"rules": rules})).unwrap();
        let mut cx = Context::for_tests("GET", "/");
        headers.iter().for_each(|(name, value)| cx.request.headers.append(name, value));
        assert_eq!(plugin.request(&mut cx), None);
        match cx.upstream.upstream {
            Some(UpstreamRef::Id(id)) => Some(id.to_string()),
            _ => None,
        }
    }

    #[test]
    fn values_expressions_and_presence() {
        let rules = json!([
            {"name": "X-Release", "values": ["beta", "canary"], "upstream_id": "new"},
            {"name": "X-Version", "regex": "^v2\\.", "upstream_id": 2},
            {"name": "X-Debug", "upstream_id": "debug"},
        ]);
        assert_eq!(chosen(&rules, &[("x-release", "beta")]).as_deref(), Some("new"));
        assert_eq!(chosen(&rules, &[("X-Release", "stable"), ("X-Release", "canary")]).as_deref(), Some("new"));
        assert_eq!(chosen(&rules, &[("X-Release", "betas")]), None);
        assert_eq!(chosen(&rules, &[("X-Version", "v2.1"), ("X-Debug", "")]).as_deref(), Some("2"));
        assert_eq!(chosen(&rules, &[("X-Version", "v12.1")]), None);
        assert_eq!(chosen(&rules, &[("X-Debug", "")]).as_deref(), Some("debug"));
        assert_eq!(chosen(&rules, &[]), None);
    }

    #[test]
    fn negated() {
        let rules = json!([{"name": "X-Tenant", "values": ["a"], "negate": true, "upstream_id": "shared"}]);
        assert_eq!(chosen(&rules, &[("X-Tenant", "b")]).as_deref(), Some("shared"));
        assert_eq!(chosen(&rules, &[]).as_deref(), Some("shared"));
        assert_eq!(chosen(&rules, &[("X-Tenant", "a")]), None);
    }

    #[test]
    fn the_schema_says_what_is_wrong() {
        let error = |rule: Value| check(DEFINITION, Scope::Route, &mut json!({"rules": [rule]})).unwrap_err().0;
        assert!(error(json!({"name": "a"})).contains("should match only one schema"));
        assert!(error(json!({"name": "", "upstream_id": 1})).contains("string too short"));
        assert!(error(json!({"upstream_id": 1})).contains("property \"name\" is required"));
        assert!(error(json!({"name": "a", "values": ["b"], "regex": "c", "upstream_id": 1})).contains("item 1"));
        assert!(error(json!({"name": "a", "regex": "(", "upstream_id": 1})).starts_with("invalid regex (: "));
        assert!(check(DEFINITION, Scope::Route, &mut json!({"rules": []})).is_err());
    }
}
