//! Each part of a request, and bodies that cannot be rewritten.
use super::*;
use proptest::prelude::*;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Scope, define};

fn rewritten(config: Value, body: &str) -> (Context, Option<Reply>) {
    let plugin = Harness::new(define::<RequestRewrite>(), config).unwrap();
    let mut cx = Context::for_tests("POST", "/a%20b?x=1&id=7");
    cx.request.headers.append("Content-Type", "application/json");
    cx.request_body = Some(body.into());
    let reply = plugin.request(&mut cx);
    (cx, reply)
}

fn body(config: Value, body: &str) -> String {
    let (cx, reply) = rewritten(json!({"body": config}), body);
    assert_eq!(reply, None);
    assert_eq!(cx.upstream.body, cx.request_body);
    String::from_utf8(cx.upstream.body.unwrap()).unwrap()
}

#[test]
fn method_headers_and_query() {
    let config = json!({
        "method": "PUT",
        "headers": {"set": {"X-Id": "$arg_id"}, "remove": ["Content-Type"]},
        "query": {"remove": ["x"], "add": {"n": 1}}
    });
    let (cx, reply) = rewritten(config, "");
    assert_eq!(reply, None);
    assert_eq!(cx.request.method_text(), "PUT");
    assert_eq!(cx.request.headers.get_str("x-id"), Some("7"));
    assert!(!cx.request.headers.contains("content-type"));
    assert_eq!(cx.upstream.target.as_deref(), Some(b"/a%20b?id=7&n=1".as_slice()));
    assert_eq!(cx.upstream.body, None);
}

#[test]
fn a_query_that_another_plugin_made_is_edited() {
    let plugin = Harness::new(define::<RequestRewrite>(), json!({"query": {"set": {"a": "2"}}})).unwrap();
    let mut cx = Context::for_tests("GET", "/x?a=0");
    cx.upstream.target = Some(b"/new?a=1&b=1".to_vec());
    plugin.request(&mut cx);
    assert_eq!(cx.upstream.target.as_deref(), Some(b"/new?a=2&b=1".as_slice()));
}

#[test]
fn only_where_the_expression_holds() {
    let config = |v: &str| json!({"vars": [["arg_x", "==", v]], "body": {"template": "new"}});
    assert_eq!(rewritten(config("2"), "old").0.upstream.body, None);
    assert_eq!(rewritten(config("1"), "old").0.upstream.body.as_deref(), Some(b"new".as_slice()));
}

#[test]
fn new_bodies() {
    assert_eq!(
        body(json!({"template": "{\"id\": $arg_id, \"old\": $request_body}"}), "[1]"),
        r#"{"id": 7, "old": [1]}"#
    );
    assert_eq!(body(json!({"base64": "AGFi"}), "old"), "\0ab");
    let (cx, _) = rewritten(json!({"body": {"template": "a=1", "content_type": "text/plain"}}), "{}");
    assert_eq!(cx.request.headers.get_str("content-type"), Some("text/plain"));
}

#[test]
fn replacements() {
    let config =
        json!({"replace": [{"regex": "\\d+", "replace": "#", "scope": "global"}, {"regex": "a(b)", "replace": "$1"}]});
    assert_eq!(body(config, "ab12c3ab"), "b#c#ab");
}

