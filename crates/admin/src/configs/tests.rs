//! The exchange of whole configurations, on a store in memory.
use crate::message::testing::request;
use crate::testing::{fixture, send};
use crate::{AdminSettings, Handler};
use serde_json::{Value, json};
use sluice_model::Kind;

fn api_driven() -> crate::testing::Fixture {
    fixture(AdminSettings { api_driven: true, key_required: false, ..AdminSettings::default() })
}

fn put(digest: &str, body: &Value) -> crate::Request {
    let mut asked = request("PUT", "/apisix/admin/configs", &body.to_string());
    asked.headers.push(("x-digest".into(), digest.into()));
    asked
}

fn route(uri: &str) -> Value {
    json!({"id": "r1", "uri": uri, "upstream": {"nodes": {"127.0.0.1:1980": 1}, "type": "roundrobin"}})
}

#[tokio::test]
async fn a_configuration_is_exchanged_as_a_whole() {
    let it = api_driven();
    let (status, empty) = send(&it, request("GET", "/apisix/admin/configs", "")).await;
    assert_eq!((status, &empty["routes_conf_version"]), (200, &json!(0)));
    let taken = it.admin.answer(put("1", &json!({"routes": [route("/a")]}))).await;
    assert_eq!(taken.status, 202, "{taken:?}");
    assert!(taken.headers.contains(&("X-Digest", "1".to_owned())));
    assert_eq!(it.ids(Kind::Route), ["r1"]);
    assert_eq!(send(&it, put("1", &json!({}))).await.0, 204);
    let (_, config) = send(&it, request("GET", "/apisix/admin/configs", "")).await;
    assert_eq!(config["routes"], json!([route("/a")]));
    assert_eq!((&config["routes_conf_version"], &config["ssls_conf_version"]), (&json!(1), &json!(1)));
    let head = it.admin.answer(request("HEAD", "/apisix/admin/configs", "")).await;
    assert!(head.status == 200 && head.headers.contains(&("X-Digest", "1".to_owned())));
    assert_eq!(send(&it, put("2", &json!({}))).await.0, 202);
    assert!(it.ids(Kind::Route).is_empty());
    assert_eq!(send(&it, request("GET", "/apisix/admin/routes", "")).await.0, 404);
}

#[tokio::test]
async fn sections_with_an_old_version_stay_and_versions_never_go_back() {
    let it = api_driven();
    assert_eq!(send(&it, put("1", &json!({"routes_conf_version": 5, "routes": [route("/a")]}))).await.0, 202);
    assert_eq!(send(&it, put("2", &json!({"routes_conf_version": 5}))).await.0, 202);
    assert_eq!(it.ids(Kind::Route), ["r1"]);
    let (status, refusal) = send(&it, put("3", &json!({"routes_conf_version": 4}))).await;
    let message = "routes_conf_version must be greater than or equal to (5)";
    assert_eq!((status, refusal), (400, json!({"error_msg": message})));
}

#[tokio::test]
async fn an_object_changes_with_its_modified_index_only() {
    let it = api_driven();
    let indexed = |uri: &str, index: u64| {
        let mut own = route(uri);
        own["modifiedIndex"] = index.into();
        json!({"routes": [own]})
    };
    for (digest, uri, index, in_force) in [("1", "/a", 1, "/a"), ("2", "/b", 1, "/a"), ("3", "/b", 2, "/b")] {
        assert_eq!(send(&it, put(digest, &indexed(uri, index))).await.0, 202);
        assert_eq!(it.body("routes/r1")["uri"], in_force, "{digest}");
    }
}

#[tokio::test]
async fn yaml_is_spoken_both_ways() {
    let it = api_driven();
    let mut asked = request("PUT", "/apisix/admin/configs", "routes:\n  - id: r1\n    uri: /a\n    upstream_id: u\n");
    asked.headers.extend([("x-digest".into(), "y".into()), ("content-type".into(), "application/yaml".into())]);
    assert_eq!(send(&it, asked).await.0, 202);
    let mut asked = request("GET", "/apisix/admin/configs", "");
    asked.headers.push(("accept".into(), "application/yaml".into()));
    let reply = it.admin.answer(asked).await;
    let text = String::from_utf8(reply.body).unwrap();
    assert!(text.contains("routes:") && text.contains("id: r1"), "{text}");
    assert!(!text.starts_with("---"));
}

#[tokio::test]
async fn refusals_are_apisix_s() {
    let it = api_driven();
    let consumers = json!({"consumers": [{"username": "a"}, {"username": "a"}]});
    let unknown = json!({"routes": [{"id": "r", "uri": "/a", "plugins": {"nope": {}}}]});
    for (digest, body, message) in [
        (None, json!({}), "missing digest header"),
        (Some("x"), json!({"routes_conf_version": "a"}), "routes_conf_version must be a number"),
        (Some("x"), json!({"routes": [route("/a"), route("/b")]}), "found duplicate id r1 in routes"),
        (Some("x"), consumers, "found duplicate username a in consumers"),
        (Some("x"), unknown, "unknown plugin [nope]"),
        (
            Some("x"),
            json!({"routes": [{"id": "r", "uri": 123}]}),
            "invalid configuration: property \"uri\" validation failed: wrong type: expected string, got number",
        ),
    ] {
        let mut asked = request("PUT", "/apisix/admin/configs", &body.to_string());
        asked.headers.extend(digest.map(|digest| ("x-digest".to_owned(), digest.to_owned())));
        assert_eq!(send(&it, asked).await, (400, json!({"error_msg": message})));
    }
    assert!(it.ids(Kind::Route).is_empty());
}

#[tokio::test]
async fn validate_tells_everything_in_every_mode_and_writes_nothing() {
    for api_driven in [true, false] {
        let it = fixture(AdminSettings { api_driven, key_required: false, ..AdminSettings::default() });
        let validate = |body: Value| request("POST", "/apisix/admin/configs/validate", &body.to_string());
        assert_eq!(send(&it, validate(json!({"routes": [route("/a")]}))).await, (200, json!({})));
        let wrong = json!({"routes": [{"id": "r1", "uri": 1}, {"id": "r2", "uri": 2}], "ssls_conf_version": "x"});
        let (status, answer) = send(&it, validate(wrong)).await;
        assert_eq!((status, &answer["error_msg"]), (400, &json!("Configuration validation failed")));
        assert_eq!(answer["errors"].as_array().map(Vec::len), Some(3), "{answer}");
        assert_eq!(answer["errors"][1]["index"], 1);
        assert_eq!(answer["errors"][1]["resource_id"], "r2");
        assert_eq!(answer["errors"][2]["error"], "ssls_conf_version must be a number, got string");
        let (_, empty) = send(&it, request("POST", "/apisix/admin/configs/validate", "")).await;
        assert_eq!(empty["error_msg"], "invalid request body: empty request body");
        assert!(it.ids(Kind::Route).is_empty());
    }
}
