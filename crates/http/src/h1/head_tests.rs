//! Heads that must be read, and those that must be refused.
use super::*;
use proptest::prelude::*;

fn parse(head: &str) -> Result<Option<(usize, Request)>, Reject> {
    let mut request = Request::default();
    Ok(parse_request(head.as_bytes(), &Limits::default(), &mut request)?.map(|n| (n, request)))
}

fn ok(head: &str) -> Request {
    match parse(head) {
        Ok(Some((n, request))) => {
            assert_eq!(n, head.len());
            request
        }
        other => panic!("{head:?}: {other:?}"),
    }
}

#[test]
fn a_plain_request() {
    let r = ok("GET /a/b?x=1&y HTTP/1.1\r\nHost: Example.com:80\r\nAccept: */*  \r\nX-Empty:\r\n\r\n");
    assert_eq!((r.method, r.target(), r.path(), r.query()), (Method::Get, "/a/b?x=1&y", "/a/b", Some("x=1&y")));
    assert_eq!((r.host(), r.keep_alive, r.framing), ("example.com", true, Framing::None));
    assert_eq!(r.headers.get("accept"), Some(&b"*/*"[..]));
    assert_eq!(r.headers.get("x-empty"), Some(&b""[..]));
    let mut out = Vec::new();
    r.headers.write_to(&mut out, |k| k == Known::Host);
    assert_eq!(out, b"Accept: */*  \r\nX-Empty:\r\n");
}

#[test]
fn hop_by_hop_fields_do_not_pass() {
    let r = ok(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Foo\r\nfoo: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nX: 1\r\n\r\n",
    );
    let mut out = Vec::new();
    r.headers.write_to(&mut out, |_| false);
    assert_eq!(out, b"Host: a\r\nX: 1\r\n");
    assert_eq!(r.headers.get("connection"), Some(&b"keep-alive, Foo"[..]));
}

#[test]
fn host_and_length_cannot_be_nominated_away() {
    let r =
        ok("POST / HTTP/1.1\r\nHost: a\r\nConnection: Host, Content-Length, X\r\nContent-Length: 3\r\nX: 1\r\n\r\n");
    let mut out = Vec::new();
    r.headers.write_to(&mut out, |_| false);
    assert_eq!(out, b"Host: a\r\nContent-Length: 3\r\n");
}

#[test]
fn versions_and_persistence() {
    assert!(!ok("GET / HTTP/1.0\r\n\r\n").keep_alive);
    assert!(ok("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive);
    assert!(!ok("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").keep_alive);
    assert!(!ok("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, keep-alive\r\n\r\n").keep_alive);
    assert!(!ok("GET / HTTP/1.0\r\nHost: a\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n").keep_alive);
    assert_eq!(parse("GET / HTTP/2.0\r\nHost: a\r\n\r\n").unwrap_err().status, 505);
    let ws = ok("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert!(ws.upgrade);
    assert!(!ok("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n").upgrade);
}

#[test]
fn absolute_form_names_the_host() {
    let r = ok("GET http://Other.org:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((r.host(), r.target(), r.path(), r.query()), ("other.org", "/x?y", "/x", Some("y")));
    let r = ok("GET http://b HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((r.host(), r.target()), ("b", "/"));
    let r = ok("GET http://b?q=1 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((r.target(), r.path(), r.query()), ("/?q=1", "/", Some("q=1")));
}

#[test]
fn ambiguous_or_malformed_heads_are_refused() {
    for fields in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Content-Length: 1\r\nContent-Length: 1",
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 1, 1",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length: 0x1",
        "Content-Length: 1 1",
        "Content-Length:",
        "Content-Length: 9999999999999999999",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding : chunked",
        "X : 1",
        " X: 1",
        "X: 1\r\n folded",
        "X: 1\r\n\tfolded",
        "X: a\0b",
        "X: a\rb",
        "X: 1\nY: 2",
        "X\x00: 1",
        "X: 1\r\nHost: b",
        ": 1",
        "X",
        "Expect: 200-ok",
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let got = parse(&head);
        assert!(matches!(got, Err(Reject { status: 400, .. })), "{fields:?}: {got:?}");
    }
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /../etc HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let got = parse(head);
        assert!(matches!(got, Err(Reject { status: 400, .. })), "{head:?}: {got:?}");
    }
}

#[test]
fn a_path_that_is_not_utf8_can_still_be_matched() {
    let r = ok("GET /admin/%ff?x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((r.path(), r.target()), ("/admin/\u{fffd}", "/admin/%ff?x"));
    let raw = b"GET /a\xff HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(parse_request(raw, &Limits::default(), &mut Request::default()).is_err());
}

#[test]
fn limits() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9000));
    assert_eq!(parse(&long).unwrap_err().status, 414);
    assert_eq!(parse(&format!("GET /{}", "a".repeat(9000))).unwrap_err().status, 414);
    let wide = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(40000));
    assert_eq!(parse(&wide).unwrap_err().status, 431);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(101));
    assert_eq!(parse(&many).unwrap_err().status, 431);
    let more = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(500));
    assert_eq!(parse(&more).unwrap_err().status, 431);
}

