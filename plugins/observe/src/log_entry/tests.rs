//! Tests of `log_entry`.
use super::*;
use serde_json::json;
use sluice_plugin::{Attempt, Consumer, ConsumerMatch, RouteInfo};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

fn logger(options: Json, metadata: Option<Json>) -> LogEntry {
    let options: LogOptions = serde_json::from_value(options).expect("options");
    LogEntry::compile(&options, metadata.as_ref()).expect("compiles")
}

fn context() -> Context {
    let mut cx = Context::for_tests("POST", "/hello?a=1&b&a=2&c=%20x");
    cx.request.headers.append("X-Two", "1");
    cx.request.headers.append("x-two", "2");
    cx.request.received = 194;
    cx.response.set_status(200);
    cx.response.headers.append("Content-Type", "text/plain");
    cx.bytes_sent = 123;
    cx
}

fn with_route(cx: &mut Context) {
    cx.route = Some(Arc::new(RouteInfo { route_id: "r".into(), service_id: Some("s".into()), ..RouteInfo::default() }));
}

fn attempt(millis: u64) -> Attempt {
    Attempt {
        address: SocketAddr::from(([127, 0, 0, 1], 1980)),
        status: 200,
        connect_time: None,
        header_time: Some(Duration::from_millis(millis)),
        response_time: Duration::from_millis(millis),
    }
}

fn log(entry: &LogEntry, cx: &mut Context) -> Json {
    entry.build(cx).map_or(Json::Null, Json::Object)
}

#[test]
fn full_entry() {
    let mut cx = context();
    with_route(&mut cx);
    cx.attempts.push(attempt(1));
    let consumer = Arc::new(Consumer { username: "jack".into(), ..Consumer::default() });
    cx.consumer = Some(ConsumerMatch { consumer, credential_id: None, plugin: "key-auth" });
    let entry = log(&logger(json!({}), None), &mut cx);
    assert_eq!(
        entry["request"],
        json!({
            "url": "http://localhost:9080/hello?a=1&b&a=2&c=%20x", "uri": "/hello?a=1&b&a=2&c=%20x", "method": "POST",
            "headers": {"host": "localhost", "x-two": ["1", "2"]},
            "querystring": {"a": ["1", "2"], "b": true, "c": " x"}, "size": 194,
        })
    );
    assert_eq!(entry["response"], json!({"status": 200, "headers": {"content-type": "text/plain"}, "size": 123}));
    assert_eq!((&entry["route_id"], &entry["service_id"]), (&json!("r"), &json!("s")));
    assert_eq!((&entry["consumer"], &entry["client_ip"]), (&json!({"username": "jack"}), &json!("127.0.0.1")));
    assert_eq!((&entry["upstream"], &entry["upstream_latency"]), (&json!("127.0.0.1:1980"), &json!(1)));
    assert!(entry["start_time"].as_i64() > Some(1_500_000_000_000));
    assert!(entry["latency"].is_number() && entry["apisix_latency"].is_number());
    assert!(entry["server"]["hostname"].is_string());
    assert_eq!(entry["server"]["version"], json!("3.18.0"));
}

#[test]
fn without_a_route() {
    let entry = log(&logger(json!({}), None), &mut context());
    assert_eq!(entry["service_id"], json!("localhost"));
    for absent in ["route_id", "upstream", "upstream_latency", "consumer"] {
        assert_eq!(entry.get(absent), None, "{absent}");
    }
}

#[test]
fn own_format() {
    let format = json!({
        "host": "$host", "text": "plain", "n": 3, "missing": "$http_nothing", "status": "$status",
        "size": "$request_length", "nested": {"uri": "$uri", "method": "$request_method"},
    });
    let mut cx = context();
    with_route(&mut cx);
    let entry = log(&logger(json!({"log_format": format}), None), &mut cx);
    let expected = json!({
        "host": "localhost", "text": "plain", "n": 3, "status": 200, "size": 194,
        "nested": {"uri": "/hello", "method": "POST"}, "service_id": "s", "route_id": "r",
    });
    assert_eq!(entry, expected);
}

