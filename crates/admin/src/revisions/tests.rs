//! The history, the way back, and that it holds no secrets.
use crate::message::testing::request;
use crate::testing::{Fixture, open, send};
use serde_json::{Value, json};

async fn put(it: &Fixture, path: &str, body: Value) {
    let mut asked = request("PUT", &format!("/apisix/admin/{path}"), &body.to_string());
    asked.headers.push(("x-message".into(), format!("put {path}")));
    let (status, answer) = send(it, asked).await;
    assert!(status < 300, "{answer}");
}

async fn get(it: &Fixture, path: &str) -> (u16, Value) {
    send(it, request("GET", &format!("/apisix/admin/{path}"), "")).await
}

fn upstream(port: u16) -> Value {
    json!({"type": "roundrobin", "nodes": {format!("127.0.0.1:{port}"): 1}})
}

#[tokio::test]
async fn the_history_is_told_and_gone_back_in() {
    let it = open();
    put(&it, "upstreams/u", upstream(1)).await;
    put(&it, "upstreams/u", upstream(2)).await;
    put(&it, "upstreams/v", upstream(3)).await;
    let (_, page) = get(&it, "revisions?page_size=2").await;
    assert_eq!(page["list"][0]["revision"], 3);
    assert_eq!(page["list"][0]["message"], "put upstreams/v");
    assert_eq!(page["list"][0]["changes"], json!([{"key": "upstreams/v", "action": "create"}]));
    let (_, rest) = get(&it, &format!("revisions?before={}", page["next"])).await;
    assert_eq!((rest["list"].as_array().map(Vec::len), &rest["next"]), (Some(1), &Value::Null));
    let (_, second) = get(&it, "revisions/2").await;
    let changed = second["changes"][0]["changed"].as_array().unwrap();
    assert!(changed.contains(&json!("/nodes/127.0.0.1:2")), "{changed:?}");
    let (_, diff) = get(&it, "revisions/1..head").await;
    let keys: Vec<&Value> = diff["changes"].as_array().unwrap().iter().map(|own| &own["key"]).collect();
    assert_eq!(keys, ["upstreams/u", "upstreams/v"]);
    let (status, back) = send(&it, request("POST", "/apisix/admin/revisions/1/rollback", "")).await;
    assert_eq!((status, &back["revision"]), (200, &json!(4)), "{back}");
    assert_eq!(it.body("upstreams/u")["nodes"], json!({"127.0.0.1:1": 1}));
    assert_eq!(it.body("upstreams/v"), Value::Null);
    // Going back is a revision too.
    assert_eq!(send(&it, request("POST", "/apisix/admin/revisions/3/rollback", "")).await.0, 200);
    assert_eq!(it.body("upstreams/v")["nodes"], json!({"127.0.0.1:3": 1}));
}

#[tokio::test]
async fn what_is_not_there_is_refused() {
    let it = open();
    put(&it, "upstreams/u", upstream(1)).await;
    for (path, status) in
        [("revisions/9", 404), ("revisions/x", 400), ("revisions?page_size=0", 400), ("revisions/9..1", 410)]
    {
        assert_eq!(get(&it, path).await.0, status, "{path}");
    }
    assert_eq!(send(&it, request("DELETE", "/apisix/admin/revisions/1", "")).await.0, 405);
}

#[tokio::test]
async fn secrets_are_not_in_the_history() {
    let it = open();
    put(&it, "secrets/vault/1", json!({"uri": "http://v", "prefix": "kv", "token": "hidden-1"})).await;
    put(&it, "secrets/vault/1", json!({"uri": "http://v", "prefix": "kv", "token": "hidden-2"})).await;
    for path in ["revisions/1", "revisions/2", "revisions/1..2"] {
        let (status, told) = get(&it, path).await;
        let text = told.to_string();
        assert!(status == 200 && !text.contains("hidden"), "{text}");
        assert!(text.contains("***"));
    }
    let (_, told) = get(&it, "revisions/1..2").await;
    assert!(told["changes"][0]["changed"].as_array().unwrap().contains(&json!("/token")), "{told}");
}
