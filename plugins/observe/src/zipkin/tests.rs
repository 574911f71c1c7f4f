//! Propagation and sampling of `zipkin`.
use super::{B3, Zipkin};
use serde_json::json;
use sluice_plugin::testing::Harness;
use sluice_plugin::{Context, define};

const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";

fn harness() -> Harness {
    Harness::new(define::<Zipkin>(), json!({"endpoint": "http://127.0.0.1:1/", "sample_ratio": 0.00001})).unwrap()
}

#[test]
fn single_fields_are_split() {
    assert_eq!(B3::single("0").unwrap().sampled, Some("0"));
    assert_eq!(B3::single("abc"), Err("missing span_id"));
    let b3 = B3::single("a-b-1-c").unwrap();
    assert_eq!(b3, B3 { trace_id: Some("a"), span_id: Some("b"), sampled: Some("1"), parent: Some("c") });
    assert_eq!(b3.valid(), None);
}

#[test]
fn a_sampled_trace_goes_on() {
    let mut cx = Context::for_tests("GET", "/");
    cx.request.headers.set("b3", format!("{TRACE}-e457b5a2e4d86bd1-1"));
    assert!(harness().request(&mut cx).is_none());
    let h = &cx.request.headers;
    assert_eq!(h.get_str("b3"), None);
    assert_eq!(h.get_str("x-b3-traceid"), Some(TRACE));
    assert_eq!(h.get_str("x-b3-sampled"), Some("1"));
    assert_ne!(h.get_str("x-b3-parentspanid"), h.get_str("x-b3-spanid"));
}

#[test]
fn an_unsampled_trace_keeps_its_parent() {
    let mut cx = Context::for_tests("GET", "/");
    cx.request.headers.set("x-b3-traceid", TRACE);
    cx.request.headers.set("x-b3-spanid", "e457b5a2e4d86bd1");
    cx.request.headers.set("x-b3-sampled", "0");
    assert!(harness().request(&mut cx).is_none());
    assert_eq!(cx.request.headers.get_str("x-b3-parentspanid"), Some("e457b5a2e4d86bd1"));
    assert_eq!(cx.request.headers.get_str("x-b3-sampled"), Some("0"));
}

#[test]
fn a_broken_single_field_is_refused() {
    let mut cx = Context::for_tests("GET", "/");
    cx.request.headers.set("b3", "abc");
    assert_eq!(harness().request(&mut cx).map(|r| r.status), Some(400));
}
