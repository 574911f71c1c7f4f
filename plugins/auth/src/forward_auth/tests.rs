//! The service is a fake that notes what it was asked.
use super::*;
use crate::testing::{bare, schema_is};
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{HttpError, Scope, define};
use std::sync::{Arc, Mutex};

type Asked = Arc<Mutex<Vec<HttpRequest>>>;

fn plugin(config: Value, answer: Result<HttpResponse, HttpError>) -> (Harness, Asked) {
    let asked = Asked::default();
    let noted = asked.clone();
    let env = Env::for_tests().with_http(move |request: &HttpRequest| {
        noted.lock().unwrap().push(request.clone());
        answer.clone()
    });
    let mut all = json!({"uri": "http://auth.test/auth"});
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    (Harness::with_env(define::<ForwardAuth>(), all, env).unwrap(), asked)
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Result<HttpResponse, HttpError> {
    let headers = headers.iter().map(|(n, v)| (n.to_string(), v.as_bytes().to_vec())).collect();
    Ok(HttpResponse { status, headers, body: body.into() })
}

fn field(request: &HttpRequest, name: &str) -> Vec<String> {
    let all = request.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
    all.map(|(_, v)| String::from_utf8_lossy(v).into_owned()).collect()
}

#[test]
fn the_schema_is_that_of_apisix() {
    let list = json!({"type": "array", "items": {"type": "string"}, "default": []});
    let yes = json!({"type": "boolean", "default": true});
    schema_is(
        ForwardAuth::schema(),
        json!({"type": "object", "required": ["uri"], "properties": {
        "uri": {"type": "string"},
        "allow_degradation": {"type": "boolean", "default": false},
        "status_on_error": {"type": "integer", "minimum": 200, "maximum": 599, "default": 403},
        "ssl_verify": yes, "keepalive": yes,
        "request_method": {"type": "string", "enum": ["GET", "POST"], "default": "GET"},
        "max_req_body_size": {"type": "integer", "minimum": 1, "default": 67108864},
        "request_headers": list, "upstream_headers": list, "client_headers": list,
        "extra_headers": {"type": "object", "minProperties": 1, "patternProperties": {"^[^:]+$": {"type": "string"}}},
        "timeout": {"type": "integer", "minimum": 1, "maximum": 60000, "default": 3000},
        "keepalive_timeout": {"type": "integer", "minimum": 1000, "default": 60000},
        "keepalive_pool": {"type": "integer", "minimum": 1, "default": 5}}}),
    );
    let error = |mut config: Value| check(define::<ForwardAuth>(), Scope::Route, &mut config).unwrap_err().0;
    assert_eq!(error(json!({})), "property \"uri\" is required");
    assert_eq!(
        error(json!({"uri": "http://a", "extra_headers": {"a b": "c"}})),
        "extra_headers: \"a b\" is no header name"
    );
}

#[test]
fn the_service_learns_of_the_request_and_not_what_the_client_claims() {
    let config = json!({"request_headers": ["Authorization", "x-forwarded-host", "Content-Length", "X-None"],
        "extra_headers": {"tenant": "$arg_tenant", "fixed": "abc"}});
    let (plugin, asked) = plugin(config, answer(200, &[], ""));
    let headers = [("Authorization", "111"), ("X-Forwarded-Host", "evil"), ("Content-Length", "7"), ("Cookie", "a=b")];
    assert_eq!(plugin.request(&mut bare("PUT", "/hello?tenant=7", &headers)), None);
    let asked = asked.lock().unwrap();
    let request = &asked[0];
    assert_eq!((request.method.as_str(), request.url.as_str()), ("GET", "http://auth.test/auth"));
    assert_eq!(request.timeout, Duration::from_secs(3));
    for (name, value) in [
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Method", "PUT"),
        ("X-Forwarded-Host", "localhost"),
        ("X-Forwarded-Uri", "/hello?tenant=7"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("Authorization", "111"),
        ("tenant", "7"),
        ("fixed", "abc"),
    ] {
        assert_eq!(field(request, name), [value], "{name}");
    }
    assert_eq!(request.headers.len(), 8, "{request:?}");
}

#[test]
fn what_the_service_grants_replaces_what_the_client_sent() {
    let config = json!({"upstream_headers": ["X-User-ID", "X-Role"]});
    let (plugin, _) = plugin(config, answer(204, &[("x-role", "a"), ("x-role", "b"), ("x-other", "c")], ""));
    let mut cx = bare("GET", "/", &[("X-User-Id", "forged"), ("X-Role", "root"), ("X-Other", "mine")]);
    assert_eq!(plugin.request(&mut cx), None);
    assert!(!cx.request.headers.contains("X-User-ID"));
    assert_eq!(cx.request.headers.get_all("X-Role").collect::<Vec<_>>(), [b"a", b"b"]);
    assert_eq!(cx.request.headers.get_str("X-Other"), Some("mine"));
}

#[test]
fn a_refusal_goes_to_the_client() {
    let config = json!({"client_headers": ["Location", "Set-Cookie", "X-None"]});
    let headers = [("location", "http://example.com/auth"), ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x", "y")];
    let (plugin, _) = plugin(config, answer(302, &headers, "moved"));
    let expected = Reply::text(302, "moved")
        .header("Location", "http://example.com/auth")
        .header("Set-Cookie", "a=1")
        .header("Set-Cookie", "b=2");
    assert_eq!(plugin.request(&mut bare("GET", "/", &[])), Some(expected));
}

#[test]
fn the_body_is_sent_up_to_its_limit() {
    let config = json!({"request_method": "POST", "max_req_body_size": 5});
    let (plugin, asked) = plugin(config, answer(200, &[], ""));
    for (body, expected) in [("12345", None), ("123456", Some(Reply::status(413)))] {
        let mut cx = bare("POST", "/", &[("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")]);
        cx.request_body = Some(body.into());
        assert_eq!(plugin.request(&mut cx), expected);
    }
    let asked = asked.lock().unwrap();
    assert_eq!((asked.len(), asked[0].method.as_str(), &asked[0].body[..]), (1, "POST", &b"12345"[..]));
    assert_eq!(field(&asked[0], "Content-Encoding"), ["gzip"]);
    assert!(field(&asked[0], "Transfer-Encoding").is_empty());
}

#[test]
fn a_service_that_is_away_refuses_unless_degradation_is_allowed() {
    for (config, expected) in [
        (json!({}), Some(Reply::status(403))),
        (json!({"status_on_error": 503}), Some(Reply::status(503))),
        (json!({"allow_degradation": true}), None),
    ] {
        let (plugin, _) = plugin(config, Err(HttpError::new("connection refused")));
        assert_eq!(plugin.request(&mut bare("GET", "/", &[])), expected);
    }
}

#[test]
fn no_client_can_inject_a_field_or_fail_open() {
    let config = json!({"extra_headers": {"X-User": "$arg_user"}, "allow_degradation": true});
    let (plugin, asked) = plugin(config, answer(200, &[], ""));
    let mut cx = bare("GET", "/", &[]);
    cx.set_variable("arg_user", "guest\r\nx-user1: admin");
    assert_eq!(plugin.request(&mut cx), Some(Reply::status(403)));
    assert!(asked.lock().unwrap().is_empty());
}
