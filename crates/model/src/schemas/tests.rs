//! Tests of the resources' schemas: what is taken, what is refused and in which words.

use super::*;
use proptest::prelude::*;

fn message(kind: Kind, mut body: Value) -> String {
    match schema(kind).check(&mut body) {
        Ok(()) => String::from("ok"),
        Err(violation) => violation.message,
    }
}

#[test]
fn samples_of_every_kind() {
    let cert = "c".repeat(128);
    let key = "k".repeat(64);
    let route_without_target = concat!(
        "object matches none of the required: [\"plugins\",\"uri\"] or [\"upstream\",\"uri\"] or ",
        "[\"upstream_id\",\"uri\"] or [\"service_id\",\"uri\"] or [\"plugins\",\"uris\"] or [\"upstream\",\"uris\"] or ",
        "[\"upstream_id\",\"uris\"] or [\"service_id\",\"uris\"] or [\"script\",\"uri\"] or [\"script\",\"uris\"]"
    );
    for (kind, body, words) in [
        (Kind::Route, json!({"uri": "/a", "plugins": {}}), "ok"),
        (Kind::Route, json!({"uri": "/a"}), route_without_target),
        (Kind::Route, json!({"plugins": {}}), "allOf 1 failed: value should match only one schema, but matches none"),
        (
            Kind::Route,
            json!({"uri": "/a", "uris": ["/b"], "plugins": {}}),
            "allOf 1 failed: value should match only one schema, but matches both schemas 1 and 2",
        ),
        (
            Kind::Route,
            json!({"uri": "/a", "plugins": {}, "script": "return 1234567"}),
            "value wasn't supposed to match schema",
        ),
        (
            Kind::Route,
            json!({"uri": "/a", "plugins": {}, "id": 0}),
            "property \"id\" validation failed: object matches none of the required",
        ),
        (
            Kind::Route,
            json!({"uri": "/a", "plugins": {}, "methods": ["GETT"]}),
            "property \"methods\" validation failed: failed to validate item 1: matches none of the enum values",
        ),
        (Kind::Route, json!({"uri": "/a", "plugins": {}, "foo": 1}), "additional properties forbidden, found foo"),
        (
            Kind::Route,
            json!({"uri": "/a", "plugins": {}, "hosts": ["a_b.com", "a_b.com"]}),
            "property \"hosts\" validation failed: expected unique items but items 1 and 2 are equal",
        ),
        (
            Kind::Route,
            json!({"uri": "/a", "plugins": {}, "remote_addr": "10.0.0.0/33"}),
            "property \"remote_addr\" validation failed: object matches none of the required",
        ),
        (
            Kind::Route,
            json!({"uri": "/a", "plugins": {}, "timeout": {"connect": 0, "send": 1, "read": 1}}),
            "property \"timeout\" validation failed: property \"connect\" validation failed: expected 0 to be greater than 0",
        ),
        (Kind::Upstream, json!({"nodes": {"a:80": 1}}), "ok"),
        (Kind::Upstream, json!({"nodes": []}), "ok"),
        (
            Kind::Upstream,
            json!({"nodes": {"a:80": -1}}),
            "property \"nodes\" validation failed: object matches none of the required",
        ),
        (Kind::Upstream, json!({}), "value should match only one schema, but matches none"),
        (
            Kind::Upstream,
            json!({"nodes": {}, "service_name": "a", "discovery_type": "dns"}),
            "value should match only one schema, but matches both schemas 1 and 2",
        ),
        (
            Kind::Upstream,
            json!({"nodes": {}, "checks": {"passive": {}}}),
            "property \"checks\" validation failed: object matches none of the required: [\"active\"] or [\"active\",\"passive\"]",
        ),
        (Kind::Upstream, json!({"nodes": {}, "checks": {"passive": {"unhealthy": {"ejection_time": 30}}}}), "ok"),
        (
            Kind::Upstream,
            json!({"nodes": {}, "checks": {"passive": {"unhealthy": {}}}}),
            "property \"checks\" validation failed: object matches none of the required: [\"active\"] or [\"active\",\"passive\"]",
        ),
        (Kind::Upstream, json!({"nodes": {}, "checks": {"active": {"type": "grpc"}, "all_unhealthy": "fail"}}), "ok"),
        (
            Kind::Upstream,
            json!({"nodes": {}, "tls": {"client_cert": cert}}),
            "property \"tls\" validation failed: failed to validate dependent schema for \"client_cert\": property \"client_key\" is required",
        ),
        (Kind::Service, json!({}), "ok"),
        (
            Kind::Service,
            json!({"hosts": []}),
            "property \"hosts\" validation failed: expect array to have at least 1 items",
        ),
        (Kind::Consumer, json!({"username": "jack"}), "ok"),
        (Kind::Consumer, json!({}), "property \"username\" is required"),
        (
            Kind::Consumer,
            json!({"username": "a b"}),
            "property \"username\" validation failed: failed to match pattern \"^[a-zA-Z0-9_\\\\-]+$\" with \"a b\"",
        ),
        (Kind::Credential, json!({"id": "jack/credentials/1"}), "ok"),
        (
            Kind::Credential,
            json!({"plugins": {"a": {}, "b": {}}}),
            "property \"plugins\" validation failed: expect object to have at most 1 properties",
        ),
        (Kind::ConsumerGroup, json!({"id": 1}), "property \"plugins\" is required"),
        (Kind::PluginConfig, json!({"id": 1, "name": "", "plugins": {}}), "ok"),
        (Kind::GlobalRule, json!({"id": 1, "plugins": {}, "name": "x"}), "additional properties forbidden, found name"),
        (Kind::Ssl, json!({"sni": "a.com", "cert": cert, "key": key}), "ok"),
        (Kind::Ssl, json!({"cert": cert, "key": key}), "then clause did not match"),
        (Kind::Ssl, json!({"type": "client", "cert": cert, "key": key}), "ok"),
        (Kind::Ssl, json!({"type": "client", "cert": cert}), "else clause did not match"),
        (Kind::Ssl, json!({"sni": "a.com", "cert": "$secret://vault/1/a/b", "key": "$env://KEY"}), "ok"),
        (
            Kind::Proto,
            json!({"content": ""}),
            "property \"content\" validation failed: string too short, expected at least 1, got 0",
        ),
        (Kind::StreamRoute, json!({"server_port": 9100, "upstream_id": 1}), "ok"),
        (
            Kind::StreamRoute,
            json!({"protocol": {"name": "a", "logger": [{"name": "b"}]}}),
            "property \"protocol\" validation failed: property \"logger\" validation failed: failed to validate item 1: property \"conf\" is required when \"name\" is set",
        ),
    ] {
        assert_eq!(message(kind, body.clone()), words, "{kind:?} {body}");
    }
}

