//! Tests of `expression`.
use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Value;

struct Map(HashMap<String, Value<'static>>);

impl Lookup for Map {
    fn variable<'a>(&'a self, variable: &Variable) -> Option<Value<'a>> {
        self.0.get(&variable.to_string()).map(|v| match v {
            Value::Bytes(b) => Value::bytes(b),
            other => other.clone(),
        })
    }
}

fn vars(pairs: &[(&str, Value<'static>)]) -> Map {
    Map(pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect())
}

fn error(rule: Json) -> String {
    Expr::compile(&rule).unwrap_err().0
}

fn holds(rule: Json, vars: &Map) -> bool {
    let expr = Expr::compile(&rule).unwrap();
    let holds = expr.eval(vars);
    assert_eq!(expr.explain(vars).is_none(), holds, "{rule}");
    holds
}

#[test]
fn error_wording() {
    assert_eq!(error(json!([["arg_k", "=", "v"]])), "invalid operator '='");
    assert_eq!(error(json!([["arg_k"]])), "invalid expression");
    assert_eq!(error(json!([[]])), "rule too short");
    assert_eq!(error(json!([["!", "arg_k", "==", "1"]])), "bad 'not' expression");
    assert_eq!(error(json!(null)), "missing argument rule");
    assert_eq!(error(json!(["OR", ["arg_w", ">", 10]])), "rule too short");
    assert_eq!(error(json!(["OR", ["arg_w", ">", 10], ["AND"]])), "rule too short");
    assert_eq!(error(json!(["arg_k", "==", "v"])), "rule should be wrapped inside brackets");
    assert_eq!(error(json!([["a", "ipmatch", ""]])), "invalid ip address");
    assert_eq!(error(json!([["a", "ipmatch", []]])), "invalid ip address");
    assert_eq!(error(json!([["a", "ipmatch"]])), "invalid ip address");
    assert_eq!(error(json!([["a", "ipmatch", ["1.2.3.4", "x"]]])), "invalid ip address: x");
    assert!(error(json!([["a", "~~", "("]])).starts_with("failed to compile regex"));
    assert!(Expr::compile(&json!([])).unwrap().is_empty());
    let deep = (0..100).fold(json!(["a", "==", "1"]), |inner, _| json!([inner]));
    assert_eq!(error(deep), "rule is nested too deep");
}

#[test]
fn comparisons() {
    let v = vars(&[
        ("arg_n", "10".into()),
        ("arg_s", "foo".into()),
        ("arg_hex", "0x0a".into()),
        ("post_arg.n", 10.0.into()),
        ("post_arg.t", true.into()),
        ("post_arg.f", false.into()),
    ]);
    for (rule, want) in [
        (json!(["arg_n", "==", "10"]), true),
        (json!(["arg_n", "==", 10]), true),
        (json!(["arg_hex", "==", 10]), true),
        (json!(["arg_hex", "==", "10"]), false),
        (json!(["arg_s", "==", 10]), false),
        (json!(["arg_s", "~=", 10]), true),
        (json!(["arg_n", "~=", 10.0]), false),
        (json!(["arg_nil", "~=", 10]), true),
        (json!(["arg_nil", "==", 10]), false),
        (json!(["arg_nil", "==", null]), true),
        (json!(["arg_nil", "=="]), true),
        (json!(["arg_nil", "~="]), false),
        (json!(["arg_s", "~=", null]), true),
        (json!(["arg_nil", "~=", "x"]), true),
        (json!(["arg_s", "FOO"]), true),
        (json!(["arg_n", 10]), true),
        (json!(["arg_s", "!", "==", "foo"]), false),
        (json!(["arg_n", ">", 9]), true),
        (json!(["arg_n", ">", "9"]), true),
        (json!(["arg_n", ">=", 10]), true),
        (json!(["arg_n", "<", 10]), false),
        (json!(["arg_n", "<=", " 0xA "]), true),
        (json!(["arg_s", "<", 10]), false),
        (json!(["arg_s", "!", "<", 10]), true),
        (json!(["arg_nil", ">", 0]), false),
        (json!(["post_arg.n", "==", 10]), true),
        (json!(["post_arg.n", "==", "10"]), false),
        (json!(["post_arg.n", "in", [9, 10]]), true),
        (json!(["post_arg.t", "==", true]), true),
        (json!(["post_arg.f", "==", false]), true),
        (json!(["post_arg.f", "~~", "false"]), false),
        (json!(["post_arg.t", "~~", "true"]), true),
        (json!(["arg_s", "==", true]), false),
        (json!(["arg_s", "==", ["foo"]]), false),
        (json!(["arg_s", "~=", ["foo"]]), true),
    ] {
        assert_eq!(holds(json!([rule]), &v), want, "{rule}");
    }
}

#[test]
fn patterns_lists_and_addresses() {
    let v = vars(&[
        ("arg_s", "Foo".into()),
        ("arg_n", "1".into()),
        ("graphql_root_fields", Value::List(vec!["a".into(), "b".into()])),
        ("remote_addr", "10.1.2.3".into()),
        ("http_v6", "fe80::1".into()),
    ]);
    let many: Vec<String> = (0..50).map(|i| i.to_string()).collect();
    for (rule, want) in [
        (json!(["arg_s", "~~", "^[A-Z]oo$"]), true),
        (json!(["arg_s", "~~", "foo"]), false),
        (json!(["arg_s", "~*", "foo"]), true),
        (json!(["arg_s", "!", "~~", "^a"]), true),
        (json!(["arg_nil", "~~", ".*"]), false),
        (json!(["arg_nil", "!", "~~", ".*"]), true),
        (json!(["arg_s", "IN", ["Bar", "Foo"]]), true),
        (json!(["arg_s", "in", "Foo"]), false),
        (json!(["arg_n", "in", [1]]), false),
        (json!(["arg_n", "in", many]), true),
        (json!(["arg_s", "!", "in", many]), true),
        (json!(["arg_nil", "in", [null]]), false),
        (json!(["graphql_root_fields", "has", "b"]), true),
        (json!(["graphql_root_fields", "has", "c"]), false),
        (json!(["arg_s", "has", "Foo"]), false),
        (json!(["remote_addr", "ipmatch", "10.0.0.0/8"]), true),
        (json!(["remote_addr", "ipmatch", ["1.1.1.1", "10.1.2.3"]]), true),
        (json!(["remote_addr", "!", "ipmatch", ["10.1.2.4"]]), true),
        (json!(["http_v6", "ipmatch", ["fe80::/10"]]), true),
        (json!(["arg_s", "ipmatch", ["fe80::/10"]]), false),
    ] {
        assert_eq!(holds(json!([rule]), &v), want, "{rule}");
    }
}

#[test]
fn logic() {
    let v = vars(&[("arg_a", "1".into())]);
    let (t, f) = (json!(["arg_a", "==", "1"]), json!(["arg_a", "==", "2"]));
    for (rule, want) in [
        (json!([t, t]), true),
        (json!([t, f]), false),
        (json!([["OR", f, t]]), true),
        (json!(["or", f, t]), true),
        (json!(["OR", f, f]), false),
        (json!(["!AND", t, f]), true),
        (json!(["!AND", t, t]), false),
        (json!(["!OR", f, f]), true),
        (json!(["!OR", f, t]), false),
        (json!([["OR", ["AND", t, f], ["!OR", f, f]], t]), true),
        (json!([[t, t], [[t]]]), true),
    ] {
        assert_eq!(holds(rule.clone(), &v), want, "{rule}");
    }
}

#[test]
fn explanations_are_readable() {
    let v = vars(&[("arg_a", "1".into())]);
    let say = |rule: Json| Expr::compile(&rule).unwrap().explain(&v);
    assert_eq!(
        say(json!([["arg_a", "==", "1"], ["http_X-B", "==", "2"]])).as_deref(),
        Some(r#"http_x_b == "2": http_x_b is nil"#)
    );
    assert_eq!(say(json!([["arg_a", "!", "~~", "^1"]])).as_deref(), Some(r#"arg_a ! ~~ "^1": arg_a is "1""#));
    assert_eq!(
        say(json!(["OR", ["arg_a", "==", 2], ["arg_b", ">", 3]])).as_deref(),
        Some(r#"none of OR holds: arg_a == 2: arg_a is "1"; arg_b > 3: arg_b is nil"#)
    );
    assert_eq!(
        say(json!(["!OR", ["arg_a", "==", 1], ["arg_b", ">", 3]])).as_deref(),
        Some("[arg_a == 1] holds inside !OR")
    );
    assert_eq!(
        say(json!(["!AND", ["arg_a", "==", 1], ["arg_a", "==", "1"]])).as_deref(),
        Some(r#"all of ["!AND", [arg_a == 1], [arg_a == "1"]] hold"#)
    );
}

/// Straight from the JSON, for strings and numbers only.
fn naive(rule: &Json, vars: &Map) -> bool {
    let items = rule.as_array().unwrap();
    if items.is_empty() {
        return true;
    }
    if items[0].is_array() {
        return items.iter().all(|r| naive(r, vars));
    }
    let mut rest = items[1..].iter();
    match items[0].as_str().unwrap() {
        "AND" => return rest.all(|r| naive(r, vars)),
        "OR" => return rest.any(|r| naive(r, vars)),
        "!AND" => return !rest.all(|r| naive(r, vars)),
        "!OR" => return !rest.any(|r| naive(r, vars)),
        _ => {}
    }
    let (not, op, operand) =
        if items.len() == 4 { (true, &items[2], &items[3]) } else { (false, &items[1], &items[2]) };
    let left = vars.0.get(items[0].as_str().unwrap()).map(|v| v.as_str().into_owned());
    let number = |s: &str| s.parse::<f64>().ok();
    let (l, r) = (left.as_deref().and_then(number), operand.as_f64().or_else(|| operand.as_str().and_then(number)));
    let equal = if operand.is_number() {
        l.is_some() && l == operand.as_f64()
    } else {
        left.is_some() && left.as_deref() == operand.as_str()
    };
    let both = l.zip(r);
    not != match op.as_str().unwrap() {
        "==" => equal,
        "~=" => !equal,
        ">" => both.is_some_and(|(l, r)| l > r),
        ">=" => both.is_some_and(|(l, r)| l >= r),
        "<" => both.is_some_and(|(l, r)| l < r),
        "<=" => both.is_some_and(|(l, r)| l <= r),
        "in" => left.is_some() && operand.as_array().is_some_and(|a| a.iter().any(|e| e.as_str() == left.as_deref())),
        "~~" => left.is_some_and(|l| l.contains(operand.as_str().unwrap())),
        other => unreachable!("{other}"),
    }
}

fn rules() -> impl Strategy<Value = Json> {
    let scalar = prop_oneof![
        prop::sample::select(vec!["0", "1", "2", "a", "b", ""]).prop_map(|s| json!(s)),
        (0..3).prop_map(|n| json!(n))
    ];
    let compare =
        (prop::sample::select(vec!["==", "~=", ">", ">=", "<", "<="]), scalar).prop_map(|(op, v)| (json!(op), v));
    let list = prop::collection::vec(prop::sample::select(vec!["0", "1", "a", "b", "c", "d"]), 0..14)
        .prop_map(|l| (json!("in"), json!(l)));
    let pattern = prop::sample::select(vec!["0", "a", "b"]).prop_map(|p| (json!("~~"), json!(p)));
    let leaf = (
        prop::sample::select(vec!["arg_x", "arg_y", "arg_z"]),
        prop_oneof![4 => compare, 1 => list, 1 => pattern],
        any::<bool>(),
    )
        .prop_map(|(name, (op, v), not)| if not { json!([name, "!", op, v]) } else { json!([name, op, v]) });
    let tree = leaf.prop_recursive(4, 24, 4, |inner| {
        (prop::sample::select(vec!["AND", "OR", "!AND", "!OR"]), prop::collection::vec(inner, 2..4)).prop_map(
            |(op, mut list)| {
                list.insert(0, json!(op));
                json!(list)
            },
        )
    });
    prop::collection::vec(tree, 0..4).prop_map(|l| json!(l))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn as_naive(rule in rules(), x in prop::option::of("[0-2ab]"), y in prop::option::of("[0-2]{0,2}")) {
        let v = Map([("arg_x", x), ("arg_y", y)].into_iter().filter_map(|(k, v)| Some((k.to_owned(), Value::from(v?)))).collect());
        let expr = Expr::compile(&rule).unwrap();
        prop_assert_eq!(expr.eval(&v), naive(&rule, &v), "{}", rule);
        prop_assert_eq!(expr.explain(&v).is_none(), expr.eval(&v), "{}", rule);
    }
}
