//! Bodies and connections that take their time: streams, interim answers, upgrades.

use crate::start::{all_to, gateway, pair};
use serde_json::{Value, json};
use sluice_testkit::{Behaviour, Upstream};
use std::time::{Duration, Instant};

#[test]
fn events_arrive_one_by_one() {
    let (upstream, gateway) = pair();
    let pause = Duration::from_millis(400);
    upstream.on("/events", Behaviour::Events { events: vec!["one".into(), "two".into()], pause });
    let mut wire = gateway.connect().unwrap();
    wire.send("GET /events HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    wire.read_past(b"data: one\n\n").unwrap();
    let first = Instant::now();
    wire.read_past(b"data: two\n\n").unwrap();
    assert!(first.elapsed() >= pause / 2, "the first event was held back");
}

#[test]
fn bodies_pass_whole_in_both_framings() {
    let (upstream, gateway) = pair();
    let large = vec![b'x'; 300_000];
    upstream.on("/chunks", Behaviour::Chunked { chunks: vec![large.clone(), large.clone()], pause: Duration::ZERO });
    let mut wire = gateway.connect().unwrap();
    assert_eq!(wire.get("/chunks").unwrap().body.len(), 600_000);
    let mut request = format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", large.len()).into_bytes();
    request.extend(&large);
    assert_eq!(wire.request(request).unwrap().status, 200);
    let mut request = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for part in large.chunks(7000) {
        request.extend(format!("{:x};ext=1\r\n", part.len()).bytes());
        request.extend(part);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\nX-Trailer: 1\r\n\r\n");
    assert_eq!(wire.request(request).unwrap().status, 200);
    let bodies: Vec<usize> = upstream.seen().iter().map(|s| s.body.len()).collect();
    assert_eq!(bodies, [0, 300_000, 300_000]);
}

#[test]
fn expect_continue_is_answered_before_the_body() {
    let (upstream, gateway) = pair();
    let mut wire = gateway.connect().unwrap();
    wire.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").unwrap();
    wire.read_past(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    wire.send("hi").unwrap();
    assert_eq!(wire.read_answer(false).unwrap().status, 200);
    assert_eq!(upstream.seen().remove(0).body, b"hi");
}

#[test]
fn head_204_and_304_have_no_body() {
    let (upstream, gateway) = pair();
    upstream.on("/none", Behaviour::answer(204, ""));
    upstream.on("/same", Behaviour::answer(304, ""));
    let mut wire = gateway.connect().unwrap();
    assert_eq!(wire.request("HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n").unwrap().status, 200);
    assert_eq!(wire.get("/none").unwrap().status, 204);
    assert_eq!(wire.get("/same").unwrap().status, 304);
    assert_eq!(wire.get("/after").unwrap().json()["target"], "/after");
}

#[test]
fn interim_answers_of_the_upstream_do_not_end_the_exchange() {
    let (upstream, gateway) = pair();
    upstream.on("/early", Behaviour::Interim(vec![103], Box::new(Behaviour::answer(200, "late"))));
    assert_eq!(gateway.connect().unwrap().get("/early").unwrap().text(), "late");
}

#[test]
fn websockets_pass_where_the_route_allows_them() {
    let upstream = Upstream::start().unwrap();
    upstream.otherwise(Behaviour::Upgrade);
    let mut resources = all_to(&upstream);
    resources["routes"][0]["enable_websocket"] = json!(true);
    let gateway = gateway(&Value::Null, &resources);
    let mut wire = gateway.connect().unwrap();
    let request = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    assert_eq!(wire.request(request).unwrap().status, 101);
    for text in ["one", "two"] {
        wire.send(text).unwrap();
        assert_eq!(wire.read_exact(3).unwrap(), text.as_bytes());
    }
}
