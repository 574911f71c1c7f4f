//! Tests of `mocking`.
use super::*;
use sluice_plugin::reply::ReplyBody;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Phase, Scope, define};

fn answer(config: Value) -> Reply {
    let harness = Harness::new(define::<Mocking>(), config).unwrap();
    harness.request(&mut Context::for_tests("GET", "/hello?n=1")).unwrap()
}

fn header<'r>(reply: &'r Reply, name: &str) -> Option<&'r str> {
    let found = reply.headers.iter().find(|(n, _)| n == name);
    found.map(|(_, v)| std::str::from_utf8(v).unwrap())
}

fn body(reply: &Reply) -> &str {
    match &reply.body {
        ReplyBody::Bytes(bytes) => std::str::from_utf8(bytes).unwrap(),
        ReplyBody::Default => "(default)",
        ReplyBody::Shared(_) | ReplyBody::Streamed(_) => "(not its own)",
    }
}

#[test]
fn example_with_variables() {
    let reply = answer(
        json!({"content_type": "text/plain", "response_status": 201, "response_example": "from $remote_addr n=$arg_n none=$foo"}),
    );
    assert_eq!(reply.status, 201);
    assert_eq!(body(&reply), "from 127.0.0.1 n=1 none=");
    assert_eq!(header(&reply, "Content-Type"), Some("text/plain"));
    assert_eq!(header(&reply, "x-mock-by"), Some("APISIX/3.18.0"));
}

#[test]
fn defaults() {
    let reply = answer(json!({"response_example": ""}));
    assert_eq!((reply.status, body(&reply)), (200, ""));
    assert_eq!(header(&reply, "Content-Type"), Some("application/json;charset=utf8"));
}

#[test]
fn headers() {
    let config = json!({
        "response_example": "x", "with_mock_header": false,
        "response_headers": {"X-A": "is, $arg_n", "X-B": 2, "content-type": "text/csv"}
    });
    let reply = answer(config);
    assert_eq!(header(&reply, "X-A"), Some("is, 1"));
    assert_eq!(header(&reply, "X-B"), Some("2"));
    assert_eq!(header(&reply, "x-mock-by"), None);
    assert_eq!(header(&reply, "Content-Type"), Some("text/csv"));
    assert_eq!(header(&reply, "content-type"), None);
}

#[test]
fn generated_in_the_form_of_the_content_type() {
    let schema = json!({"properties": {"uri": {"type": "string", "example": "$uri"}}});
    let made = |kind: &str| body(&answer(json!({"content_type": kind, "response_schema": schema.clone()}))).to_string();
    assert_eq!(made("application/json;charset=utf8"), r#"{"uri":"/hello"}"#);
    assert_eq!(made("text/plain"), r#"{"uri":"/hello"}"#);
    assert_eq!(made("text/xml"), "<data>\n  <uri>/hello</uri>\n</data>\n");
    assert_eq!(made("text/html"), "");
}

#[test]
fn delay() {
    let harness = Harness::new(define::<Mocking>(), json!({"delay": 2, "response_example": "x"})).unwrap();
    let before = harness.env.clock.millis();
    assert!(harness.phase(Phase::Access, &mut Context::for_tests("GET", "/")).is_some());
    assert_eq!(harness.env.clock.millis() - before, 2000);
    let harness = Harness::new(define::<Mocking>(), json!({"delay": -2, "response_example": "x"})).unwrap();
    assert!(harness.request(&mut Context::for_tests("GET", "/")).is_some());
    assert_eq!(harness.env.clock.millis(), before);
}

#[test]
fn schema() {
    let refuse = |mut config| check(define::<Mocking>(), Scope::Route, &mut config).unwrap_err().0;
    let none = r#"object matches none of the required: ["response_example"] or ["response_schema"]"#;
    assert_eq!(refuse(json!({})), none);
    assert_eq!(refuse(json!({"response_example": "", "response_status": 1000})), "1000 is not an HTTP status");
    assert_eq!(refuse(json!({"response_example": "", "content_type": "image/png"})), "unsupported content type!");
    assert_eq!(
        refuse(json!({"response_example": "", "response_status": 99})),
        r#"property "response_status" validation failed: expected 99 to be at least 100"#
    );
    assert!(
        refuse(json!({"response_example": "", "response_headers": {"a": true}}))
            .starts_with(r#"property "response_headers" validation failed"#)
    );
    let mut config = json!({"response_schema": {}});
    check(define::<Mocking>(), Scope::Route, &mut config).unwrap();
    assert_eq!(config["delay"], 0);
    assert_eq!(config["with_mock_header"], true);
}