fn answer(head: &str, to_head: bool) -> Result<Option<(usize, Response)>, BadResponse> {
    let mut response = Response::default();
    Ok(parse_response(head.as_bytes(), 65536, to_head, &mut response)?.map(|n| (n, response)))
}

#[test]
fn response_framing() {
    let framing = |head: &str, to_head| answer(head, to_head).unwrap().unwrap().1.framing;
    assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false), Framing::Length(5));
    assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true), Framing::None);
    assert_eq!(framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false), Framing::None);
    assert_eq!(framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false), Framing::Chunked);
    assert_eq!(framing("HTTP/1.1 200\r\n\r\n", false), Framing::Close);
    for bad in
        ["HTTP/1.1 200 OK\n\r\n", "HTTP/1.1 200\n\r\n", "\r\nHTTP/1.1 200 OK\r\n\r\n", "\nHTTP/1.1 200 OK\r\n\r\n"]
    {
        assert!(answer(bad, false).is_err(), "{bad:?}");
    }
    let old = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(!answer(old, false).unwrap().unwrap().1.keep_alive);
    let (_, r) = answer("HTTP/1.1 200 Fine\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", false).unwrap().unwrap();
    assert_eq!((r.reason(), r.keep_alive), (&b"Fine"[..], false));
    for bad in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 200 OK\nX: 1\n\n",
        "garbage\r\n\r\n",
    ] {
        assert!(answer(bad, false).is_err(), "{bad:?}");
    }
}

proptest! {
    /// A head is read the same however much of it has come before: no prefix is taken for a whole head.
    #[test]
    fn prefixes_are_incomplete(cut in 0usize..60) {
        let head = "POST /p?q HTTP/1.1\r\nHost: a\r\nX: 1\r\nContent-Length: 2\r\n\r\n";
        let cut = cut.min(head.len() - 1);
        prop_assert!(matches!(parse(&head[..cut]), Ok(None)), "{cut}");
    }

    /// Arbitrary bytes never panic, and what is accepted has one framing.
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut request = Request::default();
        let _ = parse_request(&bytes, &Limits::default(), &mut request);
        let mut response = Response::default();
        let _ = parse_response(&bytes, 65536, false, &mut response);
    }

    /// Mutations of a real head never panic.
    #[test]
    fn mutations_never_panic(at in 0usize..100, byte in any::<u8>()) {
        let mut head = b"POST /a%20b/../c?x=1 HTTP/1.1\r\nHost: a.b:80\r\nConnection: x, close\r\nContent-Length: 10\r\nX: 1\r\n\r\n".to_vec();
        let at = at % head.len();
        head[at] = byte;
        let mut request = Request::default();
        if let Ok(Some(_)) = parse_request(&head, &Limits::default(), &mut request) {
            let mut out = Vec::new();
            request.headers.write_to(&mut out, |_| false);
            prop_assert!(out.is_empty() || out.ends_with(b"\r\n"));
        }
    }
}
