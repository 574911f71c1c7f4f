//! The plugin alone: requests to messages, messages to answers. End to end: tests/e2e/grpc_transcode.rs.
use super::*;
use sluice_http::{Headers, h1::Framing};
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Scope, define};

const PROTO: &str = r#"
    syntax = "proto3";
    package helloworld;
    service Greeter {
        rpc SayHello (HelloRequest) returns (HelloReply) {}
        rpc Many (HelloRequest) returns (stream HelloReply) {}
    }
    message HelloRequest { string name = 1; int64 n = 2; }
    message HelloReply { string message = 1; int64 n = 2; }
    message ErrorDetail { int64 code = 1; string message = 2; string type = 3; }
"#;

const DETAILS: &str = "CA4SDk91dCBvZiBzZXJ2aWNlGlcKKnR5cGUuZ29vZ2xlYXBpcy5jb20vaGVsbG93b3JsZC5FcnJvckRldGFpbBIpCAESHFRoZSBzZXJ2ZXIgaXMgb3V0IG9mIHNlcnZpY2UaB3NlcnZpY2U";

fn library() -> Arc<Library> {
    let library = Arc::<Library>::default();
    library.set("1", PROTO).unwrap();
    library
}

fn plugin(library: &Arc<Library>, config: Value) -> Harness {
    let mut whole = json!({"proto_id": 1, "service": "helloworld.Greeter", "method": "SayHello"});
    whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    Harness::with_env(define::<GrpcTranscode>(), whole, Env::for_tests().with_part(library.clone())).unwrap()
}

fn request(plugin: &Harness, query: &str) -> Context {
    let mut cx = Context::for_tests("GET", &format!("/hello?{query}"));
    assert_eq!(plugin.request(&mut cx), None);
    cx.response.status = 200;
    cx
}

#[test]
fn the_schema() {
    let check = |mut config: Value| check(define::<GrpcTranscode>(), Scope::Route, &mut config).map(|()| config);
    let own = json!({"proto_id": "1", "service": "a.S", "method": "M"});
    let whole = check(own.clone()).unwrap();
    assert_eq!(whole["pb_option"], json!(["enum_as_name", "int64_as_number", "auto_default_values", "disable_hooks"]));
    assert_eq!((&whole["deadline"], &whole["max_resp_body_size"]), (&json!(0), &json!(67108864)));
    assert_eq!(check(json!({"proto_id": "1", "service": "a.S"})).unwrap_err().0, "property \"method\" is required");
    let mut wrong = own;
    wrong["pb_option"] = json!(["int64_as_float"]);
    assert!(check(wrong).is_err());
}

