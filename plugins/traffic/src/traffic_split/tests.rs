//! `traffic-split` by its hooks.
use super::*;
use serde_json::json;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Definition, Scope, UpstreamCompiler, define};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const DEFINITION: Definition = define::<TrafficSplit>();

/// Turns an inline upstream into a reference by its key and name.
#[derive(Default)]
struct Compiler(Mutex<Vec<String>>);

impl UpstreamCompiler for Compiler {
    fn compile(&self, key: &str, upstream: &Value) -> Result<UpstreamRef, String> {
        self.0.lock().unwrap().push(key.to_string());
        let name = upstream["name"].as_str().ok_or("no name")?;
        Ok(UpstreamRef::Id(format!("inline {name}").into()))
    }
}

fn plugin(rules: Value) -> Harness {
    let env = Env::for_tests().with_upstreams(Arc::new(Compiler::default())).for_resource("routes/1", 1);
    Harness::with_env(DEFINITION, json!({"rules": rules}), env).unwrap()
}

fn inline(name: &str, weight: u32) -> Value {
    json!({"upstream": {"name": name, "type": "roundrobin", "nodes": {"127.0.0.1:1": 1}}, "weight": weight})
}

fn chosen(plugin: &Harness, target: &str) -> String {
    let mut cx = Context::for_tests("GET", target);
    assert_eq!(plugin.request(&mut cx), None);
    match cx.upstream.upstream {
        None => "route".into(),
        Some(UpstreamRef::Id(id)) => id.to_string(),
        Some(UpstreamRef::Inline(_)) => "inline".into(),
    }
}

fn shares(plugin: &Harness, target: &str, requests: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        *shares.entry(chosen(plugin, target)).or_default() += 1;
    }
    shares
}

fn counts<const N: usize>(wanted: [(&str, usize); N]) -> BTreeMap<String, usize> {
    wanted.into_iter().map(|(name, n)| (name.to_string(), n)).collect()
}

#[test]
fn schema() {
    let mut config = json!({"rules": [{}]});
    check(DEFINITION, Scope::Route, &mut config).unwrap();
    assert_eq!(config["rules"][0]["weighted_upstreams"], json!([{"weight": 1}]));
    let mut config =
        json!({"rules": [{"weighted_upstreams": [{"upstream_id": 1}, {"upstream": {"nodes": {"a:1": 1}}}]}]});
    check(DEFINITION, Scope::Route, &mut config).unwrap();
    assert_eq!(config["rules"][0]["weighted_upstreams"][1]["upstream"]["type"], "roundrobin");
    assert_eq!(config["rules"][0]["weighted_upstreams"][0]["weight"], 1);
    let error = |config: Value| check(DEFINITION, Scope::Route, &mut config.clone()).unwrap_err().0;
    let operator = json!({"rules": [{"match": [{"vars": [["arg_a", 123324, "b"]]}]}]});
    assert_eq!(error(operator), "failed to validate the 'vars' expression: invalid operator '123324'");
    let vars = json!({"rules": [{"match": [{}]}]});
    assert_eq!(error(vars), "failed to validate the 'vars' expression: missing argument rule");
    assert!(error(json!({"rules": [{"weighted_upstreams": []}]})).contains("expect array to have at least 1 items"));
}

#[test]
fn weights_are_exact_in_each_cycle() {
    let plugin =
        plugin(json!([{"weighted_upstreams": [inline("a", 3), {"upstream_id": 7, "weight": 2}, {"weight": 1}]}]));
    for _ in 0..3 {
        assert_eq!(shares(&plugin, "/", 6), counts([("inline a", 3), ("7", 2), ("route", 1)]));
    }
}

#[test]
fn weight_zero_gets_nothing_unless_all_have_it() {
    let one = plugin(json!([{"weighted_upstreams": [inline("a", 0), {"weight": 4}]}]));
    assert_eq!(shares(&one, "/", 8), counts([("route", 8)]));
    let none = plugin(json!([{"weighted_upstreams": [inline("a", 0), {"weight": 0}]}]));
    assert_eq!(shares(&none, "/", 8), counts([("inline a", 4), ("route", 4)]));
}

#[test]
fn the_same_upstream_twice_has_its_last_weight() {
    let choices = json!([{"upstream_id": "x", "weight": 9}, {"upstream_id": "x", "weight": 1}, {"weight": 1}]);
    let plugin = plugin(json!([{"weighted_upstreams": choices}]));
    assert_eq!(shares(&plugin, "/", 8), counts([("x", 4), ("route", 4)]));
}

#[test]
fn the_first_rule_that_holds_chooses() {
    let plugin = plugin(json!([
        {"match": [{"vars": [["arg_v", "==", "1"], ["arg_w", "==", "1"]]}, {"vars": [["arg_v", "==", "2"]]}],
         "weighted_upstreams": [{"upstream_id": "first"}]},
        {"match": [{"vars": [["arg_v", "==", "3"]]}], "weighted_upstreams": [{"upstream_id": "second"}]},
    ]));
    let wanted = [("/?v=1&w=1", "first"), ("/?v=1", "route"), ("/?v=2", "first"), ("/?v=3", "second"), ("/", "route")];
    for (target, upstream) in wanted {
        assert_eq!(chosen(&plugin, target), upstream, "{target}");
    }
}

