//! Nodes that speak HTTP/2: schemes `h2` and `h2c`, translation both ways, refused streams, leaving nodes, probes, retries and
//! breakers by gRPC's status.

use super::node::{Manner, Node};
use super::{LIMIT, ask, connect, get, run, send, whole};
use crate::start::gateway;
use bytes::Bytes;
use http::{HeaderMap, Request};
use serde_json::{Value, json};
use sluice_testkit::{Authority, Behaviour, Gateway, Upstream};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn through(nodes: &[&Node], scheme: &str, more: Value) -> Gateway {
    let all: serde_json::Map<String, Value> = nodes.iter().map(|n| (n.addr.to_string(), json!(1))).collect();
    let mut own = json!({"type": "roundrobin", "scheme": scheme, "nodes": all});
    own.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let settings = json!({"nginx_config": {"worker_processes": 1}});
    gateway(&settings, &json!({"routes": [{"id": "1", "uri": "/*", "enable_websocket": true, "upstream": own}]}))
}

#[test]
fn requests_of_http_1_are_translated_both_ways() {
    let node = Node::start(Manner::default());
    let gateway = through(&[&node], "h2c", json!({}));
    let mut wire = gateway.connect().unwrap();
    let request = "GET /a?b=c HTTP/1.1\r\nHost: shop.test\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
        TE: trailers\r\nX-Real-IP: 9.9.9.9\r\nX-Forwarded-For: 8.8.8.8\r\nX-Two: a\r\nX-Two: b\r\n\r\n";
    let answer = wire.request(request).unwrap();
    assert_eq!((answer.status, answer.header("transfer-encoding")), (200, Some("chunked")));
    let seen = answer.json();
    assert_eq!((&seen["method"], &seen["path"], &seen["scheme"]), (&json!("GET"), &json!("/a?b=c"), &json!("http")));
    assert_eq!(seen["authority"], "shop.test");
    let headers = &seen["headers"];
    assert_eq!((&headers["x-two"], &headers["te"]), (&json!("a, b"), &json!("trailers")));
    assert_eq!((&headers["x-real-ip"], &headers["x-forwarded-for"]), (&json!("9.9.9.9"), &json!("8.8.8.8, 9.9.9.9")));
    assert_eq!((&headers["x-forwarded-proto"], &headers["x-forwarded-host"]), (&json!("http"), &json!("shop.test")));
    for hop in ["x-hop", "keep-alive", "connection", "host"] {
        assert!(headers.get(hop).is_none(), "{hop}");
    }
    // Bodies of every framing, and none.
    let post = "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(wire.request(post).unwrap().json()["body"], "abc");
    wire.send("HEAD /empty HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(wire.read_answer(true).unwrap().status, 204);
    assert_eq!(wire.get("/empty").unwrap().status, 204);
    let hinted = wire.get("/hints").unwrap();
    assert_eq!((hinted.status, hinted.interim), (200, vec![103]));
    assert_eq!(node.connections(), 1, "all of them share one");
}

#[test]
fn trailers_pass_between_versions_and_never_become_fields() {
    let node = Node::start(Manner::default());
    let gateway = through(&[&node], "h2c", json!({}));
    let chunked = "POST /trailers HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n0\r\nX-Sum: 1\r\nHost: evil\r\nContent-Length: 99\r\nAuthorization: x\r\n\r\n";
    let answer = gateway.connect().unwrap().request(chunked).unwrap();
    let seen = answer.json();
    assert_eq!((&seen["body"], &seen["trailers"]), (&json!("abc"), &json!({"x-sum": "1"})));
    assert!(seen["headers"].get("x-sum").is_none() && seen["headers"].get("authorization").is_none(), "{seen}");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "abc".to_owned())]);
    run(async {
        let client = connect(gateway.addr()).await;
        let mut sender = client.clone().ready().await.unwrap();
        let request = Request::post(format!("http://{}/trailers", gateway.addr())).body(()).unwrap();
        let (response, mut up) = sender.send_request(request, false).unwrap();
        up.send_data(Bytes::from("xyz"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-own", "2".parse().unwrap());
        up.send_trailers(trailers).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await {
            bytes.extend_from_slice(&data.unwrap());
        }
        let seen: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((&seen["body"], &seen["trailers"]), (&json!("xyz"), &json!({"x-own": "2"})));
        assert_eq!(body.trailers().await.unwrap().unwrap()["x-sum"], "abc");
    });
}

#[test]
fn trailers_of_http_1_nodes_reach_clients_of_http_2() {
    let upstream = Upstream::start().unwrap();
    let raw = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a\r\n\r\n";
    upstream.on("/t", Behaviour::Raw(raw.into()));
    let gateway = gateway(&Value::Null, &crate::start::all_to(&upstream));
    run(async {
        let client = connect(gateway.addr()).await;
        let mut sender = client.clone().ready().await.unwrap();
        let response = sender.send_request(get(&gateway, "/t"), true).unwrap().0.await.unwrap();
        let mut body = response.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "abc");
        while let Some(rest) = body.data().await {
            assert_eq!(rest.unwrap(), "");
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &"1".parse().unwrap()));
        // A request's trailers are none of a node's that may take them for fields.
        let request = Request::post(format!("http://{}/echo", gateway.addr())).body(()).unwrap();
        let (response, mut up) = client.clone().ready().await.unwrap().send_request(request, false).unwrap();
        up.send_data(Bytes::from("b"), false).unwrap();
        up.send_trailers(trailers).unwrap();
        let seen: Value = serde_json::from_slice(&whole(response.await.unwrap()).await.unwrap()).unwrap();
        assert_eq!((&seen["body"], seen["headers"].get("x-sum")), (&json!("b"), None));
    });
}

