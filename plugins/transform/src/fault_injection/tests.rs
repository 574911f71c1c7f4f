//! Tests of `fault_injection`.
use super::*;
use proptest::prelude::*;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Scope, define};

fn harness(config: Value) -> Harness {
    Harness::new(define::<FaultInjection>(), config).unwrap()
}

fn send(config: Value, target: &str) -> Option<Reply> {
    harness(config).request(&mut Context::for_tests("GET", target))
}

#[test]
fn abort_with_body_and_headers() {
    let config = json!({"abort": {
        "http_status": 200, "body": "{\"count\": $arg_count}", "headers": {"h1": "v1", "h2": 2, "h3": "$uri"}
    }});
    let reply = send(config, "/hello?count=2").unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body, ReplyBody::Bytes(b"{\"count\": 2}".to_vec()));
    let headers: Vec<_> = reply.headers.iter().map(|(n, v)| (n.as_ref(), v.as_slice())).collect();
    assert_eq!(headers, [("h1", &b"v1"[..]), ("h2", b"2"), ("h3", b"/hello")]);
}

#[test]
fn abort_without_body_has_the_error_page() {
    assert_eq!(send(json!({"abort": {"http_status": 500}}), "/").unwrap().body, ReplyBody::Default);
}

#[test]
fn vars_are_alternatives() {
    let config = json!({"abort": {"http_status": 403, "vars": [
        [["arg_name", "==", "jack"], ["arg_age", "!", "<", 18]],
        [["http_apikey", "==", "api-key"]]
    ]}});
    assert!(send(config.clone(), "/?name=jack&age=20").is_some());
    assert!(send(config.clone(), "/?name=jack&age=17").is_none());
    let mut cx = Context::for_tests("GET", "/");
    cx.request.headers.set("apikey", "api-key");
    assert!(harness(config).request(&mut cx).is_some());
    assert!(send(json!({"abort": {"http_status": 403, "vars": []}}), "/").is_none());
    let negated = json!({"abort": {"http_status": 403, "vars": [["!AND", ["arg_name", "==", "jack"], ["arg_age", "!", "<", 18]]]}});
    assert!(send(negated.clone(), "/?name=jack&age=17").is_some());
    assert!(send(negated, "/?name=jack&age=18").is_none());
}

#[test]
fn delay_then_abort() {
    let harness = harness(json!({"delay": {"duration": 0.25}, "abort": {"http_status": 418}}));
    let before = harness.env.clock.millis();
    assert_eq!(harness.request(&mut Context::for_tests("GET", "/")).unwrap().status, 418);
    assert_eq!(harness.env.clock.millis() - before, 250);
}

#[test]
fn delay_only_where_vars_hold() {
    let harness = harness(json!({"delay": {"duration": 1, "vars": [[["arg_slow", "==", "1"]]]}}));
    let before = harness.env.clock.millis();
    assert!(harness.request(&mut Context::for_tests("GET", "/")).is_none());
    assert_eq!(harness.env.clock.millis(), before);
    assert!(harness.request(&mut Context::for_tests("GET", "/?slow=1")).is_none());
    assert_eq!(harness.env.clock.millis() - before, 1000);
}

#[test]
fn percentage() {
    let hits = |percentage: u8| {
        let harness = harness(json!({"abort": {"http_status": 500, "percentage": percentage}}));
        (0..400).filter(|_| harness.request(&mut Context::for_tests("GET", "/")).is_some()).count()
    };
    assert_eq!(hits(0), 0);
    assert_eq!(hits(100), 400);
    assert!((100..300).contains(&hits(50)));
}

#[test]
fn the_body_is_read_only_where_it_is_asked_for() {
    let reads = |config: Value| {
        let config = serde_json::from_value(config).unwrap();
        FaultInjection::build(config, &Env::for_tests()).unwrap().reads_body
    };
    assert!(!reads(json!({"abort": {"http_status": 500, "vars": [[["arg_a", "==", "1"]]], "body": "$uri"}})));
    assert!(reads(json!({"abort": {"http_status": 500, "vars": [[["post_arg_a", "==", "1"]]]}})));
    assert!(reads(json!({"delay": {"duration": 1, "vars": [[["post_arg.a", "==", "1"]]]}})));
    assert!(reads(json!({"abort": {"http_status": 500, "body": "$request_body"}})));
}

#[test]
fn schema() {
    let refuse = |mut config| check(define::<FaultInjection>(), Scope::Route, &mut config).unwrap_err().0;
    assert_eq!(refuse(json!({})), "expect object to have at least 1 properties");
    assert_eq!(
        refuse(json!({"abort": {"http_status": 100}})),
        r#"property "abort" validation failed: property "http_status" validation failed: expected 100 to be at least 200"#
    );
    assert_eq!(refuse(json!({"abort": {"http_status": 1000}})), "1000 is not an HTTP status");
    assert_eq!(
        refuse(json!({"delay": {"percentage": 1}})),
        r#"property "delay" validation failed: property "duration" is required"#
    );
    assert_eq!(
        refuse(json!({"delay": {"duration": 1, "percentage": 101}})),
        r#"property "delay" validation failed: property "percentage" validation failed: expected 101 to be at most 100"#
    );
    assert_eq!(
        refuse(json!({"abort": {"http_status": 200, "vars": [[["arg_a", "=~", "x"]]]}})),
        "invalid operator '=~'"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_delay_is_taken(duration in 0.0f64..1e300) {
        let built = Harness::new(define::<FaultInjection>(), json!({"delay": {"duration": duration}}));
        prop_assert!(built.is_ok());
    }
}
