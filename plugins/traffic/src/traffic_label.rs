//! Labels requests: sets headers by rules, with shares where a rule has several actions.
//!
//! Use it to mark traffic for the upstream or for `traffic-split`, which runs right after it. The first rule whose `match` holds
//! (or that has none) takes one of its `actions` in proportion to their weights and sets that one's headers, whose values may
//! hold variables. An action that only has a weight leaves its share to the rules below.
//!
//! Differences from APISIX: shares follow the weights exactly in every cycle, from the first request on.
//
// Read in apisix/plugins/traffic-label.lua, proxy-rewrite.lua (`check_set_headers`) and core/request.lua (`set_header`).
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Map, Value};
use sluice_expr::{Expr, Template};
use sluice_http::Known;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin};
use sluice_upstream::roundrobin::RoundRobin;
use sluice_upstream::{Endpoint, Tried};

/// A rule.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Rule {
    /// An expression as in a route's `vars`.
    #[serde(rename = "match", default)]
    #[schemars(schema_with = "expression")]
    matches: Option<Value>,
    /// One of them is taken.
    #[schemars(schema_with = "actions")]
    actions: Vec<Map<String, Value>>,
}

/// The plugin's configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// The first that holds counts.
    #[schemars(length(min = 1))]
    rules: Vec<Rule>,
}

/// As `workflow`'s cases are, too.
pub(crate) fn expression(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "array",
        "items": {"anyOf": [{"type": "array"}, {"type": "string"}]},
        "minItems": 1
    })
}
fn actions(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {
                "set_headers": {"description": "new headers for request", "type": "object", "minProperties": 1},
                "weight": {"type": "integer", "default": 1, "minimum": 1}
            }
        }
    })
}

/// Header names and what they are set to.
type Edits = Box<[(Box<str>, Template)]>;

struct Compiled {
    /// `None`: the rule always holds.
    matches: Option<Expr>,
    /// `None`: the action only has a weight.
    actions: Vec<Option<Edits>>,
    turns: RoundRobin,
}

/// The plugin.
pub struct TrafficLabel {
    rules: Vec<Compiled>,
    reads_body: bool,
}

impl Define for TrafficLabel {
    const INFO: Info = Info::new("traffic-label", 967, Phases::ACCESS).request_body();
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        for rule in &config.rules {
            if let Some(rule) = &rule.matches {
                let error = |e| BuildError(format!("failed to validate the 'match' expression: {rule} err: {e}"));
                Expr::compile(rule).map_err(error)?;
            }
            for (name, action) in rule.actions.iter().flatten().filter(|(name, _)| *name != "weight") {
                if name != "set_headers" {
                    return Err(BuildError(format!("not supported action: {name}")));
                }
                check_headers(action)
                    .map_err(|e| BuildError(format!("failed to validate the 'set_headers' action: {e}")))?;
            }
        }
        Ok(())
    }

    fn build(config: Config, _: &Env) -> Result<Self, BuildError> {
        let rules = config.rules.iter().map(compile).collect::<Result<Vec<_>, _>>()?;
        let reads_body = rules.iter().any(|rule| rule.matches.as_ref().is_some_and(Expr::needs_request_body));
        Ok(TrafficLabel { rules, reads_body })
    }
}

/// What `proxy-rewrite` says of the same headers.
fn check_headers(headers: &Value) -> Result<(), &'static str> {
    for (field, value) in headers.as_object().into_iter().flatten() {
        if !value.is_string() && !value.is_number() {
            return Err("invalid type as header value");
        }
        if field.is_empty() {
            return Err("invalid field length in header");
        }
        if !field.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
            return Err("invalid field character in header");
        }
        if value.as_str().is_some_and(|text| !text.bytes().all(|b| (b' '..0x7f).contains(&b))) {
            return Err("invalid value character in header");
        }
    }
    Ok(())
}

fn compile(rule: &Rule) -> Result<Compiled, BuildError> {
    let matches = rule.matches.as_ref().map(|rule| Expr::compile(rule).map_err(BuildError::new)).transpose()?;
    let edits = |action: &Map<String, Value>| {
        let headers = action.get("set_headers")?.as_object()?;
        Some(headers.iter().map(|(name, value)| (name.as_str().into(), Template::compile(&text(value)))).collect())
    };
    let weight = |action: &Map<String, Value>| {
        let weight = action.get("weight").and_then(Value::as_u64).unwrap_or(1);
        // Only the weights matter to the round robin; the addresses are never used.
        Endpoint::new("action", 0, u32::try_from(weight).unwrap_or(u32::MAX))
    };
    let endpoints: Vec<Endpoint> = rule.actions.iter().map(weight).collect();
    let members: Vec<u32> = (0..endpoints.len() as u32).collect();
    let turns = RoundRobin::build(&endpoints, &members, 1, 0);
    Ok(Compiled { matches, actions: rule.actions.iter().map(edits).collect(), turns })
}

/// A header's value as Lua prints it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            let mut out = Vec::new();
            sluice_expr::write_number(number.as_f64().unwrap_or_default(), &mut out);
            String::from_utf8(out).unwrap_or_default()
        }
        other => other.to_string(),
    }
}