#[test]
fn nesting_ends_at_five() {
    let format = json!({"a": {"b": {"c": {"d": {"e": {"f": "deep"}}}}}});
    let entry = log(&logger(json!({"log_format": format}), None), &mut context());
    assert_eq!(entry, json!({"a": {"b": {"c": {"d": {"e": {}}}}}}));
}

#[test]
fn extra_adds_and_never_replaces() {
    let extra = json!({"tag": "t", "route_id": "mine", "upstream": "mine"});
    let mut cx = context();
    with_route(&mut cx);
    let entry = log(&logger(json!({"log_format_extra": extra}), None), &mut cx);
    assert_eq!((&entry["tag"], &entry["route_id"]), (&json!("t"), &json!("r")));
    assert_eq!(entry["upstream"], json!("mine"));
    assert!(entry["request"].is_object());
    let both = json!({"log_format": {"a": "b"}, "log_format_extra": {"tag": "t"}});
    assert_eq!(log(&logger(both, None), &mut context()), json!({"a": "b"}));
}

#[test]
fn metadata_formats() {
    let metadata = json!({"log_format": {}, "log_format_extra": {"tag": "meta"}});
    assert_eq!(log(&logger(json!({}), Some(metadata.clone())), &mut context())["tag"], json!("meta"));
    // The plugin's own wins, even an empty one.
    let own = logger(json!({"log_format_extra": {}}), Some(metadata));
    assert_eq!(log(&own, &mut context()).get("tag"), None);
    let own = logger(json!({"log_format": {}}), Some(json!({"log_format": {"a": "b"}})));
    assert_eq!(log(&own, &mut context()), json!({}));
}

#[test]
fn matching() {
    let rules = json!({"match": [[["arg_a", "==", "9"]], [["request_method", "==", "POST"]]]});
    assert!(logger(rules, None).build(&mut context()).is_some());
    let rules = json!({"match": [[["arg_a", "==", "9"]]]});
    assert!(logger(rules, None).build(&mut context()).is_none());
    // No alternative is none that holds.
    assert!(logger(json!({"match": []}), None).build(&mut context()).is_none());
}

#[test]
fn request_body() {
    let entry = logger(json!({"log_format": {"body": "$request_body"}, "max_req_body_bytes": 3}), None);
    let mut cx = context();
    assert!(entry.wants_request_body(&cx));
    assert_eq!(log(&entry, &mut cx), json!({}));
    cx.request_body = Some(b"abcdef".to_vec());
    assert_eq!(log(&entry, &mut cx), json!({"body": "abc"}));
    assert!(!logger(json!({}), None).wants_request_body(&cx));
}

fn respond(entry: &LogEntry, cx: &mut Context, pieces: &[&[u8]]) -> Json {
    entry.header_filter(cx);
    for (i, piece) in pieces.iter().enumerate() {
        let chunk = BodyChunk { data: piece.to_vec(), last: i + 1 == pieces.len() };
        if cx.wants_body() {
            entry.body_filter(cx, &chunk);
        }
    }
    log(entry, cx)["response"]["body"].clone()
}

#[test]
fn response_body() {
    let entry = logger(json!({"include_resp_body": true, "max_resp_body_bytes": 5}), None);
    assert_eq!(respond(&entry, &mut context(), &[b"abc", b"defg"]), json!("abcde"));
    let where_asked = json!({"include_resp_body": true, "include_resp_body_expr": [["status", "==", "404"]]});
    let entry = logger(where_asked, None);
    let mut cx = context();
    assert_eq!(respond(&entry, &mut cx, &[b"abc"]), Json::Null);
    assert!(!cx.wants_body());
    cx.response.set_status(404);
    assert_eq!(respond(&entry, &mut cx, &[b"abc"]), json!("abc"));
    let two = [logger(json!({"include_resp_body": true}), None), logger(json!({"include_resp_body": true}), None)];
    let mut cx = context();
    two.iter().for_each(|entry| entry.header_filter(&mut cx));
    two.iter().for_each(|entry| entry.body_filter(&mut cx, &BodyChunk { data: b"x".to_vec(), last: true }));
    two.iter().for_each(|entry| assert_eq!(log(entry, &mut cx)["response"]["body"], json!("x")));
}

