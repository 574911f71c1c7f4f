//! Routes by an argument of the query: the first rule whose argument has one of the given values, matches a regular expression,
//! or is merely there, sends the request to its upstream. Without a matching rule the route's own upstream serves.
//!
//! Use it where `?version=2` alone decides; of an argument that is given several times the first counts. Values are compared
//! after percent-decoding. Where `traffic-split` or `header-match` stand on the same route, the argument decides over both.
//! It is Sluice's own, so there is nothing to differ from.
use crate::value_rule::{self, Config, Rules};
use serde_json::Value;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin};

/// The plugin.
pub struct QueryArg(Rules);

impl Define for QueryArg {
    // After `header-match`: the last choice counts.
    const INFO: Info = Info::new("query-arg", 964, Phases::ACCESS);
    type Config = Config;

    fn schema() -> Value {
        value_rule::schema()
    }
    fn check(config: &Config) -> Result<(), BuildError> {
        value_rule::check(config)
    }
    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        Rules::compile(Self::INFO.name, config, env).map(QueryArg)
    }
}

impl Plugin for QueryArg {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let request = &cx.request;
        if let Some(choice) = self.0.choose(|name, holds| request.arg(name).is_some_and(|value| holds(&value))) {
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
    use sluice_plugin::{Scope, UpstreamRef, define};

    #[test]
    fn values_expressions_and_presence() {
        let rules = json!([
            {"name": "version", "values": ["2", "next one"], "upstream_id": "new"},
            {"name": "branch", "regex": "^feature/", "upstream_id": "preview"},
            {"name": "debug", "upstream_id": "debug"},
        ]);
        let plugin = Harness::new(define::<QueryArg>(), json!({"rules": rules})).unwrap();
        let wanted = [
            ("/?version=2", Some("new")),
            ("/?version=next%20one", Some("new")),
            ("/?version=1", None),
            ("/?version=1&version=2", None),
            ("/?branch=feature%2Fx", Some("preview")),
            ("/?branch=main&debug", Some("debug")),
            ("/?Version=2", None),
            ("/", None),
        ];
        for (target, upstream) in wanted {
            let mut cx = Context::for_tests("GET", target);
            assert_eq!(plugin.request(&mut cx), None);
            let chosen = match &cx.upstream.upstream {
                Some(UpstreamRef::Id(id)) => Some(id.as_ref()),
                _ => None,
            };
            assert_eq!(chosen, upstream, "{target}");
        }
    }

    #[test]
    fn an_earlier_choice_stands_where_no_rule_holds() {
        let rules = json!([{"name": "v", "values": ["2"], "upstream_id": "new"}]);
        let plugin = Harness::new(define::<QueryArg>(), json!({"rules": rules})).unwrap();
        let mut cx = Context::for_tests("GET", "/?v=1");
        cx.upstream.upstream = Some(UpstreamRef::Id("before".into()));
        assert_eq!(plugin.request(&mut cx), None);
        assert!(matches!(&cx.upstream.upstream, Some(UpstreamRef::Id(id)) if id.as_ref() == "before"));
    }

    #[test]
    fn rules_are_required() {
        let error = check(define::<QueryArg>(), Scope::Route, &mut json!({})).unwrap_err();
        assert_eq!(error.0, "property \"rules\" is required");
    }
}
