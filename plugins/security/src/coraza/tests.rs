//! The plugin with rules of its own: what it refuses, what it lets pass, what it writes.

use super::*;
use serde_json::{Value, json};
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Definition, Scope, define};

const PLUGIN: Definition = define::<Coraza>();

fn config(directives: &[&str]) -> Value {
    json!({"directives_map": {"d": directives}, "default_directives": "d"})
}

fn answer(config: &Value, target: &str) -> Option<Reply> {
    let plugin = Harness::new(PLUGIN, config.clone()).unwrap();
    plugin.request(&mut Context::for_tests("GET", target))
}

const BLOCK: &str = "SecRule ARGS:q \"@contains attack\" \"id:1,phase:1,deny,status:406,msg:'no'\"";

#[test]
fn an_unknown_list_is_named() {
    let mut wrong = json!({"directives_map": {"d": []}, "default_directives": "e"});
    let error = check(PLUGIN, Scope::Route, &mut wrong).unwrap_err().0;
    assert_eq!(error, "default_directives: directives_map has no \"e\"; it has d");
}

#[test]
fn a_mistake_in_rules_has_its_line() {
    let wrong = config(&["SecRuleEngine On", "SecRule ARGS \"@nope x\" \"id:1\"", "SecRule ARG \"x\" \"id:2\""]);
    let error = Harness::new(PLUGIN, wrong).err().unwrap().0;
    assert_eq!(
        error,
        "directives_map.d: directives:2: unknown operator @nope\n\
         directives:3: unknown variable ARG; did you mean ARGS?"
    );
}

#[test]
fn a_rule_blocks_with_its_status() {
    let on = config(&["SecRuleEngine On", BLOCK]);
    assert_eq!(answer(&on, "/?q=an+attack"), Some(Reply::status(406)));
    assert_eq!(answer(&on, "/?q=peace"), None);
    assert_eq!(answer(&on, "/?p=attack"), None);
}

#[test]
fn detection_only_blocks_nothing() {
    assert_eq!(answer(&config(&["SecRuleEngine DetectionOnly", BLOCK]), "/?q=attack"), None);
    assert_eq!(answer(&config(&[BLOCK]), "/?q=attack"), None);
}

#[test]
fn hosts_have_lists_of_their_own() {
    let config = json!({
        "directives_map": {"open": ["SecRuleEngine Off"], "shut": ["SecRuleEngine On", BLOCK]},
        "default_directives": "open",
        "per_authority_directives": {"shut.example": "shut"},
    });
    let plugin = Harness::new(PLUGIN, config).unwrap();
    for (host, blocked) in [("open.example", false), ("shut.example", true), ("SHUT.example:9080", true)] {
        let mut cx = Context::for_tests("GET", "/?q=attack");
        cx.request.set_host(host.as_bytes());
        assert_eq!(plugin.request(&mut cx).is_some(), blocked, "{host}");
    }
}

#[test]
fn the_recommended_settings_compile_and_see_json() {
    let rule = "SecRule ARGS:json.user \"@streq root\" \"id:1,phase:2,deny\"";
    let config = config(&["Include @recommended-conf", "SecRuleEngine On", rule]);
    let plugin = Harness::new(PLUGIN, config).unwrap();
    let ask = |body: &str| {
        let mut cx = Context::for_tests("POST", "/");
        cx.request.headers.append("Content-Type", "application/json");
        cx.request_body = Some(body.as_bytes().to_vec());
        plugin.request(&mut cx).map(|reply| reply.status)
    };
    assert_eq!(ask(r#"{"user":"root"}"#), Some(403));
    assert_eq!(ask(r#"{"user":"me"}"#), None);
    assert_eq!(ask("{"), Some(400));
}
