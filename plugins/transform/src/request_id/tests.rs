//! Tests of `request_id`.
use super::*;
use sluice_expr::{Lookup, Variable};
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Scope, define};

fn harness(config: Value) -> Harness {
    Harness::new(define::<RequestId>(), config).expect("a good configuration")
}

fn sent(cx: &Context, name: &str) -> Vec<String> {
    cx.response.headers.get_all(name).map(|v| String::from_utf8_lossy(v).into_owned()).collect()
}

fn id(config: Value) -> String {
    let mut cx = Context::for_tests("GET", "/");
    assert_eq!(harness(config).request(&mut cx), None);
    cx.request.headers.get_str("x-request-id").unwrap().to_string()
}

#[test]
fn schema() {
    let mut config = json!({});
    check(define::<RequestId>(), Scope::Route, &mut config).unwrap();
    assert_eq!(
        config,
        json!({
            "header_name": "X-Request-Id", "include_in_response": true, "algorithm": "uuid",
            "range_id": {"length": 16, "char_set": CHARACTERS}
        })
    );
    let mut bad = json!({"algorithm": "uuidv5"});
    let error = check(define::<RequestId>(), Scope::Route, &mut bad).unwrap_err();
    assert_eq!(error.0, r#"property "algorithm" validation failed: matches none of the enum values"#);
    let mut short = json!({"range_id": {"length": 5}});
    let error = check(define::<RequestId>(), Scope::Route, &mut short).unwrap_err();
    assert_eq!(
        error.0,
        r#"property "range_id" validation failed: property "length" validation failed: expected 5 to be at least 6"#
    );
}

#[test]
fn algorithms() {
    let uuid = id(json!({}));
    assert!(uuid.len() == 36 && uuid.as_bytes()[14] == b'4' && "89ab".contains(&uuid[19..20]), "{uuid}");
    assert!(uuid.bytes().enumerate().all(|(i, b)| if matches!(i, 8 | 13 | 18 | 23) {
        b == b'-'
    } else {
        b.is_ascii_hexdigit()
    }));
    let seven = id(json!({"algorithm": "uuidv7"}));
    assert_eq!(u64::from_str_radix(&seven[..13].replace('-', ""), 16).unwrap(), 1_700_000_000_000);
    assert_eq!(&seven[14..15], "7");
    assert_eq!(id(json!({"algorithm": "nanoid"})).len(), 21);
    assert!(id(json!({"algorithm": "ksuid"})).len() == 27);
    let range = id(json!({"algorithm": "range_id", "range_id": {"char_set": "aabbcc"}}));
    assert!(range.len() == 16 && range.bytes().all(|b| b"abc".contains(&b)), "{range}");
    assert_eq!(id(json!({"algorithm": "range_id", "range_id": {"length": 40}})).len(), 40);
}

#[test]
fn the_response_tells_the_id() {
    let mut cx = Context::for_tests("GET", "/");
    let plugin = harness(json!({}));
    plugin.request(&mut cx);
    let id = cx.request.headers.get_str("x-request-id").unwrap().to_string();
    plugin.response(&mut cx, &[]);
    assert_eq!(sent(&cx, "X-Request-Id"), std::slice::from_ref(&id));
    let variable = cx.variable(&Variable::parse("apisix_request_id")).unwrap();
    assert!(variable.eq_bytes(id.as_bytes()));
}

#[test]
fn the_clients_and_the_upstreams_ids_stay() {
    let plugin = harness(json!({}));
    let mut cx = Context::for_tests("GET", "/");
    cx.request.headers.append("X-Request-ID", "123");
    plugin.request(&mut cx);
    assert_eq!(cx.request.headers.get_str("x-request-id"), Some("123"));
    plugin.response(&mut cx, &[]);
    assert_eq!(sent(&cx, "x-request-id"), ["123"]);

    let mut cx = Context::for_tests("GET", "/");
    plugin.request(&mut cx);
    cx.response.headers.append("x-request-id", "upstream's");
    plugin.response(&mut cx, &[]);
    assert_eq!(sent(&cx, "x-request-id"), ["upstream's"]);
}

#[test]
fn an_empty_id_is_none() {
    let plugin = harness(json!({}));
    let mut cx = Context::for_tests("GET", "/");
    cx.request.headers.append("X-Request-ID", "");
    plugin.request(&mut cx);
    cx.response.headers.append("X-Request-ID", "");
    plugin.response(&mut cx, &[]);
    assert_eq!(sent(&cx, "x-request-id").len(), 1);
    assert_eq!(sent(&cx, "x-request-id")[0].len(), 36);
}

#[test]
fn two_instances_do_not_mix() {
    let (global, route) = (harness(json!({"header_name": "Custom"})), harness(json!({})));
    let quiet = harness(json!({"header_name": "Quiet", "include_in_response": false}));
    let mut cx = Context::for_tests("GET", "/");
    for plugin in [&global, &route, &quiet] {
        plugin.request(&mut cx);
    }
    for plugin in [&global, &route, &quiet] {
        plugin.response(&mut cx, &[]);
    }
    let (custom, plain) = (sent(&cx, "custom"), sent(&cx, "x-request-id"));
    assert!(custom.len() == 1 && plain.len() == 1 && custom != plain);
    assert!(sent(&cx, "quiet").is_empty() && cx.request.headers.contains("quiet"));
}