#[test]
fn requests_become_messages() {
    let library = library();
    let plugin = plugin(&library, json!({"deadline": 500}));
    let mut cx = Context::for_tests("PUT", "/hello?name=query");
    cx.request.headers.append("Content-Type", "application/json");
    cx.request.headers.append("grpc-accept-encoding", "gzip");
    cx.request.framing = Framing::Length(16);
    cx.request_body = Some(br#"{"name":"world"}"#.to_vec());
    assert_eq!(plugin.request(&mut cx), None);
    assert_eq!(cx.upstream.body.as_deref(), Some(&b"\0\0\0\0\x07\x0a\x05world"[..]));
    assert_eq!((cx.upstream_target(), cx.request.method_text()), (&b"/helloworld.Greeter/SayHello"[..], "POST"));
    assert_eq!(cx.upstream.content_type, Some("application/grpc"));
    assert_eq!(cx.request.headers.get_str("grpc-timeout"), Some("500m"));
    assert!(!cx.request.headers.contains("grpc-accept-encoding"));
}

#[test]
fn what_does_not_fit_is_refused() {
    let library = library();
    let own = plugin(&library, json!({}));
    let mut cx = Context::for_tests("GET", "/hello?n=many");
    assert_eq!(own.request(&mut cx), Some(Reply::status(400)));
    for config in [json!({"method": "None"}), json!({"service": "helloworld.None"}), json!({"proto_id": "2"})] {
        let plugin = plugin(&library, config.clone());
        assert_eq!(plugin.request(&mut Context::for_tests("GET", "/hello")), Some(Reply::status(503)), "{config}");
    }
}

#[test]
fn a_proto_changes_under_the_plugin() {
    let library = Arc::<Library>::default();
    let plugin = plugin(&library, json!({}));
    let ask = || plugin.request(&mut Context::for_tests("GET", "/hello?name=a"));
    assert_eq!(ask(), Some(Reply::status(503)));
    library.set("1", PROTO).unwrap();
    assert_eq!(ask(), None);
    library.set("1", &PROTO.replace("string name = 1", "int32 number = 1")).unwrap();
    let mut cx = Context::for_tests("GET", "/hello?number=5");
    assert_eq!(plugin.request(&mut cx), None);
    assert_eq!(cx.upstream.body.as_deref(), Some(&b"\0\0\0\0\x02\x08\x05"[..]));
    library.remove("1");
    assert_eq!(ask(), Some(Reply::status(503)));
}

#[test]
fn answers_become_json() {
    let library = library();
    let own = plugin(&library, json!({}));
    for pieces in [&[&b"\0\0\0\0\x07\x0a\x05hello"[..], b""][..], &[b"\0\0\0", b"\0\x07\x0a\x05he", b"llo"]] {
        let mut cx = request(&own, "name=x");
        cx.response.headers.append("Content-Length", "12");
        assert_eq!(own.response(&mut cx, pieces), br#"{"message":"hello","n":0}"#);
        assert_eq!(cx.response.headers.get_str("content-type"), Some("application/json"));
        assert!(!cx.response.headers.contains("content-length"));
        let announced: Vec<&[u8]> = cx.response.headers.get_all("trailer").collect();
        assert_eq!(announced, [&b"grpc-status"[..], b"grpc-message"]);
    }
    let large = plugin(&library, json!({"pb_option": ["int64_as_string", "no_default_values"]}));
    let mut cx = request(&large, "");
    let body = large.response(&mut cx, &[&frame(b"\x10\xff\xff\xff\xff\xff\xff\xff\x0f")]);
    assert_eq!(body, br##"{"n":"#9007199254740991"}"##.as_slice());
    let mut cx = request(&own, "");
    assert_eq!(own.response(&mut cx, &[b""]), br#"{"message":"","n":0}"#);
}

#[test]
fn answers_that_are_none_are_told() {
    let library = library();
    let own = plugin(&library, json!({"max_resp_body_size": 100}));
    let wrong = b"failed to decode response data by protobuf";
    for pieces in [
        &[&b"\0\0\0\0\x02\x0a\x05"[..]][..],
        &[b"\0\0\0\0\x07\x0a"],
        &[b"\0\0\0\0\x65", b"rest", b""],
        &[b"\x01\0\0\0\0"],
    ] {
        assert_eq!(own.response(&mut request(&own, ""), pieces), wrong, "{pieces:?}");
    }
    // The gateway's own answers are none of the service.
    let mut cx = request(&own, "");
    cx.own_response = true;
    assert_eq!(own.response(&mut cx, &[b"page"]), b"page");
    let mut cx = request(&own, "");
    cx.response.status = 404;
    assert_eq!(own.response(&mut cx, &[b"page"]), b"page");
}

#[test]
fn calls_that_failed_have_a_status_of_http() {
    let library = library();
    let own = plugin(&library, json!({}));
    for (code, status) in
        [("1", 499), ("3", 400), ("5", 404), ("8", 429), ("12", 501), ("14", 503), ("16", 401), ("77", 599)]
    {
        let mut cx = request(&own, "");
        cx.response.headers.append("grpc-status", code);
        cx.response.headers.append("grpc-status-details-bin", DETAILS);
        assert_eq!(own.response(&mut cx, &[b""]), b"");
        assert_eq!(cx.response.status, status, "{code}");
        assert!(!cx.response.headers.contains("trailer"));
    }
    let shown = plugin(&library, json!({"show_status_in_body": true, "status_detail_type": "helloworld.ErrorDetail"}));
    let mut cx = request(&shown, "");
    cx.response.headers.append("grpc-status", "14");
    cx.response.headers.append("grpc-status-details-bin", DETAILS);
    let body: Value = serde_json::from_slice(&shown.response(&mut cx, &[b""])).unwrap();
    let detail = json!({"code": 1, "message": "The server is out of service", "type": "service"});
    assert_eq!(body, json!({"error": {"code": 14, "message": "Out of service", "details": [detail]}}));
    let wrong = plugin(&library, json!({"show_status_in_body": true, "status_detail_type": "helloworld.error"}));
    let mut cx = request(&wrong, "");
    cx.response.headers.append("grpc-status", "14");
    cx.response.headers.append("grpc-status-details-bin", DETAILS);
    let told = wrong.response(&mut cx, &[b""]);
    assert_eq!(told, b"failed to call pb.decode to decode details in grpc-status-details-bin");
}

#[test]
fn streams_are_lines() {
    let library = library();
    let plugin =
        plugin(&library, json!({"method": "Many", "pb_option": ["no_default_values"], "show_status_in_body": true}));
    let mut cx = request(&plugin, "");
    let mut trailers = Headers::default();
    trailers.append("grpc-status", "8");
    trailers.append("grpc-message", "enough");
    cx.response.trailers = Some(Box::new(trailers));
    let (one, two) = (frame(b"\x10\x01"), frame(b"\x10\x02"));
    let body = plugin.response(&mut cx, &[&one, &two[..3], &two[3..], b""]);
    let lines = "{\"n\":1}\n{\"n\":2}\n{\"error\":{\"code\":8,\"message\":\"enough\"}}\n";
    assert_eq!(String::from_utf8(body).unwrap(), lines);
    assert_eq!(cx.response.headers.get_str("content-type"), Some("application/x-ndjson"));
}

#[test]
fn deadlines() {
    for (millis, text) in
        [(500.0, "500m"), (0.5, "1m"), (99_999_999.0, "99999999m"), (1e8, "100000S"), (1e11, "1666667M")]
    {
        assert_eq!(timeout(millis).as_deref(), Some(text), "{millis}");
    }
    for none in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(timeout(none), None);
    }
}