#[test]
fn every_document_compiles() {
    for kind in Kind::ALL {
        assert_eq!(document(kind)["type"], "object");
    }
    for name in ["vault", "aws", "gcp", "file"] {
        assert!(secret::manager(name).is_some());
    }
    assert!(secret::manager("nosuch").is_none());
    assert!(HASH_VARS.check(&mut json!("arg_name")).is_ok());
    assert!(HASH_VARS.check(&mut json!("nosuch")).is_err());
}

#[test]
fn defaults_of_a_route_and_its_upstream() {
    let mut body = json!({"uri": "/a", "upstream": {"nodes": [{"host": "a", "weight": 1}], "checks": {"active": {"healthy": {}}}}});
    schema(Kind::Route).check(&mut body).unwrap();
    assert_eq!((&body["priority"], &body["status"]), (&json!(0), &json!(1)));
    let upstream = &body["upstream"];
    for (name, value) in [("type", "roundrobin"), ("hash_on", "vars"), ("scheme", "http"), ("pass_host", "pass")] {
        assert_eq!(upstream[name], value);
    }
    assert_eq!(upstream["nodes"][0]["priority"], 0);
    assert_eq!(upstream["checks"]["active"]["http_path"], "/");
    assert_eq!(upstream["checks"]["active"]["healthy"]["http_statuses"], json!([200, 302]));
    assert_eq!(upstream["checks"]["active"].get("unhealthy"), None);
}

#[test]
fn secret_managers_check_their_settings() {
    let vault = secret::manager("vault").unwrap();
    assert!(vault.check(&mut json!({"uri": "http://127.0.0.1:8200", "prefix": "kv", "token": "t"})).is_ok());
    let violation = vault.check(&mut json!({"uri": "127.0.0.1", "prefix": "kv", "token": "t"})).unwrap_err();
    assert_eq!(
        violation.message,
        r#"property "uri" validation failed: failed to match pattern "^[^\\/]+:\\/\\/([\\da-zA-Z.-]+|\\[[\\da-fA-F:]+\\])(:\\d+)?" with "127.0.0.1""#
    );
}

fn upstream() -> impl Strategy<Value = Value> {
    let nodes = prop_oneof![
        Just(json!({})),
        ("[a-z]{1,3}:[0-9]{1,2}", 0..5).prop_map(|(address, weight)| json!({address: weight})),
        ("[a-z]{1,3}", 0..5).prop_map(|(host, weight)| json!([{"host": host, "weight": weight}])),
    ];
    let checks = prop_oneof![
        Just(json!({"active": {}})),
        Just(json!({"active": {"unhealthy": {}}, "passive": {"healthy": []}}))
    ];
    (nodes, checks, prop::option::of(Just("https"))).prop_map(|(nodes, checks, scheme)| {
        let mut body = json!({"nodes": nodes, "checks": checks, "keepalive_pool": {}, "tls": []});
        if let Some(scheme) = scheme {
            body["scheme"] = json!(scheme);
        }
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn checking_a_route_twice_changes_nothing(upstream in upstream()) {
        let mut body = json!({"uri": "/", "upstream": upstream, "labels": {"a": "b"}});
        prop_assert_eq!(schema(Kind::Route).check(&mut body), Ok(()));
        let once = body.clone();
        prop_assert_eq!(schema(Kind::Route).check(&mut body), Ok(()));
        prop_assert_eq!(&body, &once);
        prop_assert!(serde_json::from_value::<crate::Route>(body).is_ok());
    }
}