#[test]
fn formats_may_hold_the_response_body() {
    let format = json!({"log_format": {"body": "$resp_body"}, "include_resp_body": true});
    let entry = logger(format, None);
    let mut cx = context();
    entry.header_filter(&mut cx);
    entry.body_filter(&mut cx, &BodyChunk { data: b"abc".to_vec(), last: true });
    assert_eq!(log(&entry, &mut cx), json!({"body": "abc"}));
    let entry = logger(json!({"log_format": {"body": "$resp_body"}}), None);
    assert_eq!(log(&entry, &mut context()), json!({"body": ""}));
}

#[test]
fn formats_may_hold_the_node_as_configured() {
    let entry = logger(json!({"log_format": {"node": "$upstream_unresolved_host"}}), None);
    let mut cx = context();
    assert_eq!(log(&entry, &mut cx), json!({}));
    cx.attempts.push(attempt(1));
    let address = cx.attempts[0].address.ip().to_string();
    assert_eq!(log(&entry, &mut cx), json!({"node": address}));
    cx.upstream.node_name = Some("node.example".into());
    assert_eq!(log(&entry, &mut cx), json!({"node": "node.example"}));
}

#[test]
fn compressed_response_body() {
    let entry = logger(json!({"include_resp_body": true, "max_resp_body_bytes": 100}), None);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&b"a".repeat(1000)).expect("writes");
    let body = encoder.finish().expect("finishes");
    let mut cx = context();
    cx.response.headers.set("Content-Encoding", "gzip");
    assert_eq!(respond(&entry, &mut cx, &[&body]), json!("a".repeat(100)));
    assert_eq!(respond(&entry, &mut cx, &[b"not gzip"]), json!("not gzip"));
}

proptest::proptest! {
    /// Whatever a client sends, the entry is JSON and the limit holds.
    #[test]
    fn any_body_is_json(body: Vec<u8>, limit in 1_u64..50) {
        let entry = logger(json!({"include_req_body": true, "max_req_body_bytes": limit}), None);
        let mut cx = context();
        cx.request_body = Some(body.clone());
        let text = serde_json::to_string(&entry.build(&mut cx)).expect("JSON");
        let read: Json = serde_json::from_str(&text).expect("JSON");
        let cut = body.get(..limit as usize).unwrap_or(&body);
        let expected = (!body.is_empty()).then(|| Json::from(String::from_utf8_lossy(cut)));
        proptest::prop_assert_eq!(read["request"].get("body").cloned(), expected);
    }
}

proptest::proptest! {
    /// Whatever bytes a text has, JSON readers find the same text again; header names in lower case, repeated ones in lists.
    #[test]
    fn texts_and_headers_survive(
        texts in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..40), 0..6),
        names in proptest::collection::vec("[A-Za-z-]{1,12}", 0..30),
    ) {
        for bytes in &texts {
            let mut out = Vec::new();
            super::values::text(bytes, &mut out);
            let read: String = serde_json::from_slice(&out).expect("JSON");
            proptest::prop_assert_eq!(read, String::from_utf8_lossy(bytes).into_owned());
        }
        let mut expected: std::collections::BTreeMap<String, Vec<String>> = Default::default();
        for (i, name) in names.iter().enumerate() {
            expected.entry(name.to_ascii_lowercase()).or_default().push(i.to_string());
        }
        let values: Vec<String> = (0..names.len()).map(|i| i.to_string()).collect();
        let mut out = Vec::new();
        super::values::headers(names.iter().zip(&values).map(|(n, v)| (n.as_bytes(), v.as_bytes())), &mut out);
        let read: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&out).expect("JSON");
        proptest::prop_assert_eq!(read.len(), expected.len());
        for (name, values) in expected {
            let wanted = if values.len() == 1 { serde_json::json!(values[0]) } else { serde_json::json!(values) };
            proptest::prop_assert_eq!(&read[&name], &wanted);
        }
    }
}
