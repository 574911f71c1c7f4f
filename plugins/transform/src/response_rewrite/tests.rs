//! Tests of `response_rewrite`.
use super::*;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Scope, define};
use std::io::Write;

fn error(mut config: Value) -> String {
    check(define::<ResponseRewrite>(), Scope::Route, &mut config).expect_err("should be refused").0
}

fn harness(config: Value) -> Harness {
    Harness::new(define::<ResponseRewrite>(), config).expect("a good configuration")
}

/// The response of an upstream: 200 with these fields.
fn response(headers: &[(&str, &str)]) -> Context {
    let mut cx = Context::for_tests("GET", "/hello");
    cx.response.status = 200;
    for (name, value) in headers {
        cx.response.headers.append(name, value);
    }
    cx
}

fn field(cx: &Context, name: &str) -> Option<String> {
    cx.response.headers.joined(name).map(|v| String::from_utf8_lossy(&v).into_owned())
}

fn body(config: Value, cx: &mut Context, pieces: &[&[u8]]) -> String {
    String::from_utf8_lossy(&harness(config).response(cx, pieces)).into_owned()
}

#[test]
fn what_is_refused() {
    let filters = |f: Value| error(json!({"filters": [f]}));
    for (got, expected) in [
        (
            error(json!({"status_code": 599})),
            r#"property "status_code" validation failed: expected 599 to be at most 598"#,
        ),
        (error(json!({"body": 2})), r#"property "body" validation failed: wrong type: expected string, got number"#),
        (error(json!({"headers": {"": 2}})), "invalid field length in header"),
        (error(json!({"headers": {"X-Name": {}}})), "invalid type as header value"),
        (error(json!({"body": "1", "body_base64": true})), "invalid base64 content"),
        (error(json!({"body": "", "body_base64": true})), "invalid base64 content"),
        (error(json!({"body_base64": true})), "invalid base64 content"),
        (error(json!({"vars": [[]]})), "failed to validate the 'vars' expression: rule too short"),
        (
            error(json!({"filters": []})),
            r#"property "filters" validation failed: expect array to have at least 1 items"#,
        ),
        (
            filters(json!({"regex": "l"})),
            r#"property "filters" validation failed: failed to validate item 1: property "replace" is required"#,
        ),
        (
            filters(json!({"regex": "", "replace": "m"})),
            r#"property "filters" validation failed: failed to validate item 1: property "regex" validation failed: string too short, expected at least 1, got 0"#,
        ),
        (
            filters(json!({"regex": "l", "replace": "m", "scope": "two"})),
            r#"property "filters" validation failed: failed to validate item 1: property "scope" validation failed: matches none of the enum values"#,
        ),
        (
            filters(json!({"regex": "hello", "replace": "m", "options": "h"})),
            r#"regex "hello" validation failed: unknown flag "h" (flags "h")"#,
        ),
        (
            error(json!({"headers": {"add": [["headers:"]]}})),
            r#"property "headers" validation failed: object matches none of the required"#,
        ),
    ] {
        assert_eq!(got, expected);
    }
    let both = error(json!({"body": "a", "filters": [{"regex": "l", "replace": "m"}]}));
    assert!(both.starts_with("failed to validate dependent schema for \""), "{both}");
}

#[test]
fn a_new_body_replaces_the_old_one() {
    let mut cx = response(&[
        ("Content-Type", "application/xml"),
        ("Content-Encoding", "gzip"),
        ("Content-Length", "4"),
        ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("ETag", "\"33a6\""),
    ]);
    assert_eq!(body(json!({"body": "new body2\n"}), &mut cx, &[b"a", b"b", b""]), "new body2\n");
    assert!(cx.wants_body());
    assert_eq!(field(&cx, "content-type").as_deref(), Some("application/xml"));
    for name in ["content-encoding", "content-length", "last-modified", "etag"] {
        assert_eq!(field(&cx, name), None, "{name}");
    }
    assert_eq!(body(json!({"body": ""}), &mut response(&[]), &[b"x"]), "");
    assert_eq!(body(json!({"body": "SGVsbG8K", "body_base64": true}), &mut response(&[]), &[b""]), "Hello\n");
    assert_eq!(body(json!({"body": "SGVsbG8", "body_base64": true}), &mut response(&[]), &[b""]), "Hello");
}

#[test]
fn without_body_and_filters_bytes_pass() {
    let mut cx = response(&[("Content-Length", "5"), ("Content-Encoding", "gzip")]);
    assert_eq!(body(json!({"status_code": 201, "headers": {"a": "b"}}), &mut cx, &[b"he", b"llo"]), "hello");
    assert!(!cx.wants_body());
    assert_eq!((cx.response.status, field(&cx, "content-length").as_deref()), (201, Some("5")));
}

#[test]
fn vars_choose_the_responses() {
    let config = json!({"body": "new", "status_code": 403, "vars": [["status", "==", 500]]});
    let mut cx = response(&[]);
    assert_eq!(body(config.clone(), &mut cx, &[b"hello"]), "hello");
    assert_eq!(cx.response.status, 200);
    let mut cx = response(&[]);
    cx.response.status = 500;
    assert_eq!(body(config, &mut cx, &[b"hello"]), "new");
    assert_eq!(cx.response.status, 403);
}

#[test]
fn old_headers() {
    let mut cx = response(&[("X-Old", "1"), ("Content-Type", "text/plain"), ("X-Old", "2")]);
    let headers =
        json!({"X-Server-id": 3, "X-Old": "on", "Content-Type": "", "X-From": "from $remote_addr to $nobody"});
    harness(json!({"headers": headers})).response(&mut cx, &[]);
    assert_eq!(field(&cx, "x-server-id").as_deref(), Some("3"));
    assert_eq!(field(&cx, "x-old").as_deref(), Some("on"));
    assert_eq!(field(&cx, "content-type"), None);
    assert_eq!(field(&cx, "x-from").as_deref(), Some("from 127.0.0.1 to "));
}

#[test]
fn new_headers_are_added_then_set_then_removed() {
    let mut cx = response(&[("Set-Cookie", "a=1"), ("Content-Length", "5")]);
    let headers = json!({
        "add": ["Cache-Control: no-cache", "Cache-Control : max-age=0, must-revalidate", "X-A:b", "X-Set: 1", "Set-Cookie: b=$remote_addr"],
        "set": {"X-Set": "2", "Content-Length": "7"},
        "remove": ["X-A"]
    });
    harness(json!({"headers": headers})).response(&mut cx, &[]);
    assert_eq!(field(&cx, "cache-control").as_deref(), Some("no-cache, max-age=0, must-revalidate"));
    assert_eq!(field(&cx, "x-a"), None);
    assert_eq!(field(&cx, "x-set").as_deref(), Some("2"));
    assert_eq!(field(&cx, "set-cookie").as_deref(), Some("a=1, b=127.0.0.1"));
    assert_eq!(field(&cx, "content-length").as_deref(), Some("5"));
    harness(json!({"headers": {"remove": ["Content-Length"]}})).response(&mut cx, &[]);
    assert_eq!(field(&cx, "content-length"), None);
}

#[test]
fn a_field_that_cannot_be_read_leaves_all_headers() {
    let mut cx = response(&[("X-B", "1")]);
    harness(json!({"headers": {"add": ["X A: 1"], "set": {"X-B": "2"}}})).response(&mut cx, &[]);
    assert_eq!(field(&cx, "x-b").as_deref(), Some("1"));
}

#[test]
fn filters_see_the_whole_body() {
    let filters = json!({"filters": [{"regex": "hello", "replace": "HELLO"}, {"regex": "L", "replace": "T"}]});
    let mut cx = response(&[("Content-Length", "12")]);
    assert_eq!(body(filters.clone(), &mut cx, &[b"hel", b"lo world", b"\n"]), "HETLO world\n");
    assert_eq!(field(&cx, "content-length"), None);
    assert_eq!(body(filters, &mut response(&[]), &[b""]), "");
    let broken = json!({"filters": [{"regex": "h", "replace": "$x"}, {"regex": "e", "replace": "E"}]});
    assert_eq!(body(broken, &mut response(&[]), &[b"he"]), "hE");
}

#[test]
fn the_held_body_is_limited() {
    let config = json!({"max_resp_body_size": 5, "filters": [{"regex": "hello", "replace": "HELLO!"}]});
    assert_eq!(body(config.clone(), &mut response(&[]), &[b"hello world\n"]), "HELLO!");
    assert_eq!(body(config.clone(), &mut response(&[]), &[b"hel", b"lo wor", b"ld"]), "HELLO!");
    assert_eq!(body(config, &mut response(&[]), &[b"hell"]), "hell");
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressed_bodies_are_unpacked() {
    let config = json!({"filters": [{"regex": "hello", "replace": "test"}]});
    let mut cx = response(&[("Content-Encoding", "gzip")]);
    assert_eq!(body(config.clone(), &mut cx, &[&gzip(b"hello world\n")]), "test world\n");
    assert_eq!(field(&cx, "content-encoding"), None);
    // An uncompressed brotli meta-block: RFC 7932 section 9.
    let mut brotli = vec![0x0b, 0x02, 0x80];
    brotli.extend_from_slice(b"hello");
    brotli.push(0x03);
    let mut cx = response(&[("Content-Encoding", "br")]);
    assert_eq!(body(config.clone(), &mut cx, &[&brotli]), "test");
    // What cannot be unpacked stays as it is.
    let packed = zstd::encode_all(&b"hello world\n"[..], 3).unwrap();
    let mut cx = response(&[("Content-Encoding", "zstd")]);
    assert_eq!(body(config.clone(), &mut cx, &[&packed]), "test world\n");
    for encoding in ["deflate", "gzip", "br", "zstd"] {
        let mut cx = response(&[("Content-Encoding", encoding)]);
        assert_eq!(body(config.clone(), &mut cx, &[b"no ", b"hello"]), "no hello", "{encoding}");
        assert_eq!(field(&cx, "content-encoding"), None);
    }
}

#[test]
fn unpacking_is_limited() {
    let config = json!({"max_resp_body_size": 1000, "filters": [{"regex": "b", "replace": "c"}]});
    let bomb = gzip(&vec![b'a'; 100_000]);
    assert!(bomb.len() < 1000);
    let mut cx = response(&[("Content-Encoding", "gzip")]);
    assert_eq!(body(config, &mut cx, &[&bomb]).len(), 1000);
}

#[test]
fn a_global_rule_and_a_route_both_work() {
    let first = harness(json!({"filters": [{"regex": "a", "replace": "b"}]}));
    let second = harness(json!({"filters": [{"regex": "b", "replace": "c", "scope": "global"}]}));
    let mut cx = response(&[]);
    let nothing: &[&[u8]] = &[];
    first.response(&mut cx, nothing);
    second.response(&mut cx, nothing);
    let mut text = Vec::new();
    for (piece, last) in [(&b"aa"[..], false), (b"b", true)] {
        let mut chunk = BodyChunk { data: piece.to_vec(), last };
        first.body(&mut cx, &mut chunk);
        second.body(&mut cx, &mut chunk);
        text.extend_from_slice(&chunk.data);
    }
    assert_eq!(text, b"cac");
}
