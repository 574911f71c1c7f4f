//! The plugin alone: what it makes of requests and answers. End to end: tests/e2e/grpc_web.rs.
use super::*;
use serde_json::{Value, json};
use sluice_expr::{Lookup as _, Variable};
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Scope, define};

fn plugin(config: Value) -> Harness {
    Harness::new(define::<GrpcWeb>(), config).unwrap()
}

fn request(method: &str, kind: &str) -> Context {
    let mut cx = Context::for_tests(method, "/grpc/web/a.S/Get?x=1");
    cx.request.headers.append("Content-Type", kind);
    cx.request.framing = Framing::Length(10);
    cx.uri_params.push((":ext".into(), "a.S/Get".into()));
    cx
}

fn field<'a>(cx: &'a Context, name: &str) -> Option<&'a str> {
    cx.response.headers.get_str(name)
}

#[test]
fn the_schema() {
    let check = |mut config: Value| check(define::<GrpcWeb>(), Scope::Route, &mut config).map(|()| config);
    let whole = json!({"max_req_body_size": 67108864, "cors_allow_headers": "content-type,x-grpc-web,x-user-agent"});
    assert_eq!(check(json!({})).unwrap(), whole);
    assert!(check(json!({"max_req_body_size": 0})).unwrap_err().0.contains("max_req_body_size"));
}

#[test]
fn calls_become_those_of_grpc() {
    let plugin = plugin(json!({}));
    let mut cx = request("POST", "application/grpc-web+proto");
    assert_eq!(plugin.request(&mut cx), None);
    assert_eq!(cx.upstream.target.as_deref(), Some(&b"/a.S/Get?x=1"[..]));
    assert_eq!(cx.request.headers.get("content-type"), Some(&b"application/grpc"[..]));
    assert!(cx.upstream.decoder.is_none() && cx.upstream.body.is_none());
    let mut cx = request("POST", "application/grpc-web-text");
    cx.uri_params.clear();
    assert_eq!(plugin.request(&mut cx), None);
    assert!(cx.upstream.decoder.is_some() && cx.upstream.target.is_none());
    // Somebody else has read it.
    let mut cx = request("POST", "application/grpc-web-text");
    cx.request_body = Some(b"aGVsbG8=".to_vec());
    assert_eq!(plugin.request(&mut cx), None);
    assert_eq!(cx.upstream.body.as_deref(), Some(&b"hello"[..]));
}

#[test]
fn other_requests_are_refused() {
    let plugin = plugin(json!({"max_req_body_size": 100}));
    for (method, kind, status) in [
        ("OPTIONS", "x", 204),
        ("GET", "application/grpc-web", 405),
        ("POST", "application/json", 400),
        ("POST", "application/grpc-web; charset=utf-8", 400),
        ("POST", "application/grpc", 400),
    ] {
        assert_eq!(plugin.request(&mut request(method, kind)).unwrap().status, status, "{method} {kind}");
    }
    for framing in [Framing::None, Framing::Length(101)] {
        let mut cx = request("POST", "application/grpc-web");
        cx.request.framing = framing;
        assert_eq!(plugin.request(&mut cx).unwrap().status, 400, "{framing:?}");
    }
    let mut cx = request("POST", "application/grpc-web-text");
    cx.request_body = Some(b"$".to_vec());
    assert_eq!(plugin.request(&mut cx).unwrap().status, 400);
}

#[test]
fn fields_for_browsers_stand_on_every_answer() {
    let plugin = plugin(json!({"cors_allow_headers": "a,b"}));
    let mut cx = request("OPTIONS", "");
    plugin.request(&mut cx);
    assert_eq!(plugin.response(&mut cx, &[b""]), b"");
    assert_eq!(field(&cx, "access-control-allow-methods"), Some("POST"));
    assert_eq!(field(&cx, "access-control-allow-headers"), Some("a,b"));
    assert_eq!(field(&cx, "access-control-allow-origin"), Some("*"));
    assert_eq!(field(&cx, "access-control-expose-headers"), Some("grpc-message,grpc-status"));
    assert_eq!(field(&cx, "content-type"), None);
    let mut cx = request("POST", "application/json");
    plugin.request(&mut cx);
    cx.response.headers.append("Access-Control-Allow-Origin", "https://a.com");
    cx.response.headers.append("Content-Type", "text/html");
    plugin.response(&mut cx, &[b"page"]);
    assert_eq!(field(&cx, "access-control-allow-origin"), Some("https://a.com"));
    assert_eq!((field(&cx, "content-type"), field(&cx, "access-control-allow-methods")), (Some("text/html"), None));
}

