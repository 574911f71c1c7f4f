//! `workflow` by its hooks.
use super::*;
use sluice_plugin::testing::Harness;
use sluice_plugin::{Definition, define};

fn registry() -> Registry {
    Registry::new(&[crate::PLUGINS]).unwrap()
}

const DEFINITION: Definition = define::<Workflow>();

fn plugin(rules: Value) -> Harness {
    let env = Env::for_tests().with_registry(Arc::new(registry())).for_resource("routes/1", 1);
    Harness::with_env(DEFINITION, json!({"rules": rules}), env).unwrap()
}

fn ask(plugin: &Harness, target: &str) -> u16 {
    let mut cx = Context::for_tests("GET", target);
    let status = plugin.request(&mut cx).map_or(200, |reply| reply.status);
    plugin.log(&mut cx);
    status
}

#[test]
fn the_schema_says_what_is_wrong() {
    let registry = registry();
    let error = |rules: Value| registry.check("workflow", Scope::Route, &mut json!({"rules": rules})).unwrap_err().0;
    assert_eq!(error(json!([{"actions": [["fake", {}]]}])), "unsupported action: fake");
    assert_eq!(
        error(json!([{"actions": [["return", {}]]}])),
        "failed to validate the 'return' action: property \"code\" is required"
    );
    assert_eq!(
        error(json!([{"actions": [["return", {"code": "403"}]]}])),
        "failed to validate the 'return' action: property \"code\" validation failed: wrong type: expected integer, got string"
    );
    let limit = json!({"count": 2, "time_window": 60, "group": "g"});
    assert_eq!(
        error(json!([{"actions": [["limit-count", limit]]}])),
        "failed to validate the 'limit-count' action: group is not supported"
    );
    assert_eq!(
        error(json!([{"actions": [["limit-count", {"count": 2}]]}])),
        "failed to validate the 'limit-count' action: value should match only one schema, but matches none"
    );
    assert!(error(json!([{"actions": [[]]}])).contains("expect array to have at least 1 items"));
    assert!(error(json!([{"case": [], "actions": []}])).contains("expect array to have at least 1 items"));
    let case = json!([{"case": [["uri", "=", "/"]], "actions": [["return", {"code": 403}]]}]);
    assert!(error(case).starts_with("failed to validate the 'case' expression: "));
    let mut config = json!({"rules": [{"actions": [["limit-count", {"count": 2, "time_window": 60}]]}]});
    registry.check("workflow", Scope::Route, &mut config).unwrap();
    assert_eq!(config["rules"][0]["actions"][0][1]["rejected_code"], 503);
    assert_eq!(
        registry.check("workflow", Scope::Route, &mut json!({})).unwrap_err().0,
        "property \"rules\" is required"
    );
}

#[test]
fn an_action_that_is_switched_off_is_unsupported() {
    let registry = registry().enable_only(&["workflow".into()]);
    let mut config = json!({"rules": [{"actions": [["limit-count", {"count": 2, "time_window": 60}]]}]});
    let error = registry.check("workflow", Scope::Route, &mut config).unwrap_err();
    assert_eq!(error.0, "unsupported action: limit-count");
}

#[test]
fn the_first_case_that_holds_acts() {
    let plugin = plugin(json!([
        {"case": [["uri", "==", "/a"]], "actions": [["return", {"code": 403}], ["return", {"code": 404}]]},
        {"case": ["OR", ["arg_x", "==", "1"], ["uri", "==", "/b"]], "actions": [["return", {"code": 429}]]},
    ]));
    let mut cx = Context::for_tests("GET", "/a?x=1");
    assert_eq!(plugin.request(&mut cx), Some(Reply::error_msg(403, "rejected by workflow")));
    assert_eq!(ask(&plugin, "/b"), 429);
    assert_eq!(ask(&plugin, "/c?x=1"), 429);
    assert_eq!(ask(&plugin, "/c"), 200);
    assert_eq!(ask(&super::tests::plugin(json!([{"actions": []}])), "/"), 200);
}

#[test]
fn each_rule_counts_for_itself() {
    let limit = json!(["limit-count", {"count": 1, "time_window": 60, "rejected_code": 503, "key": "remote_addr"}]);
    let rules = json!([
        {"case": [["uri", "==", "/a"]], "actions": [limit]},
        {"case": [["uri", "==", "/b"]], "actions": [limit]},
    ]);
    let plugin = plugin(rules);
    assert_eq!([ask(&plugin, "/a"), ask(&plugin, "/b"), ask(&plugin, "/a"), ask(&plugin, "/b")], [200, 200, 503, 503]);
}

#[test]
fn the_plugin_of_the_actions_name_does_not_run_again() {
    let plugin = plugin(json!([{"actions": [["limit-count", {"count": 9, "time_window": 60}]]}]));
    let mut cx = Context::for_tests("GET", "/");
    assert_eq!(plugin.request(&mut cx), None);
    assert_eq!(cx.skip_plugins.as_slice(), ["limit-count"]);
}

#[test]
fn what_limit_conn_counts_ends_with_the_request() {
    let limit = json!(["limit-conn", {"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr"}]);
    let plugin = plugin(json!([{"actions": [limit]}]));
    let mut first = Context::for_tests("GET", "/");
    assert_eq!(plugin.request(&mut first), None);
    assert_eq!(ask(&plugin, "/"), 503);
    plugin.log(&mut first);
    assert_eq!(ask(&plugin, "/"), 200);
}

#[test]
fn the_body_is_read_only_for_cases_on_it() {
    let wants = |case: Value| {
        let mut config = json!({"rules": [{"case": case, "actions": [["return", {"code": 403}]]}]});
        let registry = Arc::new(registry());
        registry.check("workflow", Scope::Route, &mut config).unwrap();
        let hooks = (DEFINITION.build)(&config, &Env::for_tests().with_registry(registry)).unwrap();
        hooks.wants_request_body(&Context::for_tests("POST", "/"))
    };
    assert!(wants(json!([["post_arg_id", "==", "1"]])));
    assert!(!wants(json!([["arg_id", "==", "1"]])));
}
