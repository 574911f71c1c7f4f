//! WebSocket through the gateway, over HTTP/1.1 and HTTP/2 on either side: how long it may be silent, how it is counted, refused,
//! and ended when the gateway goes.

use crate::http2::node::{Manner, Node};
use crate::http2::{LIMIT, connect, run};
use crate::start::gateway;
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use sluice_testkit::{Authority, Behaviour, Gateway, Upstream};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
/// Close with status 1012.
const CLOSE: [u8; 4] = [0x88, 2, 0x03, 0xf4];

fn to(addr: SocketAddr, settings: Value, upstream: Value, route: Value) -> Gateway {
    let mut own = json!({"type": "roundrobin", "nodes": {addr.to_string(): 1}});
    own.as_object_mut().unwrap().extend(upstream.as_object().unwrap().clone());
    let mut all = json!({"id": "1", "uri": "/*", "enable_websocket": true, "upstream": own});
    all.as_object_mut().unwrap().extend(route.as_object().unwrap().clone());
    gateway(&settings, &json!({"routes": [all]}))
}

fn tcp(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

fn head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A client whose handshake was answered with 101.
fn open(gateway: &Gateway) -> TcpStream {
    let mut socket = tcp(gateway.addr());
    socket.write_all(HANDSHAKE.as_bytes()).unwrap();
    let head = head(&mut socket);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    socket
}

fn exactly(socket: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    socket.read_exact(&mut bytes).unwrap();
    bytes
}

fn ended(socket: &mut TcpStream) -> bool {
    match socket.read(&mut [0]) {
        Ok(n) => n == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// A node that is asked for one WebSocket, and what it was asked.
fn accept(listener: &TcpListener) -> (TcpStream, String) {
    let (mut socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let asked = head(&mut socket);
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    socket.write_all(answer.as_bytes()).unwrap();
    (socket, asked)
}

fn soon_gone() -> Value {
    json!({"nginx_config": {"worker_shutdown_timeout": "1s"}})
}

#[test]
fn the_end_of_the_gateway_is_told_in_whole_frames() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut gateway = to(listener.local_addr().unwrap(), soon_gone(), json!({}), json!({}));
    let (mut client, (mut node, asked)) = std::thread::scope(|scope| {
        let node = scope.spawn(|| accept(&listener));
        (open(&gateway), node.join().unwrap())
    });
    for line in [
        "Upgrade: websocket",
        "Connection: upgrade",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Sec-WebSocket-Protocol: chat",
    ] {
        assert!(asked.lines().any(|own| own.eq_ignore_ascii_case(line)), "{line}: {asked}");
    }
    // A second pair is silent between two frames.
    let (mut quiet, (mut quiet_node, _)) = std::thread::scope(|scope| {
        let node = scope.spawn(|| accept(&listener));
        (open(&gateway), node.join().unwrap())
    });
    quiet_node.write_all(&[0x81, 1, b'q']).unwrap();
    assert_eq!(exactly(&mut quiet, 3), [0x81, 1, b'q']);
    // The node is in the middle of a frame of six bytes.
    node.write_all(&[0x81, 6, b'a', b'b', b'c']).unwrap();
    assert_eq!(exactly(&mut client, 5), [0x81, 6, b'a', b'b', b'c']);
    gateway.terminate().unwrap();
    // Between two frames each side is told at once.
    assert_eq!(exactly(&mut quiet, 4), CLOSE);
    let told = exactly(&mut quiet_node, 8);
    assert_eq!((&told[..2], told[6] ^ told[2], told[7] ^ told[3]), (&[0x88, 0x82][..], 3, 0xf4), "masked");
    let told = exactly(&mut node, 8);
    assert_eq!(told[..2], [0x88, 0x82], "the other way is between two frames");
    // Of the frame under way the rest passes, then the Close, and nothing behind it.
    node.write_all(&[b'd', b'e', b'f', 0x81, 1, b'x']).unwrap();
    assert_eq!(exactly(&mut client, 7), [b"def", &CLOSE[..]].concat());
    // Both answer: nobody waits any longer.
    for socket in [&mut quiet_node, &mut node] {
        socket.write_all(&CLOSE).unwrap();
    }
    for socket in [&mut quiet, &mut client] {
        socket.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xf4]).unwrap();
        assert!(ended(socket));
    }
    assert!(gateway.wait(LIMIT).unwrap().success());
}

#[test]
fn over_http_2_the_end_is_told_too() {
    let upstream = Upstream::start().unwrap();
    upstream.on("/chat", Behaviour::Upgrade);
    let mut gateway = to(upstream.addr(), soon_gone(), json!({}), json!({}));
    run(async {
        let client = connect(gateway.addr()).await;
        let (response, mut up) = tunnel(&gateway, &client, "/chat").await;
        let mut down = response.into_body();
        up.send_data(Bytes::from_static(&[0x82, 0x81, 0, 0, 0, 0, b'x']), false).unwrap();
        assert_eq!(&down.data().await.unwrap().unwrap()[..], [0x82, 0x81, 0, 0, 0, 0, b'x'], "echoed");
        gateway.terminate().unwrap();
        let mut rest = Vec::new();
        while rest.len() < 4 {
            rest.extend_from_slice(&down.data().await.unwrap().unwrap());
        }
        assert_eq!(rest[..4], CLOSE);
    });
    assert!(gateway.wait(LIMIT).unwrap().success());
}

async fn tunnel(
    gateway: &Gateway,
    client: &h2::client::SendRequest<Bytes>,
    path: &str,
) -> (http::Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    // SETTINGS_ENABLE_CONNECT_PROTOCOL must have arrived.
    let mut sender = client.clone().ready().await.unwrap();
    while !sender.is_extended_connect_protocol_enabled() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut request = Request::connect(format!("http://{}{path}", gateway.addr())).body(()).unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    let (response, up) = sender.send_request(request, false).unwrap();
    (response.await.unwrap(), up)
}

#[test]
fn nodes_that_speak_http_2_get_a_tunnel() {
    let node = Node::start(Manner::default());
    let gateway = to(node.addr, Value::Null, json!({"scheme": "h2c"}), json!({}));
    let mut socket = tcp(gateway.addr());
    socket.write_all(HANDSHAKE.as_bytes()).unwrap();
    let head = head(&mut socket).to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    for line in [
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
        "seen-key: false",
    ] {
        assert_eq!(head.lines().filter(|own| *own == line).count(), 1, "{line}: {head}");
    }
    for word in [b"one", b"two"] {
        socket.write_all(word).unwrap();
        assert_eq!(exactly(&mut socket, 3), word);
    }
    drop(socket);
    run(async {
        let client = connect(gateway.addr()).await;
        let (response, mut up) = tunnel(&gateway, &client, "/chat").await;
        assert_eq!(response.status(), 200);
        let mut down = response.into_body();
        up.send_data(Bytes::from("hello"), false).unwrap();
        assert_eq!(down.data().await.unwrap().unwrap(), "hello");
        up.send_data(Bytes::new(), true).unwrap();
        while let Some(rest) = down.data().await {
            assert_eq!(rest.unwrap(), "");
        }
        assert_eq!(tunnel(&gateway, &client, "/refused").await.0.status(), 403);
    });
    assert!(node.connections() <= 2, "tunnels share connections: {}", node.connections());
}

#[test]
fn nodes_that_open_no_tunnel_are_asked_in_http_1() {
    let authority = Authority::new("nodes").unwrap();
    let mut config = (*authority.server(&["localhost"]).unwrap().server_config().unwrap()).clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let node = Node::start(Manner { tls: Some(Arc::new(config)), no_tunnels: true, ..Manner::default() });
    let gateway = to(node.addr, Value::Null, json!({"scheme": "h2"}), json!({}));
    assert_eq!(gateway.connect().unwrap().get("/x").unwrap().json()["scheme"], "https", "{}", gateway.log_text());
    let mut socket = open(&gateway);
    socket.write_all(b"abc").unwrap();
    assert_eq!(exactly(&mut socket, 3), b"abc");
    // Without TLS there is nothing to agree upon.
    let node = Node::start(Manner { no_tunnels: true, ..Manner::default() });
    let gateway = to(node.addr, Value::Null, json!({"scheme": "h2c"}), json!({}));
    assert_eq!(gateway.connect().unwrap().request(HANDSHAKE).unwrap().status, 502);
}

#[test]
fn over_tls_the_end_is_told_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = Authority::new("servers").unwrap();
    let pair = authority.server(&["ws.test"]).unwrap();
    let upstream = json!({"type": "roundrobin", "nodes": {listener.local_addr().unwrap().to_string(): 1}});
    let mut gateway = gateway(
        &soon_gone(),
        &json!({
            "routes": [{"id": "1", "uri": "/*", "enable_websocket": true, "upstream": upstream}],
            "ssls": [{"id": 1, "snis": ["ws.test"], "cert": pair.cert, "key": pair.key}],
        }),
    );
    let addr: SocketAddr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
    let config = authority.client_config(None).unwrap();
    let mut client = rustls::StreamOwned::new(
        rustls::ClientConnection::new(config, "ws.test".try_into().unwrap()).unwrap(),
        tcp(addr),
    );
    client.write_all(HANDSHAKE.as_bytes()).unwrap();
    let (mut node, _) = accept(&listener);
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    assert!(seen.starts_with(b"HTTP/1.1 101"));
    gateway.terminate().unwrap();
    let mut told = [0; 4];
    client.read_exact(&mut told).unwrap();
    assert_eq!(told, CLOSE);
    assert_eq!(exactly(&mut node, 8)[..2], [0x88, 0x82]);
    assert!(gateway.wait(LIMIT).unwrap().success());
}

