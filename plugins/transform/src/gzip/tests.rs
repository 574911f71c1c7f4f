//! Tests of `gzip`.
use super::*;
use crate::echo::Echo;
use flate2::read::MultiGzDecoder;
use proptest::prelude::*;
use serde_json::json;
use sluice_http::Version;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Chain, ChainEntry, ChainSource, Definition, Scope, define};
use std::io::Read;
use std::sync::Arc;

fn harness(config: Value) -> Harness {
    Harness::new(define::<Gzip>(), config).unwrap()
}

/// A response of HTML to a client that accepts gzip.
fn response(fields: &[(&str, &str)]) -> Context {
    let mut cx = Context::for_tests("GET", "/");
    cx.request.headers.set("Accept-Encoding", "gzip");
    cx.response.status = 200;
    cx.response.headers.set("Content-Type", "text/html");
    for (name, value) in fields {
        cx.response.headers.set(name, value);
    }
    cx
}

fn unzip(body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(body).read_to_end(&mut plain).unwrap();
    plain
}

fn header<'c>(cx: &'c Context, name: &str) -> Option<&'c str> {
    cx.response.headers.get_str(name)
}

/// Whether this response is compressed under this configuration.
fn hit(config: Value, mut cx: Context) -> bool {
    let body = harness(config).response(&mut cx, &[b"0123456789012345678901234567890", b""]);
    let hit = header(&cx, "content-encoding") == Some("gzip");
    assert_eq!(cx.wants_body(), hit);
    assert_eq!(if hit { unzip(&body) } else { body }, b"0123456789012345678901234567890");
    hit
}

#[test]
fn head_of_a_compressed_response() {
    let mut cx = response(&[("Content-Length", "20"), ("ETag", "\"x\""), ("Accept-Ranges", "bytes")]);
    let body = harness(json!({})).response(&mut cx, &[b"0123456789", b"0123456789"]);
    assert_eq!(unzip(&body), b"01234567890123456789");
    assert_eq!(header(&cx, "content-encoding"), Some("gzip"));
    assert_eq!(header(&cx, "etag"), Some("W/\"x\""));
    for gone in ["content-length", "accept-ranges", "vary"] {
        assert_eq!(header(&cx, gone), None);
    }
    let mut cx = response(&[("ETag", "W/\"x\"")]);
    harness(json!({})).response(&mut cx, &[b""]);
    assert_eq!(header(&cx, "etag"), Some("W/\"x\""));
    let mut cx = response(&[("ETag", "x")]);
    harness(json!({})).response(&mut cx, &[b""]);
    assert_eq!(header(&cx, "etag"), None);
}

#[test]
fn types() {
    let of = |kind: &str| response(&[("Content-Type", kind)]);
    assert!(hit(json!({}), of("text/html; charset=utf-8")));
    assert!(!hit(json!({}), of("text/plain")));
    assert!(hit(json!({"types": ["text/plain", "text/xml"]}), of("text/xml")));
    assert!(hit(json!({"types": "*"}), of("video/3gpp")));
    let mut untyped = response(&[]);
    untyped.response.headers.remove("content-type");
    assert!(!hit(json!({"types": "*"}), untyped));
}

#[test]
fn length_version_status_and_request() {
    assert!(!hit(json!({"min_length": 21}), response(&[("Content-Length", "20")])));
    assert!(hit(json!({"min_length": 20}), response(&[("Content-Length", "20")])));
    assert!(hit(json!({"min_length": 21}), response(&[])));
    let version = |version| {
        let mut cx = response(&[]);
        cx.request.version = version;
        cx
    };
    assert!(!hit(json!({}), version(Version::Http10)));
    assert!(hit(json!({"http_version": 1.0}), version(Version::Http10)));
    assert!(hit(json!({"http_version": 1.1}), version(Version::Http2)));
    for (status, compressed) in [(200, true), (403, true), (404, true), (201, false), (206, false), (500, false)] {
        let mut cx = response(&[]);
        cx.response.status = status;
        assert_eq!(hit(json!({}), cx), compressed, "{status}");
    }
    assert!(!hit(json!({}), response(&[("Content-Encoding", "br")])));
    let mut proxied = response(&[]);
    proxied.request.headers.set("Via", "1.1 x");
    assert!(!hit(json!({}), proxied));
    let mut head = response(&[]);
    head.request.set_method("HEAD");
    assert!(!hit(json!({}), head));
    let mut unwilling = response(&[]);
    unwilling.request.headers.set("Accept-Encoding", "gzip;q=0");
    assert!(!hit(json!({}), unwilling));
}

