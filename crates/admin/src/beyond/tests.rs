//! State, explanations, and that all of it needs a key.
use crate::message::testing::request;
use crate::testing::{open, send, with_routes};
use crate::{AdminSettings, Handler};
use serde_json::{Value, json};

#[tokio::test]
async fn the_state_of_the_whole() {
    let it = open();
    let (status, told) = send(&it, request("GET", "/apisix/admin/status", "")).await;
    assert_eq!((status, &told["revision"], &told["age"]), (200, &json!(0), &Value::Null));
    assert_eq!((&told["source"], &told["condition"]), (&json!("memory"), &json!({"state": "fresh"})));
    assert_eq!(told["left_out"], json!([]));
    let upstream = json!({"type": "roundrobin", "nodes": {"127.0.0.1:80": 1}}).to_string();
    assert_eq!(send(&it, request("PUT", "/apisix/admin/upstreams/u", &upstream)).await.0, 201);
    let (_, told) = send(&it, request("GET", "/apisix/admin/status", "")).await;
    assert_eq!(told["revision"], 1);
    assert!(told["age"].as_u64().is_some_and(|age| age < 60));
}

#[tokio::test]
async fn a_request_is_explained() {
    let it = with_routes(&[("a", json!({"uri": "/a", "methods": ["GET"]})), ("b", json!({"uri": "/*"}))]);
    let ask = |body: Value| request("POST", "/apisix/admin/explain", &body.to_string());
    let (status, told) = send(&it, ask(json!({"method": "POST", "url": "http://x/a", "headers": {"a": "b"}}))).await;
    assert_eq!((status, &told["route"]["id"]), (200, &json!("b")), "{told}");
    assert_eq!(told["candidates"][0]["reason"], "method POST is not one of GET");
    assert_eq!(send(&it, ask(json!({"url": "/a"}))).await.1["route"]["id"], "a");
    for (body, why) in [
        (json!({}), "url is missing"),
        (json!({"url": "x"}), "the URL must be http://host/path or /path, not \"x\""),
        (json!({"url": "/", "headers": {"a": 1}}), "headers: a should be a text"),
        (json!({"url": "/", "client": "x"}), "client: \"x\" is no address"),
        (json!({"stream": "x"}), "stream: \"x\" is no address"),
    ] {
        assert_eq!(send(&it, ask(body)).await, (400, json!({"error_msg": why})));
    }
    let (status, told) = send(&it, ask(json!({"stream": "127.0.0.1:9100", "sni": "a.com"}))).await;
    assert_eq!((status, &told["route"], &told["connection"]["sni"]), (200, &Value::Null, &json!("a.com")));
}

#[tokio::test]
async fn a_key_is_needed() {
    let keys = vec![crate::AdminKey { name: "admin".into(), key: "k".into(), role: crate::Role::Admin }];
    let it = crate::testing::fixture(AdminSettings { keys, ..AdminSettings::default() });
    for path in ["status", "revisions", "openapi.json"] {
        assert_eq!(it.admin.answer(request("GET", &format!("/apisix/admin/{path}"), "")).await.status, 401, "{path}");
    }
}
