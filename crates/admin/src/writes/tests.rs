//! Conditions, dry runs and warnings on the ordinary verbs.
use crate::message::testing::request;
use crate::testing::{open, send};
use crate::{Handler, Reply, Request};
use serde_json::{Value, json};
use sluice_model::Kind;

fn route(uri: &str) -> String {
    json!({"uri": uri, "upstream_id": "u"}).to_string()
}

fn tag(reply: &Reply) -> Option<String> {
    reply.headers.iter().find(|(name, _)| *name == "ETag").map(|(_, value)| value.clone())
}

fn with(mut request: Request, name: &str, value: &str) -> Request {
    request.headers.push((name.to_owned(), value.to_owned()));
    request
}

async fn upstream(it: &crate::testing::Fixture) {
    let body = json!({"type": "roundrobin", "nodes": {"127.0.0.1:80": 1}}).to_string();
    assert_eq!(send(it, request("PUT", "/apisix/admin/upstreams/u", &body)).await.0, 201);
}

#[tokio::test]
async fn an_object_is_changed_only_by_who_knows_it() {
    let it = open();
    upstream(&it).await;
    let path = "/apisix/admin/routes/1";
    let created = it.admin.answer(request("PUT", path, &route("/a"))).await;
    let first = tag(&created).unwrap();
    assert_eq!(tag(&it.admin.answer(request("GET", path, "")).await), Some(first.clone()));
    let changed = it.admin.answer(with(request("PUT", path, &route("/b")), "if-match", &first)).await;
    assert_eq!(changed.status, 200);
    let second = tag(&changed).unwrap();
    assert_ne!(first, second);
    for (method, body) in [("PUT", route("/c")), ("PATCH", json!({"uri": "/c"}).to_string()), ("DELETE", String::new())]
    {
        let (status, answer) = send(&it, with(request(method, path, &body), "if-match", &first)).await;
        assert_eq!(status, 412, "{method}: {answer}");
        assert_eq!(it.body("routes/1")["uri"], "/b");
    }
    let any = format!("\"7777\", {second}");
    assert_eq!(send(&it, with(request("PATCH", path, r#"{"uri": "/d"}"#), "if-match", &any)).await.0, 200);
    assert_eq!(send(&it, with(request("PUT", path, &route("/e")), "if-none-match", "*")).await.0, 412);
    assert_eq!(send(&it, with(request("DELETE", path, ""), "if-match", "*")).await.0, 200);
    assert_eq!(send(&it, with(request("DELETE", path, ""), "if-match", "*")).await.0, 412);
    assert_eq!(send(&it, with(request("PUT", path, &route("/e")), "if-none-match", "*")).await.0, 201);
}

#[tokio::test]
async fn a_dry_run_tells_and_writes_nothing() {
    let it = open();
    upstream(&it).await;
    assert_eq!(send(&it, request("PUT", "/apisix/admin/routes/1", &route("/a"))).await.0, 201);
    let change = json!({"nodes": {"127.0.0.2:80": 1}}).to_string();
    let (status, told) = send(&it, request("PATCH", "/apisix/admin/upstreams/u?dry_run=true", &change)).await;
    assert_eq!((status, &told["dry_run"], &told["status"]), (200, &json!(true), &json!(200)), "{told}");
    assert_eq!(told["changes"][0]["key"], "upstreams/u");
    assert_eq!(told["changes"][0]["action"], "update");
    let changed = told["changes"][0]["changed"].as_array().unwrap();
    assert!(changed.contains(&json!("/nodes/127.0.0.2:80")), "{changed:?}");
    assert_eq!(told["affected"], json!({"all": false, "total": 1, "routes": ["1"]}));
    assert_eq!(it.body("upstreams/u")["nodes"], json!({"127.0.0.1:80": 1}));
    let (status, refused) = send(&it, request("PUT", "/apisix/admin/routes/2?dry_run=true", r#"{"uri": 1}"#)).await;
    assert!(status == 400 && refused["error_msg"].is_string());
    assert_eq!(send(&it, request("DELETE", "/apisix/admin/routes/1?dry_run=true", "")).await.0, 200);
    assert_eq!(it.ids(Kind::Route), ["1"]);
    assert_eq!(send(&it, request("DELETE", "/apisix/admin/routes/9?dry_run=true", "")).await.0, 404);
}

#[tokio::test]
async fn warnings_are_told_to_who_asks() {
    let it = crate::testing::with_routes(&[("old", json!({"uri": "/a", "priority": 9}))]);
    upstream(&it).await;
    let (_, plain) = send(&it, request("PUT", "/apisix/admin/routes/1", &route("/a"))).await;
    assert_eq!(plain.get("warnings"), None);
    let (status, told) = send(&it, request("PUT", "/apisix/admin/routes/1?warnings=true", &route("/a"))).await;
    assert_eq!(status, 200);
    let warning = "route 1 never gets /a: route old comes first and takes all its requests";
    assert_eq!(told["warnings"], json!([warning]));
    let (_, told) = send(&it, request("PUT", "/apisix/admin/routes/2?dry_run=true", &route("/b"))).await;
    assert_eq!((&told["warnings"], &told["affected"]["routes"]), (&json!([]), &json!(["2"])));
    let none: Value = json!(null);
    assert_eq!(it.body("routes/2"), none);
}
