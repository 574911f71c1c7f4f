//! What is compressed, for whom, with what; every coding can be read back, piece by piece.
use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Scope, define};
use std::io::Read;

const PAGE: &str = "<p>one two three four five six seven eight nine ten</p><p>one two three four five six seven</p>";

fn harness(config: Value) -> Harness {
    Harness::new(define::<Compress>(), config).unwrap()
}

fn context(accept: Option<&str>, kind: &str, length: Option<usize>) -> Context {
    let mut cx = Context::for_tests("GET", "/");
    if let Some(accept) = accept {
        cx.request.headers.append("Accept-Encoding", accept);
    }
    cx.response.status = 200;
    cx.response.headers.append("Content-Type", kind);
    if let Some(length) = length {
        cx.response.headers.append("Content-Length", length.to_string());
    }
    cx
}

fn header<'a>(cx: &'a Context, name: &str) -> Option<&'a str> {
    cx.response.headers.get_str(name)
}

fn plain(coding: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "gzip" => flate2::read::GzDecoder::new(body).read_to_end(&mut out).map(drop),
        "br" => brotli_decompressor::Decompressor::new(body, 4096).read_to_end(&mut out).map(drop),
        "zstd" => zstd::stream::copy_decode(body, &mut out),
        other => panic!("{other}"),
    }
    .unwrap();
    out
}

/// The coding that a client with this `Accept-Encoding` gets.
fn chosen(config: Value, accept: &str) -> Option<String> {
    let plugin = harness(config);
    let mut cx = context(Some(accept), "text/html", Some(PAGE.len()));
    let body = plugin.response(&mut cx, &[PAGE.as_bytes()]);
    let coding = header(&cx, "content-encoding").map(str::to_owned);
    match &coding {
        Some(coding) => assert_eq!(plain(coding, &body), PAGE.as_bytes(), "{coding}"),
        None => assert_eq!(body, PAGE.as_bytes()),
    }
    coding
}

#[test]
fn the_client_chooses_and_the_order_settles_ties() {
    let small = || json!({"min_length": 1});
    for (accept, coding) in [
        ("gzip, deflate, br, zstd", Some("br")),
        ("gzip, zstd", Some("zstd")),
        ("gzip", Some("gzip")),
        ("gzip;q=1, br;q=0.9, zstd;q=0.9", Some("gzip")),
        ("br;q=0.1, zstd;q=0.2, gzip;q=0", Some("zstd")),
        ("*", Some("br")),
        ("*, br;q=0", Some("zstd")),
        ("*;q=0", None),
        ("identity", None),
        ("br;q=0, gzip;q=0", None),
        ("", None),
    ] {
        assert_eq!(chosen(small(), accept).as_deref(), coding, "{accept}");
    }
    let ours = json!({"min_length": 1, "algorithms": ["gzip", "br"]});
    assert_eq!(chosen(ours.clone(), "gzip, br, zstd").as_deref(), Some("gzip"));
    assert_eq!(chosen(ours, "zstd"), None);
}

#[test]
fn types_and_length_decide_what_is_compressed() {
    let config = json!({"types": ["text/*", "Application/JSON"], "exclude_types": ["text/csv"], "min_length": 50});
    let encoded = |kind: &str, length: usize| {
        let mut cx = context(Some("gzip"), kind, Some(length));
        harness(config.clone()).response(&mut cx, &[PAGE.as_bytes()]);
        (header(&cx, "content-encoding").is_some(), header(&cx, "vary").is_some())
    };
    for kind in ["text/html", "TEXT/plain; charset=utf-8", "application/json"] {
        assert_eq!(encoded(kind, 50), (true, true), "{kind}");
    }
    for kind in ["text/csv", "image/png", "application/jsonx", "text"] {
        assert_eq!(encoded(kind, 50), (false, false), "{kind}");
    }
    assert_eq!(encoded("text/html", 49), (false, false));
    let everything = harness(json!({"types": ["*"], "min_length": 0}));
    let mut cx = context(Some("gzip"), "image/png", Some(1));
    everything.response(&mut cx, &[b"x"]);
    assert_eq!(header(&cx, "content-encoding"), Some("gzip"));
}