#[test]
fn where_it_is_not_enabled_nothing_looks_like_a_tunnel() {
    let upstream = Upstream::start().unwrap();
    upstream.on("/plain", Behaviour::answer(200, "no tunnel"));
    let off = to(upstream.addr(), Value::Null, json!({}), json!({"enable_websocket": false}));
    let answer = off.connect().unwrap().request(HANDSHAKE).unwrap();
    // As in APISIX: a request like any other.
    assert_eq!((answer.status, answer.json()["headers"].get("upgrade")), (200, None));
    let on = to(upstream.addr(), Value::Null, json!({}), json!({}));
    run(async {
        let client = connect(off.addr()).await;
        assert_eq!(tunnel(&off, &client, "/plain").await.0.status(), 501);
        let client = connect(on.addr()).await;
        assert_eq!(tunnel(&on, &client, "/plain").await.0.status(), 502, "a 200 would be taken for one");
    });
}

#[test]
fn it_is_counted_for_as_long_as_it_lives() {
    let upstream = Upstream::start().unwrap();
    upstream.on("/chat", Behaviour::Upgrade);
    let limit = json!({"plugins": {"limit-conn": {"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "uri", "rejected_code": 429}}});
    let gateway = to(upstream.addr(), json!({"nginx_config": {"worker_processes": 1}}), json!({}), limit);
    let mut first = open(&gateway);
    first.write_all(b"x").unwrap();
    assert_eq!(exactly(&mut first, 1), b"x");
    assert_eq!(gateway.connect().unwrap().request(HANDSHAKE).unwrap().status, 429);
    drop(first);
    let until = Instant::now() + LIMIT;
    loop {
        let mut socket = tcp(gateway.addr());
        socket.write_all(HANDSHAKE.as_bytes()).unwrap();
        if head(&mut socket).starts_with("HTTP/1.1 101") {
            break;
        }
        assert!(Instant::now() < until, "still counted");
    }
}

#[test]
fn silence_ends_it_and_life_on_either_way_does_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let timeout = json!({"timeout": {"connect": 5, "send": 5, "read": 1}});
    let gateway = to(listener.local_addr().unwrap(), Value::Null, timeout, json!({}));
    let (mut client, (mut node, _)) = std::thread::scope(|scope| {
        let node = scope.spawn(|| accept(&listener));
        (open(&gateway), node.join().unwrap())
    });
    // The client alone speaks, for longer than a node may be silent.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        client.write_all(b"x").unwrap();
        assert_eq!(exactly(&mut node, 1), b"x");
        std::thread::sleep(Duration::from_millis(100));
    }
    let silent = Instant::now();
    assert!(ended(&mut client));
    assert!((Duration::from_millis(700)..Duration::from_secs(5)).contains(&silent.elapsed()), "{:?}", silent.elapsed());
}

#[test]
fn http_2_begins_a_connection_or_not_at_all() {
    let upstream = Upstream::start().unwrap();
    let gateway = gateway(&Value::Null, &crate::start::all_to(&upstream));
    let mut wire = gateway.connect().unwrap();
    assert_eq!(wire.get("/").unwrap().status, 200);
    wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    assert_eq!(wire.read_answer(false).unwrap().status, 505);
}
