//! Heads between HTTP/2 and the pipeline.
use super::*;

fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> http::request::Parts {
    let mut builder = http::Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn read(method: &str, uri: &str, fields: &[(&str, &str)], ended: bool) -> Result<Request, Reject> {
    let mut own = Request::default();
    request(&parts(method, uri, fields), None, ended, &Limits::default(), &mut own).map(|()| own)
}

fn lines(headers: &Headers) -> String {
    let mut out = Vec::new();
    headers.write_to(&mut out, |_| false);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_head_becomes_what_http_1_would_have_said() {
    let own = read("GET", "https://A.com:8443/a/../b%20c?x=1", &[("accept", "*/*"), ("te", "trailers")], true).unwrap();
    assert_eq!((own.target(), own.path(), own.query(), own.host()), ("/a/../b%20c?x=1", "/b c", Some("x=1"), "a.com"));
    assert_eq!((own.version, own.framing), (Version::Http2, Framing::None));
    assert_eq!(lines(&own.headers), "host: A.com:8443\r\naccept: */*\r\n");
    assert_eq!(own.headers.get("te"), Some(&b"trailers"[..]));
}

#[test]
fn crumbs_of_cookies_are_put_together() {
    let own = read("GET", "http://a/", &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")], true).unwrap();
    assert_eq!(lines(&own.headers), "host: a\r\nx: y\r\ncookie: a=1; b=2\r\n");
    assert_eq!(own.cookie("b"), Some(&b"2"[..]));
}

#[test]
fn bodies_are_framed_by_length_or_by_their_end() {
    let framing = |fields: &[_], ended| read("POST", "http://a/", fields, ended).unwrap().framing;
    assert_eq!(framing(&[("content-length", "5")], false), Framing::Length(5));
    assert_eq!(framing(&[], false), Framing::Close);
    assert_eq!(framing(&[], true), Framing::None);
}

#[test]
fn what_could_be_misread_is_refused() {
    for (method, uri, fields, reason) in [
        ("GET", "http://a/", &[("host", "b")][..], "Host differs from :authority"),
        ("GET", "/", &[], "missing Host"),
        ("GET", "/", &[("host", "a"), ("host", "a")], "several Host fields"),
        ("GET", "http://a/", &[("content-length", "+1")], "invalid Content-Length"),
        ("GET", "http://a/", &[("content-length", "1"), ("content-length", "1")], "invalid Content-Length"),
        ("GET", "/", &[("host", "a b")], "invalid Host"),
        ("GET", "http://a/", &[("x", " 1")], "white space around a field's value"),
        ("GET", "http://a/", &[("x", "1\t")], "white space around a field's value"),
        ("GET", "http://a/../..", &[], "invalid request target"),
        ("CONNECT", "a:80", &[], "CONNECT is not served"),
    ] {
        assert_eq!(
            read(method, uri, fields, true).map(|_| ()).unwrap_err().reason,
            reason,
            "{method} {uri} {fields:?}"
        );
    }
    let long = format!("http://a/{}", "x".repeat(9000));
    assert_eq!(read("GET", &long, &[], true).unwrap_err().status, 414);
    let many: Vec<(String, String)> = (0..101).map(|i| (format!("x{i}"), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(read("GET", "http://a/", &many, true).unwrap_err().status, 431);
}

#[test]
fn an_extended_connect_is_an_upgrade() {
    let mut own = Request::default();
    let head = parts("CONNECT", "https://a/chat", &[("sec-websocket-version", "13")]);
    request(&head, Some("websocket"), false, &Limits::default(), &mut own).unwrap();
    assert_eq!((own.method_text(), own.target(), own.upgrade, own.framing), ("GET", "/chat", true, Framing::None));
    assert_eq!(own.headers.known(Known::Upgrade), Some(&b"websocket"[..]));
}

#[test]
fn fields_of_the_connection_do_not_leave() {
    let mut own = Response { status: 200, ..Response::default() };
    for (name, value) in
        [("Connection", "x"), ("Keep-Alive", "1"), ("Transfer-Encoding", "chunked"), ("X-A", "1"), ("x-a", "2")]
    {
        own.headers.append(name, value);
    }
    let head = response_head(&own);
    let all: Vec<_> = head.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    assert_eq!(all, [("x-a", "1"), ("x-a", "2")]);
}

#[test]
fn an_upstream_s_head_is_read() {
    let head = http::Response::builder().status(200).header("content-length", "3").header("a", "b").body(()).unwrap();
    let (head, ()) = head.into_parts();
    let mut own = Response::default();
    response(&head, false, false, &mut own);
    assert_eq!((own.status, own.framing), (200, Framing::Close));
    assert_eq!(lines(&own.headers), "content-length: 3\r\na: b\r\n");
    response(&head, false, true, &mut own);
    assert_eq!(own.framing, Framing::None);
}