#[test]
fn vary_stands_beside_the_upstreams() {
    let vary = |cx: &Context| cx.response.headers.joined("vary").map(|v| String::from_utf8(v.to_vec()).unwrap());
    let mut cx = response(&[("Vary", "upstream")]);
    harness(json!({"vary": true})).response(&mut cx, &[b""]);
    assert_eq!(vary(&cx).as_deref(), Some("upstream, Accept-Encoding"));
    let mut cx = response(&[]);
    cx.request.headers.remove("accept-encoding");
    harness(json!({"vary": true})).response(&mut cx, &[b""]);
    assert_eq!(vary(&cx).as_deref(), Some("Accept-Encoding"));
    assert_eq!(header(&cx, "content-encoding"), None);
}

#[test]
fn a_stream_is_not_held_back() {
    let mut cx = response(&[("Content-Type", "text/event-stream")]);
    let chain = chain(vec![(define::<Gzip>(), json!({"types": "*"}))]);
    chain.header_filter(true, 0, &mut cx);
    let mut received = Vec::new();
    for n in 0..3 {
        let mut chunk = BodyChunk { data: format!("data: {n}\n\n").into_bytes(), last: false };
        chain.body_filter(true, 0, &mut cx, &mut chunk);
        received.extend(chunk.data);
        let mut plain = vec![0; 100];
        let mut decoder = flate2::Decompress::new_gzip(15);
        decoder.decompress(&received, &mut plain, flate2::FlushDecompress::Sync).unwrap();
        plain.truncate(decoder.total_out() as usize);
        assert!(plain.ends_with(format!("data: {n}\n\n").as_bytes()), "event {n} is readable at once");
    }
    let mut end = BodyChunk { data: Vec::new(), last: true };
    chain.body_filter(true, 0, &mut cx, &mut end);
    received.extend(end.data);
    assert_eq!(unzip(&received), b"data: 0\n\ndata: 1\n\ndata: 2\n\n");
}

fn chain(plugins: Vec<(Definition, Value)>) -> Chain {
    let entry = |(definition, mut config): (Definition, Value)| {
        check(definition, Scope::Route, &mut config).unwrap();
        ChainEntry {
            info: definition.info,
            priority: definition.info.priority,
            plugin: (definition.build)(&config, &sluice_plugin::Env::for_tests()).unwrap(),
            filter: None,
            error_response: None,
            source: ChainSource::Route,
            config: Arc::new(config),
            filter_reads_body: false,
            overrides: false,
        }
    };
    Chain::new(plugins.into_iter().map(entry).collect())
}

fn run(chains: &[Chain], cx: &mut Context, pieces: &[&str]) -> Vec<u8> {
    for encoders in [false, true] {
        chains.iter().for_each(|chain| chain.header_filter(encoders, 0, cx));
    }
    let mut body = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        let mut chunk = BodyChunk { data: piece.as_bytes().to_vec(), last: i + 1 == pieces.len() };
        for encoders in [false, true] {
            chains.iter().for_each(|chain| chain.body_filter(encoders, 0, cx, &mut chunk));
        }
        body.extend(chunk.data);
    }
    body
}

