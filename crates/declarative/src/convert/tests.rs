//! Conversions as a whole: what becomes of a document, and what is told of the rest.
use super::*;
use serde_json::json;

fn values(converted: &Converted, kind: Kind) -> Vec<(&str, &Value)> {
    let of_kind = converted.objects.iter().filter(|object| object.key.kind == kind);
    of_kind.map(|object| (object.key.id.as_str(), &object.value)).collect()
}

fn notes(converted: &Converted) -> Vec<String> {
    converted.notes.iter().map(|note| format!("{}: {}", note.at, note.text)).collect()
}

#[test]
fn an_openapi_document_becomes_a_service_and_routes() {
    let document = json!({
        "openapi": "3.1.0",
        "info": {"title": "Pet shop"},
        "servers": [{"url": "https://{env}.pets.example/v1", "variables": {"env": {"default": "api"}}}, {"url": "http://test"}],
        "security": [{"key": []}],
        "components": {"securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Key"}}},
        "paths": {
            "/pets": {"get": {"operationId": "listPets", "tags": ["pets", "team:shop"], "security": []}},
            "/pets/{id}": {"delete": {"summary": "Removes a pet"}},
            "/other": {"$ref": "other.yaml"},
        },
    });
    let registry = Registry::new(&[]).unwrap();
    let converted = openapi::convert(&document, None, &registry).unwrap();
    let services = values(&converted, Kind::Service);
    assert_eq!(services[0].0, "Pet-shop");
    assert_eq!(services[0].1["upstream"]["nodes"], json!([{"host": "api.pets.example", "port": 443, "weight": 1}]));
    let routes = values(&converted, Kind::Route);
    assert_eq!(
        routes[0],
        (
            "Pet-shop-listPets",
            &json!({"name": "listPets", "labels": {"tag-pets": "true", "team": "shop"}, "uri": "/v1/pets", "methods": ["GET"],
                "service_id": "Pet-shop"})
        )
    );
    assert_eq!((routes[1].0, &routes[1].1["uri"]), ("Pet-shop-delete-pets-id", &json!("/v1/pets/:id")));
    let notes = notes(&converted);
    assert!(notes[0].contains("radixtree_uri_with_parameter"), "{notes:?}");
    // This registry knows no plugin, so that the scheme is a note instead.
    assert!(
        notes.iter().any(|note| note.starts_with("paths./pets/{id}.delete.security.key: not carried over: key-auth")),
        "{notes:?}"
    );
    assert!(
        notes.iter().any(|note| note.starts_with("servers[1]:"))
            && notes.iter().any(|note| note.contains("other.yaml"))
    );
    let relative = json!({"openapi": "3.0.0", "servers": [{"url": "/v2"}], "paths": {"/a": {"get": {}}}});
    assert!(openapi::convert(&relative, None, &registry).is_err());
    let named = openapi::convert(&relative, Some("http://h:81"), &registry).unwrap();
    assert_eq!(values(&named, Kind::Route)[0].1["uri"], "/v2/a");
    assert!(openapi::convert(&json!({"swagger": "2.0"}), None, &registry).is_err());
}

#[test]
fn a_deck_file_becomes_resources() {
    let document = json!({
        "_format_version": "3.0",
        "upstreams": [{"name": "pool", "algorithm": "least-connections", "targets": [{"target": "10.0.0.1:81", "weight": 5}]}],
        "services": [
            {"name": "orders", "host": "pool", "protocol": "http", "path": "/api", "routes": [
                {"name": "by-prefix", "paths": ["/orders"], "methods": ["GET"], "hosts": ["shop.example"], "headers": {"X-Env": ["a", "b"]}},
                {"name": "by-pattern", "paths": ["~/orders/(?<id>\\d+)$"], "strip_path": false},
            ]},
            {"name": "plain", "url": "https://b.example/", "connect_timeout": 500, "routes": [{"paths": ["/"], "preserve_host": true, "plugins": [{"name": "acl", "config": {}}]}]},
            {"name": "raw", "url": "tcp://x:1"},
        ],
        "consumers": [{"username": "anna b", "groups": [{"name": "gold"}], "keyauth_credentials": [{"key": "k"}]}],
        "consumer_groups": [{"name": "gold"}],
        "plugins": [{"name": "acl", "config": {}}],
        "vaults": [],
    });
    let registry = Registry::new(&[]).unwrap();
    let converted = deck::convert(&document, &registry).unwrap();
    let upstream = values(&converted, Kind::Upstream)[0].1;
    assert_eq!((&upstream["type"], &upstream["pass_host"]), (&json!("least_conn"), &json!("node")));
    assert_eq!(upstream["nodes"], json!([{"host": "10.0.0.1", "port": 81, "weight": 5}]));
    let services = values(&converted, Kind::Service);
    assert_eq!(services[0].1["upstream_id"], "pool");
    assert_eq!(services[1].1["upstream"]["timeout"], json!({"connect": 0.5, "send": 60.0, "read": 60.0}));
    assert_eq!(services[1].1["upstream"]["pass_host"], "pass");
    let routes = values(&converted, Kind::Route);
    assert_eq!(
        routes[0].1,
        &json!({"name": "by-prefix", "methods": ["GET"], "hosts": ["shop.example"], "service_id": "orders", "uris": ["/orders*"],
            "vars": [["http_x_env", "in", ["a", "b"]]], "plugins": {"proxy-rewrite": {"regex_uri": ["^/orders/?(.*)", "/api/$1"]}}})
    );
    assert_eq!((&routes[1].1["uri"], &routes[1].1["priority"]), (&json!("/orders/*"), &json!(100)));
    assert_eq!(routes[1].1["vars"], json!([["uri", "~~", "^/orders/(?<id>\\d+)$"]]));
    assert_eq!(
        (&routes[1].1["status"], &routes[2].1["status"]),
        (&Value::Null, &json!(0)),
        "what was guarded is not opened"
    );
    assert_eq!(values(&converted, Kind::Consumer), [("anna_b", &json!({"username": "anna_b", "group_id": "gold"}))]);
    let notes = notes(&converted).join("\n");
    for part in [
        "services[2]: service \"raw\" not carried over",
        "became \"anna_b\"",
        "plugins[0].acl: not carried over",
        "vaults:",
    ] {
        assert!(notes.contains(part), "{part}\n{notes}");
    }
    assert!(deck::convert(&json!({}), &registry).is_err());
}

#[test]
fn ids_are_unique_and_short() {
    let mut out = Converted::default();
    assert_eq!(out.add(Kind::Route, "GET /a b", json!({})), "GET-a-b");
    assert_eq!(out.add(Kind::Route, "GET /a b", json!({})), "GET-a-b-2");
    assert_eq!(out.add(Kind::Route, "//", json!({})), "unnamed");
    assert!(out.add(Kind::Route, &"x".repeat(99), json!({})).len() <= 64);
}