#[test]
fn the_head_tells_of_the_new_body() {
    let plugin = harness(json!({"min_length": 1}));
    let mut cx = context(Some("gzip"), "text/html", Some(PAGE.len()));
    for (name, value) in [("ETag", "\"abc\""), ("Accept-Ranges", "bytes"), ("Vary", "Origin")] {
        cx.response.headers.append(name, value);
    }
    plugin.response(&mut cx, &[PAGE.as_bytes()]);
    assert_eq!(header(&cx, "etag"), Some("W/\"abc\""));
    assert_eq!((header(&cx, "content-length"), header(&cx, "accept-ranges")), (None, None));
    let vary: Vec<_> = cx.response.headers.get_all("vary").collect();
    assert_eq!(vary, [b"Origin".as_slice(), b"Accept-Encoding"]);
    for named in ["accept-encoding", "Origin, Accept-Encoding", "*"] {
        let mut cx = context(None, "text/html", None);
        cx.response.headers.append("Vary", named);
        plugin.response(&mut cx, &[PAGE.as_bytes()]);
        assert_eq!(cx.response.headers.get_all("vary").count(), 1, "{named}");
    }
}

#[test]
fn some_responses_stay_as_they_are() {
    let plugin = harness(json!({"min_length": 1}));
    let left_alone = |change: fn(&mut Context)| {
        let mut cx = context(Some("gzip, br, zstd"), "text/html", Some(PAGE.len()));
        change(&mut cx);
        let before = header(&cx, "content-encoding").map(str::to_owned);
        let body = plugin.response(&mut cx, &[PAGE.as_bytes()]);
        body == PAGE.as_bytes() && header(&cx, "content-encoding").map(str::to_owned) == before
    };
    assert!(!left_alone(|_| {}));
    assert!(left_alone(|cx| cx.response.status = 206));
    assert!(left_alone(|cx| cx.response.status = 304));
    assert!(left_alone(|cx| cx.response.headers.append("Content-Encoding", "deflate")));
    assert!(left_alone(|cx| cx.response.headers.append("Cache-Control", "public, No-Transform")));
    assert!(left_alone(|cx| cx.request.headers.append("Cache-Control", "no-transform")));
    assert!(left_alone(|cx| cx.response.headers.append("Content-Digest", "sha-256=:x:")));
    assert!(left_alone(|cx| cx.set_method("HEAD")));
    assert!(left_alone(|cx| {
        cx.response.headers.remove("content-type");
    }));
}

#[test]
fn a_stream_holds_nothing_back() {
    for coding in ["gzip", "br", "zstd"] {
        let plugin = harness(json!({}));
        let mut cx = context(Some(coding), "text/event-stream", None);
        let mut received = plugin.response(&mut cx, &[]);
        for event in ["data: one\n\n", "data: two\n\n"] {
            let mut chunk = BodyChunk { data: event.into(), last: false };
            plugin.body(&mut cx, &mut chunk);
            received.extend_from_slice(&chunk.data);
            let mut readable = vec![0; event.len()];
            match coding {
                "gzip" => flate2::read::GzDecoder::new(&received[..]).read_exact(&mut readable),
                "br" => brotli_decompressor::Decompressor::new(&received[..], 4096).read_exact(&mut readable),
                _ => zstd::stream::read::Decoder::new(&received[..]).unwrap().read_exact(&mut readable),
            }
            .unwrap();
            assert_eq!(readable, b"data: one\n\n", "{coding}");
        }
        let mut chunk = BodyChunk { data: Vec::new(), last: true };
        plugin.body(&mut cx, &mut chunk);
        received.extend_from_slice(&chunk.data);
        assert_eq!(plain(coding, &received), b"data: one\n\ndata: two\n\n", "{coding}");
    }
}

#[test]
fn the_schema_knows_its_bounds() {
    let refused = |mut config: Value| check(define::<Compress>(), Scope::Route, &mut config).unwrap_err().0;
    assert!(refused(json!({"algorithms": ["deflate"]})).contains("matches none of the enum values"));
    assert!(refused(json!({"algorithms": []})).contains("expect array to have at least 1 items"));
    assert!(refused(json!({"levels": {"br": 12}})).contains("expected 12 to be at most 11"));
    assert!(refused(json!({"levels": {"zstd": 0}})).contains("expected 0 to be at least 1"));
    let mut config = json!({"levels": {"gzip": 9}});
    check(define::<Compress>(), Scope::Route, &mut config).unwrap();
    assert_eq!(config["levels"], json!({"gzip": 9, "br": 4, "zstd": 3}));
    assert_eq!(config["algorithms"], json!(["br", "zstd", "gzip"]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Encoders are used again by the thread: nothing of one response is left in the next.
    #[test]
    fn any_body_in_any_pieces_comes_back(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..5),
        coding in prop::sample::select(vec!["gzip", "br", "zstd"]),
        known in any::<bool>(),
    ) {
        let whole = pieces.concat();
        let plugin = harness(json!({"min_length": 0}));
        let mut cx = context(Some(coding), "text/html", known.then_some(whole.len()));
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let body = plugin.response(&mut cx, &pieces);
        prop_assert_eq!(header(&cx, "content-encoding"), Some(coding));
        prop_assert_eq!(plain(coding, &body), whole);
    }
}