#[test]
fn json_changes() {
    let changed = |changes: Value, text: &str| body(json!({"json": changes}), text);
    let text = r#"{"user":{"id":1,"pass":"x"},"tags":["a","b"]}"#;
    for (changes, expected) in [
        (json!([{"op": "set", "path": "/user/id", "value": 2}]), r#"{"user":{"id":2,"pass":"x"},"tags":["a","b"]}"#),
        (
            json!([{"op": "remove", "path": "/user/pass"}, {"op": "remove", "path": "/tags/0"}]),
            r#"{"user":{"id":1},"tags":["b"]}"#,
        ),
        (
            json!([{"op": "add", "path": "/user/id", "value": 2}, {"op": "add", "path": "/n", "value": null}]),
            r#"{"user":{"id":1,"pass":"x"},"tags":["a","b"],"n":null}"#,
        ),
        (
            json!([{"op": "set", "path": "/tags/-", "value": {"q": ["$arg_id"]}}, {"op": "set", "path": "/tags/9", "value": 1}]),
            r#"{"user":{"id":1,"pass":"x"},"tags":["a","b",{"q":["7"]},1]}"#,
        ),
        (
            json!([{"op": "set", "path": "/new/deep~1er", "value": true}, {"op": "remove", "path": "/user"}, {"op": "remove", "path": "/none/x"}]),
            r#"{"tags":["a","b"],"new":{"deep/er":true}}"#,
        ),
        (json!([{"op": "set", "path": "", "value": [1]}]), "[1]"),
    ] {
        assert_eq!(changed(changes.clone(), text), expected, "{changes}");
    }
}

#[test]
fn bodies_that_cannot_be_rewritten() {
    let json = || json!({"body": {"json": [{"op": "remove", "path": "/a"}]}, "max_body_size": 1000});
    let refused = |body: &str| rewritten(json(), body).1.unwrap();
    assert_eq!(
        refused("{\"a\":"),
        Reply::message(400, "the request's body is not JSON: EOF while parsing a value at line 1 column 5")
    );
    assert_eq!(refused(&"[".repeat(500)).status, 400);
    assert_eq!(refused(&" ".repeat(1001)), Reply::status(413));
    let plugin = Harness::new(define::<RequestRewrite>(), json()).unwrap();
    let mut cx = Context::for_tests("POST", "/");
    cx.request.headers.append("Content-Encoding", "gzip");
    assert_eq!(plugin.request(&mut cx).map(|r| r.status), Some(415));
    let mut cx = Context::for_tests("GET", "/");
    assert_eq!((plugin.request(&mut cx), cx.upstream.body), (None, None));
}

#[test]
fn what_is_wrong_is_said_when_it_is_written() {
    let refused = |mut config: Value| check(define::<RequestRewrite>(), Scope::Route, &mut config).unwrap_err().0;
    assert_eq!(refused(json!({"body": {"base64": "%"}})), "body.base64: invalid base64 content");
    assert_eq!(refused(json!({"body": {"json": [{"op": "set", "path": "/a"}]}})), "body.json: /a has no value");
    assert!(refused(json!({"body": {"replace": [{"regex": "(", "replace": ""}]}})).contains("validation failed"));
    for config in [
        json!({}),
        json!({"body": {}}),
        json!({"body": {"template": "", "base64": ""}}),
        json!({"method": "get"}),
        json!({"body": {"json": [{"op": "move", "path": "/a"}]}}),
        json!({"body": {"json": [{"op": "remove", "path": "a"}]}}),
    ] {
        assert!(!refused(config).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// What is set is there, wherever the path leads; what is removed is not.
    #[test]
    fn set_and_remove(path in "(/[ab01]{0,2}){1,5}", value in 0..9u8, start in prop::sample::select(vec!["{}", "[]", "1", r#"{"a":[{"b":0}]}"#])) {
        let change = |op: &str| json!([{"op": op, "path": path, "value": value}]);
        let set: Value = serde_json::from_str(&body(json!({"json": change("set")}), start)).unwrap();
        // An index beyond an array's end, or a name in an array, leads elsewhere.
        if let Some(found) = set.pointer(&path) {
            prop_assert_eq!(found, &json!(value));
            let removed: Value = serde_json::from_str(&body(json!({"json": change("remove")}), &set.to_string())).unwrap();
            prop_assert!(removed.pointer(&path) != Some(&json!(value)) || removed.to_string().len() < set.to_string().len());
        } else {
            prop_assert!(start.contains('['));
        }
    }
}
