//! Upstreams that die, lie or cannot be reached.

use crate::start::{all_to, gateway, pair};
use serde_json::{Value, json};
use sluice_testkit::{Behaviour, Upstream, WireError, ports::free_port};
use std::time::Duration;

#[test]
fn an_upstream_that_dies_in_its_answer_is_not_completed() {
    let (upstream, gateway) = pair();
    upstream.on("/cut", Behaviour::CloseMidBody { declared: 1000, sent: 10 });
    let error = gateway.connect().unwrap().get("/cut").unwrap_err();
    assert!(matches!(&error, WireError::Closed { got } if got.len() <= 10), "{error}");
    assert_eq!(gateway.connect().unwrap().get("/").unwrap().status, 200);
}

#[test]
fn a_chunked_answer_cut_short_has_no_last_chunk() {
    let (upstream, gateway) = pair();
    upstream.on(
        "/cut",
        Behaviour::RawClose(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec()),
    );
    let error = gateway.connect().unwrap().get("/cut").unwrap_err();
    assert!(matches!(error, WireError::Closed { .. }), "{error}");
}

#[test]
fn malformed_answers_are_502_and_their_connection_is_not_used_again() {
    let (upstream, gateway) = pair();
    let malformed: &[&str] = &[
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 0\r\n\r\n",
    ];
    for bytes in malformed {
        upstream.on("/bad", Behaviour::Raw(bytes.as_bytes().to_vec()));
        let answer = gateway.connect().unwrap().get("/bad").unwrap();
        assert_eq!(answer.status, 502, "{bytes:?}");
        let bad = upstream.take_seen().pop().unwrap().connection;
        assert_eq!(gateway.connect().unwrap().get("/").unwrap().status, 200);
        assert_ne!(upstream.take_seen().pop().unwrap().connection, bad, "{bytes:?}: used again");
    }
}

#[test]
fn bytes_behind_an_answer_spoil_the_connection() {
    let (upstream, gateway) = pair();
    let extra =
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".to_vec();
    upstream.on("/extra", Behaviour::Raw(extra));
    let mut wire = gateway.connect().unwrap();
    assert_eq!(wire.get("/extra").unwrap().body, b"ok");
    let next = wire.get("/next").unwrap();
    assert_eq!(next.json()["target"], "/next");
}

#[test]
fn nobody_listening_is_502_and_silence_is_504() {
    let closed = format!("127.0.0.1:{}", free_port());
    let upstream = Upstream::start().unwrap();
    upstream.on("/silent", Behaviour::Silence);
    let resources = json!({"routes": [
        {"id": 1, "uri": "/closed", "upstream": {"type": "roundrobin", "nodes": {closed: 1}}},
        {"id": 2, "uri": "/silent", "upstream": {"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1},
            "retries": 0, "timeout": {"connect": 1, "send": 1, "read": 0.3}}},
    ]});
    let gateway = gateway(&Value::Null, &resources);
    let mut wire = gateway.connect().unwrap();
    assert_eq!(wire.get("/closed").unwrap().status, 502);
    assert_eq!(wire.get("/silent").unwrap().status, 504);
    assert_eq!(wire.get("/none").unwrap().text(), "{\"error_msg\":\"404 Route Not Found\"}\n");
}

#[test]
fn a_refused_connection_goes_to_the_next_node() {
    let upstream = Upstream::start().unwrap();
    let closed = format!("127.0.0.1:{}", free_port());
    let nodes = json!({closed: 1, upstream.addr().to_string(): 1});
    let gateway = gateway(
        &Value::Null,
        &json!({"routes": [{"id": 1, "uri": "/*", "upstream": {"type": "roundrobin", "nodes": nodes}}]}),
    );
    let mut wire = gateway.connect().unwrap();
    for _ in 0..10 {
        assert_eq!(wire.get("/").unwrap().status, 200);
    }
    assert_eq!(upstream.requests(), 10);
}

#[test]
fn a_pooled_connection_that_was_closed_is_retried_on_a_fresh_one() {
    let upstream = Upstream::start().unwrap();
    let gateway = gateway(&Value::Null, &all_to(&upstream));
    let mut wire = gateway.connect().unwrap();
    assert_eq!(wire.get("/").unwrap().status, 200);
    upstream.on("/bye", Behaviour::RawClose(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()));
    for _ in 0..20 {
        assert_eq!(wire.get("/bye").unwrap().status, 200);
        assert_eq!(wire.get("/").unwrap().status, 200);
    }
    assert!(upstream.wait_for(41, Duration::from_secs(1)));
}
