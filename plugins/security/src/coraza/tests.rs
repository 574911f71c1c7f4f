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

#[test]
fn audit_entries_have_the_parts_that_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let entry = |parts: &str, rule: &str| -> Value {
        let _ = std::fs::remove_file(&path);
        let parts = format!("SecAuditLogParts {parts}");
        let log = format!("SecAuditLog {}", path.display());
        let config = config(&[
            "SecRuleEngine On",
            "SecRequestBodyAccess On",
            "SecResponseBodyAccess On",
            "SecResponseBodyMimeType text/plain",
            "SecAuditEngine On",
            &parts,
            &log,
            rule,
        ]);
        let plugin = Harness::new(PLUGIN, config).unwrap();
        let mut cx = Context::for_tests("POST", "/");
        cx.request.headers.append("Content-Type", "multipart/form-data; boundary=b");
        let body = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1 & 2\r\n--b\r\n\
            Content-Disposition: form-data; name=\"f\"; filename=\"x.png\"\r\nContent-Type: image/png\r\n\r\nPIXELS\r\n--b--\r\n";
        cx.request_body = Some(body.into());
        assert_eq!(plugin.request(&mut cx), None);
        cx.response.status = 200;
        cx.response.headers.append("Content-Type", "text/plain");
        plugin.response(&mut cx, &[b"an ", b"answer"]);
        plugin.log(&mut cx);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            if let Ok(entry) = serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap_or_default()) {
                return entry["transaction"].clone();
            }
            assert!(std::time::Instant::now() < end, "nothing is written");
            std::thread::yield_now();
        }
    };
    let all = entry("ABCEFHIJZ", "");
    assert_eq!(all["response"]["body"], "an answer");
    assert_eq!(all["request"]["body"], "a=1%20%26%202", "I stands for C, without files");
    assert_eq!(all["request"]["files"], json!([{"name": "x.png", "size": 6, "mime": "image/png"}]));
    let plain = entry("ABCFHZ", "");
    assert!(plain["request"]["body"].as_str().unwrap().contains("PIXELS"));
    assert_eq!((&plain["request"]["files"], &plain["response"]["body"]), (&Value::Null, &Value::Null));
    let changed = entry("ABCZ", "SecAction \"id:1,phase:1,nolog,pass,ctl:auditLogParts=+E,ctl:auditLogParts=-C\"");
    assert_eq!((&changed["request"]["body"], &changed["response"]["body"]), (&Value::Null, &json!("an answer")));
}