#[test]
fn an_empty_match_keeps_the_verdict_before_it() {
    let rule = |list: Value, id: &str| json!({"match": list, "weighted_upstreams": [{"upstream_id": id}]});
    let first = plugin(json!([rule(json!([]), "a")]));
    assert_eq!(chosen(&first, "/"), "a");
    let after = plugin(json!([rule(json!([{"vars": [["arg_v", "==", "1"]]}]), "a"), rule(json!([]), "b")]));
    assert_eq!(chosen(&after, "/"), "route");
    assert_eq!(chosen(&after, "/?v=1"), "a");
}

#[test]
fn without_rules_the_route_serves() {
    for config in [json!({}), json!({"rules": []})] {
        let plugin = Harness::new(DEFINITION, config).unwrap();
        assert_eq!(chosen(&plugin, "/"), "route");
    }
}

#[test]
fn upstreams_have_keys_of_their_own_and_must_compile() {
    let compiler = Arc::new(Compiler::default());
    let env = Env::for_tests().with_upstreams(compiler.clone()).for_resource("routes/1", 1);
    let rules =
        json!([{"weighted_upstreams": [inline("a", 1), inline("a", 1)]}, {"weighted_upstreams": [inline("a", 1)]}]);
    Harness::with_env(DEFINITION, json!({"rules": rules}), env.clone()).unwrap();
    let wanted = ["routes/1#traffic-split-0-0", "routes/1#traffic-split-0-1", "routes/1#traffic-split-1-0"];
    assert_eq!(*compiler.0.lock().unwrap(), wanted);
    let nameless = json!({"rules": [{"weighted_upstreams": [{"upstream": {"nodes": {"a:1": 1}}}]}]});
    assert_eq!(Harness::with_env(DEFINITION, nameless, env).err().unwrap().0, "no name");
}

#[test]
fn the_body_is_read_only_for_conditions_on_it() {
    let wants = |vars: Value| {
        let mut config = json!({"rules": [{"match": [{"vars": vars}]}]});
        check(DEFINITION, Scope::Route, &mut config).unwrap();
        let hooks = (DEFINITION.build)(&config, &Env::for_tests()).unwrap();
        hooks.wants_request_body(&Context::for_tests("POST", "/"))
    };
    assert!(wants(json!([["post_arg_id", "==", "1"]])));
    assert!(!wants(json!([["arg_id", "==", "1"]])));
}

#[test]
fn a_nodes_host_has_no_port_where_all_nodes_share_it() {
    let upstream = |scheme: &str, nodes: Value| json!({"pass_host": "node", "scheme": scheme, "nodes": nodes});
    let host = |upstream: Value| {
        without_port(&upstream).map(|u| (u["pass_host"].clone(), u["upstream_host"].as_str().unwrap().to_owned()))
    };
    let rewritten = |host: &str| Some((json!("rewrite"), host.to_owned()));
    assert_eq!(host(upstream("http", json!({"localhost:1981": 1}))), rewritten("localhost"));
    assert_eq!(host(upstream("http", json!({"a.b": 1, "a.b:81": 1}))), rewritten("a.b"));
    assert_eq!(host(upstream("http", json!([{"host": "::1", "port": 81, "weight": 1}]))), rewritten("::1"));
    assert_eq!(host(upstream("http", json!({"[::1]:81": 1}))), rewritten("[::1]"));
    assert_eq!(host(upstream("http", json!({"a:1": 1, "b:1": 1}))), None);
    assert_eq!(host(upstream("https", json!({"a:1": 1}))), None);
    assert_eq!(host(json!({"pass_host": "pass", "nodes": {"a:1": 1}})), None);
}

#[test]
fn connections_are_split_too() {
    let env = Env::for_tests().with_upstreams(Arc::new(Compiler::default())).for_resource("stream_routes/1", 1);
    let rules = json!([{
        "match": [{"vars": [["server_port", "==", "9100"]]}],
        "weighted_upstreams": [{"upstream_id": "a", "weight": 2}, {"weight": 1}],
    }]);
    let config: Config = serde_json::from_value(json!({"rules": rules})).unwrap();
    let plugin = <TrafficSplit as DefineStream>::build(config, &env).unwrap();
    let chosen = |port: u16| {
        let (peer, local) = (([127, 0, 0, 1], 4000).into(), ([127, 0, 0, 1], port).into());
        let mut cx = StreamContext::new(sluice_plugin::Connection::new(peer, local, None), "1".into());
        assert_eq!(plugin.preread(&mut cx), StreamFlow::Next);
        matches!(&cx.upstream, Some(UpstreamRef::Id(id)) if id.as_ref() == "a")
    };
    assert_eq!((0..6).filter(|_| chosen(9100)).count(), 4);
    assert!(!(0..6).any(|_| chosen(9101)));
}