fn set(edits: &Edits, cx: &mut Context) {
    let mut value = Vec::new();
    for (name, template) in edits {
        value.clear();
        template.render_into(cx, "", &mut value);
        if !value.is_empty() {
            cx.request.headers.set(name, &value);
            continue;
        }
        // An empty value removes the field, as in OpenResty.
        cx.request.headers.remove(name);
        match Known::from_name(name.as_bytes()) {
            Known::Other => {}
            known => cx.upstream.withhold(known),
        }
    }
}

impl Plugin for TrafficLabel {
    fn wants_request_body(&self, _: &Context) -> bool {
        self.reads_body
    }

    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        for rule in &self.rules {
            if !rule.matches.as_ref().is_none_or(|e| e.eval(cx)) {
                continue;
            }
            let action = rule.turns.pick(0, &Tried::new()).and_then(|i| rule.actions.get(i as usize));
            if let Some(Some(edits)) = action {
                set(edits, cx);
                break;
            }
        }
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Definition, Scope, define};

    const DEFINITION: Definition = define::<TrafficLabel>();

    fn plugin(rules: Value) -> Harness {
        Harness::new(DEFINITION, json!({"rules": rules})).unwrap()
    }

    fn label(plugin: &Harness, target: &str, name: &str) -> Option<String> {
        let mut cx = Context::for_tests("GET", target);
        cx.request.headers.append("X-Old", "old");
        assert_eq!(plugin.request(&mut cx), None);
        cx.request.headers.get_str(name).map(str::to_owned)
    }

    #[test]
    fn the_first_rule_that_holds_labels() {
        let plugin = plugin(json!([
            {"match": [["arg_v", "==", "1"]], "actions": [{"set_headers": {"X-Id": 100, "X-Old": "$arg_v-$uri"}}]},
            {"match": ["OR", ["arg_v", "==", "2"], ["arg_w", "==", "2"]], "actions": [{"set_headers": {"X-Id": "200"}}]},
            {"actions": [{"set_headers": {"X-Id": "rest", "X-Old": ""}}]},
        ]));
        assert_eq!(label(&plugin, "/a?v=1", "X-Id").as_deref(), Some("100"));
        assert_eq!(label(&plugin, "/a?v=1", "X-Old").as_deref(), Some("1-/a"));
        assert_eq!(label(&plugin, "/?w=2", "X-Id").as_deref(), Some("200"));
        assert_eq!(label(&plugin, "/?w=2", "X-Old").as_deref(), Some("old"));
        assert_eq!(label(&plugin, "/", "X-Id").as_deref(), Some("rest"));
        assert_eq!(label(&plugin, "/", "X-Old"), None);
    }

    #[test]
    fn shares_follow_weights_and_a_bare_weight_leaves_its_share_to_the_next_rule() {
        let plugin = plugin(json!([
            {"actions": [{"set_headers": {"X-Id": "a"}, "weight": 3}, {"set_headers": {"X-Id": "b"}, "weight": 2}, {"weight": 5}]},
            {"actions": [{"set_headers": {"X-Id": "c"}}]},
        ]));
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..20 {
            *counts.entry(label(&plugin, "/", "X-Id").unwrap()).or_insert(0) += 1;
        }
        assert_eq!(counts, [("a".into(), 6), ("b".into(), 4), ("c".into(), 10)].into());
    }

    #[test]
    fn the_schema_says_what_is_wrong() {
        let error = |rules: Value| check(DEFINITION, Scope::Route, &mut json!({"rules": rules})).unwrap_err().0;
        assert_eq!(error(json!([{"actions": [{"add_headers": {"a": "b"}}]}])), "not supported action: add_headers");
        assert!(error(json!([])).contains("expect array to have at least 1 items"));
        assert!(error(json!([{"actions": [{"weight": 0}]}])).contains("property \"weight\" validation failed"));
        assert!(error(json!([{}])).contains("property \"actions\" is required"));
        let headers = |headers: Value| error(json!([{"actions": [{"set_headers": headers}]}]));
        let prefix = "failed to validate the 'set_headers' action: ";
        assert_eq!(headers(json!({"a": []})), format!("{prefix}invalid type as header value"));
        assert_eq!(headers(json!({"a b": "c"})), format!("{prefix}invalid field character in header"));
        assert_eq!(headers(json!({"a": "b\n"})), format!("{prefix}invalid value character in header"));
        let operators = json!(["AND", "OR", ["uri", "==", "/"], ["arg_a", "==", "b"]]);
        let twice = error(json!([{"match": operators, "actions": [{}]}]));
        assert!(twice.starts_with("failed to validate the 'match' expression: "), "{twice}");
        let wrong = error(json!([{"match": [["arg_a", 7, "b"]], "actions": [{}]}]));
        assert!(wrong.starts_with("failed to validate the 'match' expression: [[\"arg_a\",7,\"b\"]] err: "), "{wrong}");
        let mut config = json!({"rules": [{"actions": [{"set_headers": {"a": "b"}}]}]});
        check(DEFINITION, Scope::Route, &mut config).unwrap();
        assert_eq!(config["rules"][0]["actions"][0]["weight"], 1);
    }
}