#[test]
fn h2_is_agreed_upon_or_http_1_is_spoken() {
    let authority = Authority::new("nodes").unwrap();
    let pair = authority.server(&["localhost"]).unwrap();
    for (offered, wanted) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "old"), (&[], "old")] {
        let mut config = (*pair.server_config().unwrap()).clone();
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let node = Node::start(Manner { tls: Some(Arc::new(config)), ..Manner::default() });
        let gateway = through(&[&node], "h2", json!({}));
        let mut wire = gateway.connect().unwrap();
        for _ in 0..3 {
            let answer = wire.get("/x").unwrap();
            assert_eq!(answer.status, 200, "{}", gateway.log_text());
            match wanted {
                "h2" => assert_eq!(answer.json()["scheme"], "https"),
                _ => assert_eq!(answer.text(), "old"),
            }
        }
        assert_eq!((node.connections(), node.requests()), (1, 3), "{wanted}: connections are kept");
    }
}

/// A node that answers so many requests of a connection, at once and without a body, and then leaves: GOAWAY names the last one,
/// those behind it were not looked at. It knows no HPACK: 0x88 is `:status: 200`.
fn leaving(after: usize) -> (SocketAddr, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (opened, answered) = (connections.clone(), requests.clone());
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (mut socket, answered) = (socket.unwrap(), answered.clone());
            opened.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || drop(leave(&mut socket, after, &answered)));
        }
    });
    (addr, connections, requests)
}

fn leave(socket: &mut std::net::TcpStream, after: usize, answered: &AtomicUsize) -> std::io::Result<()> {
    let mut preface = [0; 24];
    socket.read_exact(&mut preface)?;
    socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])?;
    let (mut count, mut done, mut last) = (0, 0, 0);
    while count <= after || done < after {
        let mut head = [0; 9];
        socket.read_exact(&mut head)?;
        let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        socket.read_exact(&mut payload)?;
        let (kind, flags, stream) = (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        if kind == 4 && flags & 1 == 0 {
            socket.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0])?;
        }
        if kind == 1 {
            count += 1;
            if count <= after {
                last = stream;
            } else if count == after + 1 {
                socket.write_all(&[&[0, 0, 8, 7, 0, 0, 0, 0, 0], &last.to_be_bytes()[..], &[0; 4]].concat())?;
            }
        }
        if matches!(kind, 0 | 1) && flags & 1 == 1 && stream <= last {
            done += 1;
            answered.fetch_add(1, Ordering::SeqCst);
            socket.write_all(&[&[0, 0, 1, 1, 5], &stream.to_be_bytes()[..], &[0x88]].concat())?;
        }
    }
    // A reset for what was not read must not overtake the answers.
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}

fn to(addr: SocketAddr, more: Value) -> Gateway {
    let mut own = json!({"type": "roundrobin", "scheme": "h2c", "nodes": {addr.to_string(): 1}});
    own.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let settings = json!({"nginx_config": {"worker_processes": 1}});
    gateway(&settings, &json!({"routes": [{"id": "1", "uri": "/*", "upstream": own}]}))
}

#[test]
fn what_a_node_has_not_looked_at_costs_no_try() {
    // A lone node without retries, and POSTs: nothing was done with them.
    let (addr, connections, requests) = leaving(3);
    let gateway = to(addr, json!({"retries": 0}));
    let mut wire = gateway.connect().unwrap();
    for _ in 0..10 {
        let answer = wire.request("POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc").unwrap();
        assert_eq!(answer.status, 200, "{}", gateway.log_text());
    }
    assert_eq!((connections.load(Ordering::SeqCst), requests.load(Ordering::SeqCst)), (4, 10), "each once");
}

#[test]
fn many_that_a_leaving_node_drops_share_the_next_connection() {
    let (addr, connections, requests) = leaving(20);
    let gateway = to(addr, json!({"retries": 0}));
    run(async {
        let client = connect(gateway.addr()).await;
        let mut all = tokio::task::JoinSet::new();
        for i in 0..50 {
            let client = client.clone();
            let request = Request::post(format!("http://{}/p", gateway.addr())).body(()).unwrap();
            all.spawn_local(async move { send(&client, request, &[format!("{i}").as_bytes()]).await.0 });
        }
        assert_eq!(all.join_all().await, [200; 50], "{}", gateway.log_text());
    });
    assert_eq!(requests.load(Ordering::SeqCst), 50, "each once");
    assert!(connections.load(Ordering::SeqCst) <= 6, "{connections:?}");
}

