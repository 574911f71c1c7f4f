//! Requests that two parsers could read in two ways are refused, and never reach the upstream (RFC 9112, 3, 5, 6, 11).

use crate::start::pair;
use sluice_testkit::Wire;

/// What it is, and the bytes. Each must be answered 400 and the connection closed.
const REFUSED: &[(&str, &str)] = &[
    ("both framings", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("differing lengths", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    ("length list that differs", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 6\r\n\r\nhello!"),
    ("signed length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello"),
    ("negative length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\n"),
    ("hexadecimal length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x5\r\n\r\nhello"),
    ("empty length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n"),
    ("length beyond 64 bits", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n"),
    ("chunked not last", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("chunked twice", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("unknown coding", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    (
        "coding with a control character",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "two codings in two lines",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    ),
    ("chunked in HTTP/1.0", "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("folded header", "GET / HTTP/1.1\r\nHost: h\r\nX-A: b\r\n c\r\n\r\n"),
    ("NUL in a value", "GET / HTTP/1.1\r\nHost: h\r\nX-A: b\0c\r\n\r\n"),
    ("CR in a value", "GET / HTTP/1.1\r\nHost: h\r\nX-A: b\rc\r\n\r\n"),
    ("bare LF after a header", "GET / HTTP/1.1\r\nHost: h\nX-A: b\r\n\r\n"),
    ("bare LF everywhere", "GET / HTTP/1.1\nHost: h\n\n"),
    ("space before the colon", "GET / HTTP/1.1\r\nHost: h\r\nContent-Length : 5\r\n\r\n"),
    ("header without a name", "GET / HTTP/1.1\r\nHost: h\r\n: b\r\n\r\n"),
    ("header without a colon", "GET / HTTP/1.1\r\nHost: h\r\nX-A\r\n\r\n"),
    ("no Host", "GET / HTTP/1.1\r\nX-A: b\r\n\r\n"),
    ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("space in the target", "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("control character in the target", "GET /a\u{1}b HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("tab in the request line", "GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("relative target", "GET a HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("method with a separator", "GE(T / HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("unknown version", "GET / HTTP/1.2x\r\nHost: h\r\n\r\n"),
    ("chunk size not hexadecimal", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
    ("chunk size with a sign", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n"),
    (
        "chunk size beyond 64 bits",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na",
    ),
    ("chunk without its CRLF", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n"),
    (
        "chunk size ended by a bare LF",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
    ),
];

/// A second request behind the ambiguous one: if it is ever answered or forwarded, something was smuggled.
const BEHIND: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn ambiguous_requests_are_answered_400_and_closed() {
    let (upstream, gateway) = pair();
    let mut wrong = Vec::new();
    for (what, bytes) in REFUSED {
        let mut wire = gateway.connect().unwrap();
        match wire.request(format!("{bytes}{BEHIND}")) {
            Ok(answer) if answer.status == 400 => {
                if !wire.closed() {
                    wrong.push(format!("{what}: the connection stays open or answers again"));
                }
            }
            Ok(answer) => wrong.push(format!("{what}: {}", answer.status)),
            Err(error) => wrong.push(format!("{what}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let smuggled: Vec<_> = upstream.seen().into_iter().filter(|s| s.path() == "/smuggled").collect();
    assert!(smuggled.is_empty(), "{smuggled:?}");
    assert_eq!(Wire::connect(gateway.addr()).unwrap().get("/").unwrap().status, 200, "other connections live on");
}

#[test]
fn too_large_heads_and_targets_are_431_and_414() {
    let (_upstream, gateway) = pair();
    let target = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(70_000));
    assert_eq!(gateway.connect().unwrap().request(target).unwrap().status, 414);
    let header = format!("GET / HTTP/1.1\r\nHost: h\r\nX-A: {}\r\n\r\n", "a".repeat(70_000));
    // nginx answers 400 with the page "Request Header Or Cookie Too Large"; Sluice says 431 (RFC 6585, 5).
    let status = gateway.connect().unwrap().request(header).unwrap().status;
    assert!(status == 431 || status == 400, "{status}");
}

#[test]
fn hop_by_hop_headers_do_not_pass() {
    let (upstream, gateway) = pair();
    let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: x-private, keep-alive\r\nX-Private: 1\r\nKeep-Alive: 5\r\n\
                   Proxy-Connection: x\r\nTE: trailers\r\nX-Public: 1\r\n\r\n";
    assert_eq!(gateway.connect().unwrap().request(request).unwrap().status, 200);
    let seen = upstream.seen().remove(0);
    for name in ["x-private", "keep-alive", "proxy-connection"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("x-public"), Some("1"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (_upstream, gateway) = pair();
    let mut wire = gateway.connect().unwrap();
    let all: String = (0..20).map(|i| format!("GET /{i} HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    wire.send(all).unwrap();
    for i in 0..20 {
        let answer = wire.read_answer(false).unwrap();
        assert_eq!(answer.json()["target"], format!("/{i}"));
    }
}