fn trailers(fields: &[(&str, &str)]) -> Option<Box<Headers>> {
    let mut own = Headers::default();
    fields.iter().for_each(|(name, value)| own.append(name, value));
    Some(Box::new(own))
}

#[test]
fn trailers_end_the_body() {
    let plugin = plugin(json!({}));
    let mut cx = request("POST", "application/grpc-web");
    plugin.request(&mut cx);
    cx.response.headers.append("Content-Length", "3");
    cx.response.trailers = trailers(&[("x-more", "m"), ("grpc-status", "0")]);
    let body = plugin.response(&mut cx, &[b"one", b""]);
    assert_eq!(body, b"one\x80\0\0\0\x28grpc-status:0\r\ngrpc-message:\r\nx-more:m\r\n");
    assert_eq!((field(&cx, "content-type"), field(&cx, "content-length")), (Some("application/grpc-web"), None));
    assert!(cx.response.trailers.as_ref().unwrap().is_withheld());
    let variable = |name: &str| cx.variable(&Variable::parse(name)).map(|value| value.as_str().into_owned());
    let (came, went) = (variable("upstream_trailer_grpc_status"), variable("sent_trailer_grpc_status"));
    assert_eq!((came.as_deref(), went), (Some("0"), None));
}

#[test]
fn text_is_encoded_piece_by_piece() {
    let plugin = plugin(json!({}));
    let mut cx = request("POST", "application/grpc-web-text+proto");
    plugin.request(&mut cx);
    cx.response.trailers = trailers(&[("grpc-status", "5"), ("grpc-message", "gone")]);
    let body = plugin.response(&mut cx, &[b"a", b"bb", b""]);
    let end = STANDARD.encode(b"\x80\0\0\0\x22grpc-status:5\r\ngrpc-message:gone\r\n");
    assert_eq!(String::from_utf8(body).unwrap(), format!("YQ==YmI={end}"));
}

#[test]
fn a_status_in_the_head_needs_no_frame_and_a_missing_one_is_unknown() {
    let plugin = plugin(json!({}));
    let mut cx = request("POST", "application/grpc-web");
    plugin.request(&mut cx);
    cx.response.headers.append("grpc-status", "13");
    assert_eq!(plugin.response(&mut cx, &[b""]), b"");
    let mut cx = request("POST", "application/grpc-web");
    plugin.request(&mut cx);
    let body = plugin.response(&mut cx, &[b"x"]);
    assert_eq!(&body[6..], b"grpc-status:2\r\ngrpc-message:upstream grpc status not received\r\n");
}

#[test]
fn bodies_without_a_length_are_bounded_too() {
    let plugin = plugin(json!({"max_req_body_size": 8}));
    for (kind, first, decoded) in
        [("application/grpc-web", "1234", &b"1234"[..]), ("application/grpc-web-text", "YWJj", &b"abc"[..])]
    {
        let mut cx = request("POST", kind);
        cx.request.framing = Framing::Chunked;
        assert_eq!(plugin.request(&mut cx), None);
        let mut decoder = cx.upstream.decoder.take().unwrap();
        for _ in 0..2 {
            let mut out = Vec::new();
            decoder.begin();
            decoder.piece(first.as_bytes(), false, &mut out).unwrap();
            assert_eq!(out, decoded, "{kind}");
            assert_eq!(decoder.piece(b"YWJjZA==", true, &mut out), Err(Undecodable), "{kind}");
        }
    }
}

#[test]
fn a_decoded_path_is_encoded_again() {
    let plugin = plugin(json!({}));
    let mut cx = request("POST", "application/grpc-web");
    cx.uri_params.clear();
    cx.uri_params.push((":ext".into(), "/a b\r\nX: y?z%é".into()));
    assert_eq!(plugin.request(&mut cx), None);
    assert_eq!(cx.upstream.target.as_deref(), Some(&b"/a%20b%0D%0AX:%20y%3Fz%25%C3%A9?x=1"[..]));
}
