//! All or nothing, in any order.
use crate::message::testing::request;
use crate::testing::{Fixture, open, send};
use serde_json::{Value, json};
use sluice_model::Kind;

async fn run(it: &Fixture, operations: Value) -> (u16, Value) {
    send(it, request("POST", "/apisix/admin/transactions", &operations.to_string())).await
}

fn route(upstream: &str) -> Value {
    json!({"uri": "/a", "upstream_id": upstream})
}

fn upstream() -> Value {
    json!({"type": "roundrobin", "nodes": {"127.0.0.1:80": 1}})
}

#[tokio::test]
async fn objects_that_refer_to_each_other_come_and_go_together() {
    let it = open();
    let both = json!([
        {"path": "/apisix/admin/routes/1", "body": route("u")},
        {"method": "PUT", "kind": "upstreams", "id": "u", "body": upstream()},
        {"method": "POST", "kind": "routes", "body": route("u")},
    ]);
    let (status, done) = run(&it, both).await;
    assert_eq!(status, 200, "{done}");
    assert_eq!((&done["revision"], &done["results"][0]["status"]), (&json!(1), &json!(201)));
    assert_eq!(done["results"][1]["body"]["key"], "/apisix/upstreams/u");
    assert_eq!(it.ids(Kind::Route).len(), 2);
    let posted = done["results"][2]["body"]["value"]["id"].as_str().unwrap().to_owned();
    let gone = json!([
        {"method": "DELETE", "path": "upstreams/u"},
        {"method": "DELETE", "path": "routes/1"},
        {"method": "DELETE", "path": format!("routes/{posted}")},
    ]);
    assert_eq!(run(&it, gone).await.0, 200);
    assert!(it.ids(Kind::Upstream).is_empty());
}

#[tokio::test]
async fn one_refusal_and_nothing_is_written() {
    let it = open();
    let (status, refused) = run(
        &it,
        json!([
            {"path": "upstreams/u", "body": upstream()},
            {"path": "routes/1", "body": route("missing")},
        ]),
    )
    .await;
    assert_eq!((status, &refused["operation"]), (400, &json!(1)));
    assert!(
        refused["error_msg"].as_str().unwrap().starts_with("operation 1: failed to fetch upstream info"),
        "{refused}"
    );
    assert!(it.ids(Kind::Upstream).is_empty());
    for (operations, why) in [
        (json!({}), "a list of operations is expected"),
        (
            json!([{"method": "GET", "path": "routes"}]),
            "operation 0: method \"GET\" does not write; nothing was written",
        ),
        (json!([{"path": "routes/1", "body": {}, "x": 1}]), "operation 0: unknown field \"x\"; nothing was written"),
        (
            json!([{"method": "DELETE", "path": "routes/1"}, {"path": "/routes/1", "body": {}}]),
            "operation 1: routes/1 occurs twice; nothing was written",
        ),
    ] {
        let (status, refused) = run(&it, operations).await;
        assert_eq!((status, refused["error_msg"].as_str()), (400, Some(why)));
    }
}

#[tokio::test]
async fn conditions_hold_for_each_operation() {
    let it = open();
    assert_eq!(run(&it, json!([{"path": "upstreams/u", "body": upstream()}])).await.0, 200);
    let changed = |tag: u64| json!([{"path": "upstreams/u", "body": upstream(), "if_match": tag}, {"path": "upstreams/v", "body": upstream()}]);
    let (status, refused) = run(&it, changed(7)).await;
    assert_eq!((status, &refused["operation"]), (412, &json!(0)), "{refused}");
    assert_eq!(it.ids(Kind::Upstream), ["u"]);
    assert_eq!(run(&it, changed(1)).await.0, 200);
    let dry = request(
        "POST",
        "/apisix/admin/transactions?dry_run=true",
        &json!([{"method": "DELETE", "path": "upstreams/v"}]).to_string(),
    );
    let (status, told) = send(&it, dry).await;
    assert_eq!((status, &told["changes"][0]["action"]), (200, &json!("delete")));
    assert_eq!(it.ids(Kind::Upstream), ["u", "v"]);
}
