//! Tests of `acl`.
use super::*;
use serde_json::json;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Consumer, ConsumerMatch, Definition, Scope, define};
use std::sync::Arc;

const PLUGIN: Definition = define::<Acl>();

fn error(mut config: Value) -> String {
    check(PLUGIN, Scope::Route, &mut config).unwrap_err().0
}

fn consumer(config: &Value, labels: Value) -> u16 {
    let plugin = Harness::new(PLUGIN, config.clone()).unwrap();
    let mut cx = Context::for_tests("GET", "/");
    let consumer = Consumer { labels: labels.as_object().unwrap().clone(), ..Consumer::default() };
    cx.consumer = Some(ConsumerMatch { consumer: Arc::new(consumer), credential_id: None, plugin: "key-auth" });
    plugin.request(&mut cx).map_or(200, |r| r.status)
}

fn user(config: &Value, user: Value) -> u16 {
    let plugin = Harness::new(PLUGIN, config.clone()).unwrap();
    let mut cx = Context::for_tests("GET", "/");
    cx.insert(ExternalUser(user));
    plugin.request(&mut cx).map_or(200, |r| r.status)
}

#[test]
fn configurations_are_checked() {
    let with = |extra: Value| {
        let mut config = json!({"allow_labels": {"team": ["cloud"]}});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        config
    };
    let parser = "external_user_label_field_parser";
    assert_eq!(
        error(with(json!({parser: "an-invalid-parser"}))),
        format!("property \"{parser}\" validation failed: matches none of the enum values")
    );
    let message = error(with(json!({parser: "segmented_text"})));
    assert!(message.contains("allOf 1 failed: then clause did not match"), "{message}");
    assert_eq!(
        error(with(json!({"external_user_label_field_key": ""}))),
        "property \"external_user_label_field_key\" validation failed: string too short, expected at least 1, got 0"
    );
    let message = error(with(json!({"external_user_label_field": "$..([invalid"})));
    assert!(message.starts_with("invalid external_user_label_field: "), "{message}");
    assert_eq!(error(json!({})), "object matches none of the required: [\"allow_labels\"] or [\"deny_labels\"]");
    let message = error(with(json!({parser: "segmented_text", "external_user_label_field_separator": "("})));
    assert_eq!(message, r#"pcre_compile() failed: missing ) in "\s*(\s*""#);
}

#[test]
fn without_anybody_it_is_401() {
    let plugin = Harness::new(PLUGIN, json!({"deny_labels": {"a": ["b"]}})).unwrap();
    let reply = plugin.request(&mut Context::for_tests("GET", "/"));
    assert_eq!(reply, Some(Reply::message(401, "Missing authentication.")));
}

#[test]
fn consumers_by_label() {
    let allow = json!({"allow_labels": {"org": ["apache", "api7"], "team": ["web"]}});
    for labels in [
        json!({"org": "apache"}),
        json!({"org": "x, api7 ,y"}),
        json!({"org": "[\"api7\"]"}),
        json!({"team": "web", "org": "x"}),
    ] {
        assert_eq!(consumer(&allow, labels.clone()), 200, "{labels}");
    }
    for labels in [
        json!({}),
        json!({"org": "opensource"}),
        json!({"org": "[api7"}),
        json!({"role": "apache"}),
        json!({"org": "api7x,xapi7"}),
    ] {
        assert_eq!(consumer(&allow, labels.clone()), 403, "{labels}");
    }
    let deny = json!({"deny_labels": {"org": ["apache"]}, "rejected_code": 406, "rejected_msg": "no"});
    assert_eq!(consumer(&deny, json!({"org": "a,apache"})), 406);
    assert_eq!(consumer(&deny, json!({"org": "api7"})), 200);
    let both = json!({"allow_labels": {"org": ["apache"]}, "deny_labels": {"team": ["web"]}});
    assert_eq!(consumer(&both, json!({"org": "apache", "team": "web"})), 403);
    assert_eq!(consumer(&both, json!({"org": "apache"})), 200);
}

#[test]
fn external_users_by_path_and_parser() {
    let with = |field: &str, parser: Option<&str>| {
        let mut config = json!({
            "allow_labels": {"team": ["cloud", "infra"]},
            "external_user_label_field": field,
            "external_user_label_field_key": "team"
        });
        if let Some(parser) = parser {
            config["external_user_label_field_parser"] = parser.into();
            config["external_user_label_field_separator"] = "\\|".into();
        }
        config
    };
    let cases = [
        (with("team", None), json!({"team": "cloud"}), 200),
        (with("$..team", None), json!({"orgs": {"api7": {"team": ["x", "infra"]}}}), 200),
        (with("$..team", None), json!({"team": "x,cloud"}), 200),
        (with("$..team", None), json!({}), 403),
        (with("$..team", Some("table")), json!({"team": ["cloud"]}), 200),
        (with("$..team", Some("table")), json!({"team": "cloud"}), 403),
        (with("$..team", Some("json")), json!({"team": "[\"cloud\"]"}), 200),
        (with("$..team", Some("json")), json!({"team": ["cloud"]}), 403),
        (with("$..team", Some("json")), json!({"team": "cloud"}), 403),
        (with("$..team", Some("json")), json!({"team": "[cloud"}), 403),
        (with("$..team", Some("segmented_text")), json!({"team": "x | cloud"}), 200),
        (with("$..team", Some("segmented_text")), json!({"team": "x,cloud"}), 403),
        (with("$..team", Some("segmented_text")), json!({"a": {"team": "x"}, "b": {"team": "y|infra"}}), 200),
        (with("$..team", Some("segmented_text")), json!({"a": {"team": ["infra"]}, "b": {"team": "y"}}), 200),
    ];
    for (config, description, status) in cases {
        assert_eq!(user(&config, description.clone()), status, "{config} {description}");
    }
}

#[test]
fn each_of_several_matches_is_parsed() {
    let config = json!({
        "deny_labels": {"name": ["infra"]},
        "external_user_label_field": "$..name",
        "external_user_label_field_key": "name",
        "external_user_label_field_parser": "segmented_text",
        "external_user_label_field_separator": ","
    });
    assert_eq!(user(&config, json!({"teams": [{"name": "cloud"}, {"name": "infra,qa"}]})), 403);
    assert_eq!(user(&config, json!({"teams": [{"name": "cloud"}, {"name": "infrared,qa"}]})), 200);
}

#[test]
fn a_separator_that_matches_nothing_ends() {
    let wanted = HashSet::from_iter(["b".to_string()]);
    let empty = pattern::compile("x*").unwrap();
    assert!(split("abc", &empty, &wanted));
    assert!(!split("acd", &empty, &wanted));
    assert!(!split("", &empty, &wanted));
}
