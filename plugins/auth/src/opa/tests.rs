//! The server is a fake that notes what it was asked.
use super::*;
use crate::testing::{bare, schema_is};
use sluice_plugin::consumer::ConsumerMatch;
use sluice_plugin::context::RouteObjects;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Consumer, HttpError, HttpResponse, RouteInfo, Scope, define};
use std::sync::{Arc, Mutex};

type Asked = Arc<Mutex<Vec<HttpRequest>>>;

fn plugin(config: Value, answer: Result<&str, HttpError>) -> (Harness, Asked) {
    let asked = Asked::default();
    let noted = asked.clone();
    let answer = answer.map(|body| HttpResponse { status: 200, headers: Vec::new(), body: body.into() });
    let env = Env::for_tests().with_http(move |request: &HttpRequest| {
        noted.lock().unwrap().push(request.clone());
        answer.clone()
    });
    let mut all = json!({"host": "http://opa.test:8181", "policy": "app/http"});
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    (Harness::with_env(define::<Opa>(), all, env).unwrap(), asked)
}

fn verdict(decision: &str) -> Option<Reply> {
    plugin(json!({}), Ok(decision)).0.request(&mut bare("GET", "/", &[]))
}

#[test]
fn the_schema_is_that_of_apisix() {
    let (yes, no) = (json!({"type": "boolean", "default": true}), json!({"type": "boolean", "default": false}));
    schema_is(
        Opa::schema(),
        json!({"type": "object", "required": ["host", "policy"], "properties": {
        "host": {"type": "string"}, "policy": {"type": "string"}, "ssl_verify": yes, "keepalive": yes,
        "timeout": {"type": "integer", "minimum": 1, "maximum": 60000, "default": 3000},
        "send_headers_upstream": {"type": "array", "minItems": 1, "items": {"type": "string"}},
        "keepalive_timeout": {"type": "integer", "minimum": 1000, "default": 60000},
        "keepalive_pool": {"type": "integer", "minimum": 1, "default": 5},
        "with_route": no, "with_service": no, "with_consumer": no}}),
    );
    let error = |mut config: Value| check(define::<Opa>(), Scope::Route, &mut config).unwrap_err().0;
    assert_eq!(error(json!({"host": "http://a"})), "property \"policy\" is required");
}

#[test]
fn the_server_gets_the_request() {
    let (plugin, asked) = plugin(json!({}), Ok(r#"{"result":{"allow":true}}"#));
    let mut cx = bare("GET", "/a%20b?x=1&x=2&y&z=%20", &[("X-A", "1"), ("x-a", "2"), ("Test", "t")]);
    assert_eq!(plugin.request(&mut cx), None);
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0].url, "http://opa.test:8181/v1/data/app/http");
    assert_eq!((asked[0].method.as_str(), asked[0].headers.len()), ("POST", 1));
    let sent: Value = serde_json::from_slice(&asked[0].body).unwrap();
    let expected = json!({"input": {
        "type": "http",
        "request": {"scheme": "http", "method": "GET", "host": "localhost", "port": 9080, "path": "/a b",
            "headers": {"host": "localhost", "x-a": ["1", "2"], "test": "t"},
            "query": {"x": ["1", "2"], "y": true, "z": " "}},
        "var": {"server_addr": "127.0.0.1", "server_port": "9080", "remote_addr": "127.0.0.1", "remote_port": "40000",
            "timestamp": 1_700_000_000}}});
    assert_eq!(sent, expected);
}

#[test]
fn the_server_gets_the_objects_it_is_to_have() {
    let objects = RouteObjects { route: json!({"id": "r1"}), service: Some(json!({"id": "s1"})) };
    let consumer = Consumer { username: "anna".into(), raw: json!({"plugins": {}}), ..Consumer::default() };
    let found = ConsumerMatch { consumer: Arc::new(consumer), credential_id: Some("c1".into()), plugin: "key-auth" };
    let route = Arc::new(RouteInfo { objects: Some(Arc::new(objects)), ..RouteInfo::default() });
    let consumer = json!({"username": "anna", "consumer_name": "anna", "credential_id": "c1", "plugins": {}});
    for with in [true, false] {
        let config = json!({"with_route": with, "with_service": with, "with_consumer": with});
        let (plugin, asked) = plugin(config, Ok(r#"{"result":{"allow":true}}"#));
        let mut cx = bare("GET", "/", &[]);
        (cx.route, cx.consumer) = (Some(route.clone()), Some(found.clone()));
        assert_eq!(plugin.request(&mut cx), None);
        let sent: Value = serde_json::from_slice(&asked.lock().unwrap()[0].body).unwrap();
        for (field, value) in
            [("route", json!({"id": "r1"})), ("service", json!({"id": "s1"})), ("consumer", consumer.clone())]
        {
            assert_eq!(sent["input"].get(field), Some(&value).filter(|_| with), "{field}");
        }
    }
}

#[test]
fn objects_are_not_promised_where_there_are_none() {
    let env = Env::for_tests().for_resource("global_rules/1", 1);
    let config = json!({"host": "http://a", "policy": "b", "with_route": true});
    let refused = Harness::with_env(define::<Opa>(), config, env).err().unwrap();
    assert_eq!(refused.0, "with_route and with_service need the plugin on a route, service or plugin config");
}

#[test]
fn decisions() {
    assert_eq!(verdict(r#"{"result":{"allow":true,"status_code":401,"reason":"x"}}"#), None);
    for (result, expected) in [
        (json!({"allow": false}), Reply::status(403)),
        (json!({}), Reply::status(403)),
        (json!({"allow": null}), Reply::status(403)),
        (json!({"allow": []}), Reply::status(403)),
        (json!({"allow": "true"}), Reply::status(403)),
        (
            json!({"status_code": 302, "headers": {"Location": "http://a/"}}),
            Reply::status(302).header("Location", "http://a/"),
        ),
        (json!({"status_code": "401", "reason": "no"}), Reply::text(401, "no")),
        (json!({"status_code": 99999, "reason": {"code": 1}}), Reply::text(403, "{\"code\":1}")),
        (json!({"status_code": 100, "reason": 5}), Reply::text(403, "5")),
        (
            json!({"headers": {"a": ["x", 2], "b": true, "c": null}, "reason": ""}),
            Reply::text(403, "").header("a", "x").header("a", "2").header("b", "true"),
        ),
    ] {
        assert_eq!(verdict(&json!({"result": result}).to_string()), Some(expected), "{result}");
    }
    for none in ["", "x", "[]", "{}", r#"{"result":true}"#, r#"{"result":null}"#] {
        assert_eq!(verdict(none), Some(Reply::status(503)), "{none}");
    }
    let (plugin, _) = plugin(json!({}), Err(HttpError::new("timeout")));
    assert_eq!(plugin.request(&mut bare("GET", "/", &[])), Some(Reply::status(403)));
}

#[test]
fn what_the_policy_grants_replaces_what_the_client_sent() {
    let decision = r#"{"result":{"allow":true,"headers":{"user":"anna","other":"x"}}}"#;
    let (plugin, _) = plugin(json!({"send_headers_upstream": ["User", "role"]}), Ok(decision));
    let mut cx = bare("GET", "/", &[("user", "root"), ("Role", "admin"), ("other", "mine")]);
    assert_eq!(plugin.request(&mut cx), None);
    assert_eq!(cx.request.headers.get_str("user"), Some("anna"));
    assert!(!cx.request.headers.contains("role"));
    assert_eq!(cx.request.headers.get_str("other"), Some("mine"));
}