#[test]
fn what_other_plugins_made_is_compressed() {
    let chain =
        chain(vec![(define::<Gzip>(), json!({})), (define::<Echo>(), json!({"before_body": "<", "after_body": ">"}))]);
    let mut cx = response(&[("Content-Length", "2")]);
    assert_eq!(unzip(&run(&[chain], &mut cx, &["a", "b"])), b"<ab>");
    assert_eq!(header(&cx, "content-encoding"), Some("gzip"));
}

#[test]
fn twice_in_effect_compresses_once() {
    let gzip = || chain(vec![(define::<Gzip>(), json!({}))]);
    let mut cx = response(&[]);
    assert_eq!(unzip(&run(&[gzip(), gzip()], &mut cx, &["a", "b", ""])), b"ab");
    assert_eq!(cx.response.headers.get_all("content-encoding").count(), 1);
}

#[test]
fn a_body_that_a_route_puts_in_place_is_compressed_by_a_global_rule() {
    let global = chain(vec![(define::<Gzip>(), json!({}))]);
    let route = chain(vec![(define::<Echo>(), json!({"body": "new"}))]);
    let mut cx = response(&[("Content-Length", "30")]);
    assert_eq!(unzip(&run(&[global, route], &mut cx, &["old", "older"])), b"new");
    assert_eq!(header(&cx, "content-encoding"), Some("gzip"));
}

#[test]
fn levels_differ_and_compressors_are_used_again() {
    let line = |n: usize| format!("{{\"id\":{n},\"name\":\"user {}\",\"score\":{}}}\n", n * 7919 % 1000, n * n % 977);
    let text: String = (0..3000).map(line).collect();
    let size = |level: u32| {
        let mut cx = response(&[]);
        let body = harness(json!({"comp_level": level})).response(&mut cx, &[text.as_bytes(), b""]);
        assert_eq!(unzip(&body), text.as_bytes());
        body.len()
    };
    let (fast, small) = (size(1), size(9));
    assert!(small < fast && fast < text.len());
    assert_eq!((size(1), size(9)), (fast, small), "a used compressor compresses as a new one");
    assert!((1..=compression::IDLE).contains(&compression::idle_gzip()));
}

#[test]
fn schema() {
    let refuse = |mut config| check(define::<Gzip>(), Scope::Route, &mut config).unwrap_err().0;
    for (config, message) in [
        (json!({"types": []}), r#"property "types" validation failed: object matches none of the required"#),
        (json!({"min_length": 0}), r#"property "min_length" validation failed: expected 0 to be at least 1"#),
        (json!({"comp_level": 10}), r#"property "comp_level" validation failed: expected 10 to be at most 9"#),
        (json!({"http_version": 2}), r#"property "http_version" validation failed: matches none of the enum values"#),
        (
            json!({"buffers": {"number": 0}}),
            r#"property "buffers" validation failed: property "number" validation failed: expected 0 to be at least 1"#,
        ),
        (
            json!({"buffers": {"size": 0}}),
            r#"property "buffers" validation failed: property "size" validation failed: expected 0 to be at least 1"#,
        ),
        (json!({"vary": 0}), r#"property "vary" validation failed: wrong type: expected boolean, got number"#),
    ] {
        assert_eq!(refuse(config), message);
    }
    for (given, filled) in [
        (json!({}), json!([32, 4096])),
        (json!({"buffers": {}}), json!([32, 4096])),
        (json!({"buffers": {"size": 1}}), json!([32, 1])),
    ] {
        let mut config = given;
        check(define::<Gzip>(), Scope::Route, &mut config).unwrap();
        assert_eq!(json!([config["buffers"]["number"], config["buffers"]["size"]]), filled);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_body_comes_back(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..8), known: bool, level in 1u32..10) {
        let length: usize = pieces.iter().map(Vec::len).sum();
        let mut cx = match known {
            true => response(&[("Content-Length", &(length + 20).to_string())]),
            false => response(&[]),
        };
        let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let body = harness(json!({"comp_level": level})).response(&mut cx, &slices);
        prop_assert_eq!(unzip(&body), pieces.concat());
    }
}