#[test]
fn a_refused_stream_is_sent_again_once() {
    let node = Node::start(Manner { refuses: 1, ..Manner::default() });
    let gateway = through(&[&node], "h2c", json!({"retries": 2, "retry_on": ["connection_error"]}));
    let mut wire = gateway.connect().unwrap();
    assert_eq!(wire.get("/a").unwrap().status, 200, "{}", gateway.log_text());
    let strict = Node::start(Manner { refuses: usize::MAX, ..Manner::default() });
    let gateway = through(&[&strict], "h2c", json!({"retries": 0}));
    assert_eq!(gateway.connect().unwrap().get("/a").unwrap().status, 502);
}

#[test]
fn a_node_of_few_streams_is_asked_over_more_connections() {
    let node = Node::start(Manner { streams: Some(2), ..Manner::default() });
    let gateway = through(&[&node], "h2c", json!({}));
    run(async {
        let client = connect(gateway.addr()).await;
        assert_eq!(ask(&client, get(&gateway, "/first")).await.0, 200);
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let (client, request) = (client.clone(), get(&gateway, "/slow"));
            all.spawn_local(async move { ask(&client, request).await.0 });
        }
        assert_eq!(all.join_all().await, [200; 6]);
    });
    assert!((3..=6).contains(&node.connections()), "{}", node.connections());
}

#[test]
fn probes_speak_what_the_nodes_do() {
    let node = Node::start(Manner::default());
    let checks = json!({"active": {"http_path": "/status", "healthy": {"interval": 1}, "unhealthy": {"interval": 1}}});
    let _gateway = through(&[&node], "h2c", json!({"checks": checks}));
    let until = Instant::now() + LIMIT;
    while node.requests() == 0 {
        assert!(Instant::now() < until, "no probe came");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(node.connections(), node.requests());
}

fn call(gateway: &Gateway, path: &str) -> Request<()> {
    let uri = format!("http://{}{path}", gateway.addr());
    Request::post(uri).header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

/// Sends a call with one message; its status of gRPC.
async fn status(gateway: &Gateway, path: &str) -> String {
    let client = connect(gateway.addr()).await;
    let mut sender = client.ready().await.unwrap();
    let (response, mut up) = sender.send_request(call(gateway, path), false).unwrap();
    up.send_data(Bytes::from("message"), true).unwrap();
    let response = response.await.unwrap();
    if let Some(status) = response.headers().get("grpc-status") {
        return status.to_str().unwrap().to_owned();
    }
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        data.unwrap();
    }
    body.trailers().await.unwrap().unwrap()["grpc-status"].to_str().unwrap().to_owned()
}

#[test]
fn calls_are_repeated_by_their_status_where_asked() {
    let node = Node::start(Manner::default());
    let retries = json!({"retries": 2, "retry_on": ["grpc-unavailable", "grpc_resource_exhausted"], "retry_backoff": {"base_interval": 0.001}});
    let gateway = through(&[&node], "grpc", retries);
    run(async {
        for (path, wanted, tries) in [
            ("/call/14", "14", 3),
            ("/call/8", "8", 3),
            // In a frame of its own, but before anything was passed on.
            ("/call/14?late", "14", 3),
            ("/call/13", "13", 1),
            ("/call/0", "0", 1),
            // A message was passed on.
            ("/call/14?message", "14", 1),
        ] {
            let before = node.requests();
            assert_eq!(status(&gateway, path).await, wanted, "{path}");
            assert_eq!(node.requests() - before, tries, "{path}");
        }
    });
    let plain = through(&[&node], "grpc", json!({"retries": 2}));
    run(async {
        let before = node.requests();
        assert_eq!(status(&plain, "/call/14").await, "14");
        assert_eq!(node.requests() - before, 1);
    });
}

#[test]
fn breakers_and_ejection_count_calls_that_fail() {
    let node = Node::start(Manner::default());
    let breaker = json!({"circuit_breaker": {"max_failures": 2, "unhealthy": {"grpc_statuses": ["unavailable"], "interval": 60}}});
    let gateway = through(&[&node], "grpc", breaker);
    run(async {
        for wanted in ["13", "13", "14", "14"] {
            assert_eq!(status(&gateway, &format!("/call/{wanted}")).await, wanted);
        }
        let before = node.requests();
        assert_eq!(status(&gateway, "/call/0").await, "14", "open: the gateway's own");
        assert_eq!(node.requests(), before);
    });
    let checks = json!({"checks": {"all_unhealthy": "fail", "passive": {"unhealthy": {"http_failures": 2, "grpc_statuses": ["unavailable"], "ejection_time": 60}}}});
    let gateway = through(&[&node], "grpc", checks);
    run(async {
        // The one that fails behind its message counts as well.
        for path in ["/call/14", "/call/14?message"] {
            assert_eq!(status(&gateway, path).await, "14");
        }
        let before = node.requests();
        assert_eq!(status(&gateway, "/call/0").await, "14");
        assert_eq!(node.requests(), before, "{}", gateway.log_text());
    });
}
