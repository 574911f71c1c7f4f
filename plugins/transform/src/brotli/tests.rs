//! Tests of `brotli`.
use super::*;
use proptest::prelude::*;
use serde_json::json;
use sluice_http::Version;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Scope, define};
use std::io::Read;

const TEXT: &[u8] = b"0123456789012345678901234567890";

fn harness(config: Value) -> Harness {
    Harness::new(define::<Brotli>(), config).unwrap()
}

/// A response of HTML to a client that accepts Brotli.
fn response(fields: &[(&str, &str)]) -> Context {
    let mut cx = Context::for_tests("GET", "/");
    cx.request.headers.set("Accept-Encoding", "gzip, br");
    cx.response.status = 200;
    cx.response.headers.set("Content-Type", "text/html");
    for (name, value) in fields {
        cx.response.headers.set(name, value);
    }
    cx
}

fn plain(body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    brotli_decompressor::Decompressor::new(body, 4096).read_to_end(&mut plain).unwrap();
    plain
}

fn header<'c>(cx: &'c Context, name: &str) -> Option<&'c str> {
    cx.response.headers.get_str(name)
}

/// Whether this response is compressed under this configuration.
fn hit(config: Value, mut cx: Context) -> bool {
    let body = harness(config).response(&mut cx, &[TEXT, b""]);
    let hit = header(&cx, "content-encoding") == Some("br");
    assert_eq!(cx.wants_body(), hit);
    assert_eq!(if hit { plain(&body) } else { body }, TEXT);
    hit
}

#[test]
fn head_of_a_compressed_response() {
    for (tag, weak) in [("\"x\"", Some("W/\"x\"")), ("W/\"x\"", Some("W/\"x\"")), ("x", None), ("\"a\"b\"", None)] {
        let mut cx = response(&[("Content-Length", "20"), ("ETag", tag), ("Accept-Ranges", "bytes")]);
        let body = harness(json!({})).response(&mut cx, &[b"0123456789", b"0123456789"]);
        assert_eq!(plain(&body), b"01234567890123456789");
        assert_eq!(header(&cx, "content-encoding"), Some("br"));
        assert_eq!(header(&cx, "etag"), weak, "{tag}");
        for gone in ["content-length", "accept-ranges", "vary"] {
            assert_eq!(header(&cx, gone), None);
        }
    }
}

#[test]
fn what_is_compressed() {
    let of = |kind: &str| response(&[("Content-Type", kind)]);
    assert!(hit(json!({}), of("text/html; charset=utf-8")));
    assert!(!hit(json!({}), of("text/plain")));
    assert!(hit(json!({"types": "*"}), of("video/3gpp")));
    assert!(!hit(json!({"min_length": 21}), response(&[("Content-Length", "20")])));
    assert!(hit(json!({"min_length": 20}), response(&[("Content-Length", "20")])));
    assert!(hit(json!({"min_length": 21}), response(&[])));
    assert!(!hit(json!({}), response(&[("Content-Encoding", "gzip")])));
    for (status, compressed) in [(200, true), (201, true), (500, true), (206, false)] {
        let mut cx = response(&[]);
        cx.response.status = status;
        assert_eq!(hit(json!({}), cx), compressed, "{status}");
    }
    let mut old = response(&[]);
    old.request.version = Version::Http10;
    assert!(!hit(json!({}), old));
    let mut old = response(&[]);
    old.request.version = Version::Http10;
    assert!(hit(json!({"http_version": 1.0}), old));
    let mut head = response(&[]);
    head.request.set_method("HEAD");
    assert!(!hit(json!({}), head));
    let mut unwilling = response(&[]);
    unwilling.request.headers.set("Accept-Encoding", "gzip, br;q=0");
    assert!(!hit(json!({}), unwilling));
    let mut silent = response(&[]);
    silent.request.headers.remove("accept-encoding");
    assert!(!hit(json!({}), silent));
}

#[test]
fn vary_only_where_it_is_compressed() {
    let mut cx = response(&[("Vary", "upstream")]);
    harness(json!({"vary": true})).response(&mut cx, &[b""]);
    assert_eq!(cx.response.headers.joined("vary").map(|v| v.to_vec()), Some(b"upstream, Accept-Encoding".to_vec()));
    let mut cx = response(&[]);
    cx.request.headers.remove("accept-encoding");
    harness(json!({"vary": true})).response(&mut cx, &[b""]);
    assert_eq!(header(&cx, "vary"), None);
}

#[test]
fn a_stream_is_not_held_back() {
    let mut cx = response(&[("Content-Type", "text/event-stream")]);
    let harness = harness(json!({"types": "*"}));
    let mut received = harness.response(&mut cx, &[]);
    for n in 0..3 {
        let event = format!("data: {n}\n\n");
        let mut chunk = BodyChunk { data: event.clone().into_bytes(), last: false };
        harness.body(&mut cx, &mut chunk);
        received.extend(chunk.data);
        let mut readable = vec![0; 9 * (n + 1)];
        brotli_decompressor::Decompressor::new(&received[..], 4096).read_exact(&mut readable).unwrap();
        assert!(readable.ends_with(event.as_bytes()), "event {n} is readable at once");
    }
    let mut end = BodyChunk { data: Vec::new(), last: true };
    harness.body(&mut cx, &mut end);
    received.extend(end.data);
    assert_eq!(plain(&received), b"data: 0\n\ndata: 1\n\ndata: 2\n\n");
}

#[test]
fn the_schema_is_apisix_s() {
    let refused = |mut config: Value| check(define::<Brotli>(), Scope::Route, &mut config).unwrap_err().0;
    for config in [
        json!({"types": []}),
        json!({"types": "x"}),
        json!({"min_length": 0}),
        json!({"mode": 4}),
        json!({"comp_level": 12}),
        json!({"lgwin": 100}),
        json!({"lgblock": 15}),
        json!({"http_version": 2}),
        json!({"vary": 0}),
    ] {
        let name = config.as_object().unwrap().keys().next().unwrap().clone();
        assert!(refused(config).starts_with(&format!("property \"{name}\" validation failed")), "{name}");
    }
    let mut config = json!({});
    check(define::<Brotli>(), Scope::Route, &mut config).unwrap();
    let defaults = json!({
        "types": ["text/html"], "min_length": 20, "mode": 0, "comp_level": 6, "lgwin": 19, "lgblock": 0, "http_version": 1.1
    });
    assert_eq!(config, defaults);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_body_survives(
        body in proptest::collection::vec(0u8..8, 0..20_000), at in 0usize..20_000, comp_level in 0..12, lgwin in 9..25, mode in 0..3,
        lgblock in 15..25, length in any::<bool>(),
    ) {
        let config = json!({
            "comp_level": comp_level, "mode": mode, "lgwin": if lgwin == 9 { 0 } else { lgwin },
            "lgblock": if lgblock == 15 { 0 } else { lgblock }, "min_length": 1
        });
        let mut cx = response(&[]);
        if length {
            cx.response.headers.set("Content-Length", (body.len() + 1).to_string());
        }
        let (first, second) = body.split_at(at.min(body.len()));
        prop_assert_eq!(plain(&harness(config).response(&mut cx, &[first, second, b"!"])), [&body[..], b"!"].concat());
    }
}
