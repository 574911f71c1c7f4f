//! gRPC-Web through the gateway, from clients of HTTP/1.1 and HTTP/2: messages as they come, trailers in the body, errors.

use crate::grpc::Server;
use crate::http2::{connect, run, whole};
use crate::start::gateway;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use sluice_testkit::{Gateway, ports::free_port};
use std::time::{Duration, Instant};

fn start(server: &Server) -> Gateway {
    start_with(server, &Value::Null)
}

fn start_with(server: &Server, settings: &Value) -> Gateway {
    let upstream = |node: String| json!({"scheme": "grpc", "nodes": {node: 1}});
    let route = |id: &str, uri: &str, node: String| json!({"id": id, "uri": uri, "upstream": upstream(node), "plugins": {"grpc-web": {"max_req_body_size": 100000}}});
    let dead = format!("127.0.0.1:{}", free_port());
    let mut half = route("3", "/half/*", server.addr.to_string());
    half["upstream"]["nodes"][&dead] = json!(1);
    let routes = json!([route("1", "/web/*", server.addr.to_string()), route("2", "/dead/*", dead), half]);
    gateway(settings, &json!({"routes": routes}))
}

fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag, 0, 0, 0, message.len() as u8], message].concat()
}

fn head(path: &str, kind: &str, framing: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/{kind}\r\nX-Grpc-Web: 1\r\n{framing}\r\n\r\n")
}

/// All of a body in base64 of which each piece has padding of its own.
fn decode(mut text: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(at) = text.iter().position(|c| *c == b'=') {
        let (first, rest) = text.split_at((at / 4 + 1) * 4);
        STANDARD.decode_vec(first, &mut all).unwrap();
        text = rest;
    }
    STANDARD.decode_vec(text, &mut all).unwrap();
    all
}

const END: &[u8] = b"grpc-status:0\r\ngrpc-message:\r\nx-trailer:t\r\n";

#[test]
fn binary_messages_pass_and_trailers_end_the_body() {
    let server = Server::start();
    let gateway = start(&server);
    let mut wire = gateway.connect().unwrap();
    let message = frame(0, b"hello");
    for kind in ["grpc-web", "grpc-web+proto"] {
        let mut request = head("/web/t.T/Echo", kind, &format!("Content-Length: {}", message.len())).into_bytes();
        request.extend(&message);
        let answer = wire.request(request).unwrap();
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(&*format!("application/{kind}"))));
        assert_eq!(
            (answer.header("seen-path"), answer.header("seen-type")),
            (Some("/t.T/Echo"), Some("application/grpc"))
        );
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.body, [message.clone(), frame(0x80, END)].concat());
        assert!(answer.trailers.is_empty());
    }
}

#[test]
fn text_is_decoded_however_it_is_cut() {
    let server = Server::start();
    let gateway = start(&server);
    let mut wire = gateway.connect().unwrap();
    let message = frame(0, &[b'm'; 200]);
    let text = STANDARD.encode(&message);
    let mut chunked = head("/web/t.T/Echo", "grpc-web-text", "Transfer-Encoding: chunked").into_bytes();
    for part in text.as_bytes().chunks(7) {
        chunked.extend(format!("{:x}\r\n", part.len()).bytes());
        chunked.extend(part);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let sized = head("/web/t.T/Echo", "grpc-web-text+proto", &format!("Content-Length: {}", text.len())) + &text;
    for request in [chunked, sized.into_bytes()] {
        let answer = wire.request(request).unwrap();
        assert_eq!((answer.status, answer.header("seen-length")), (200, Some("-")));
        assert_eq!(decode(&answer.body), [message.clone(), frame(0x80, END)].concat());
    }
    let wrong = head("/web/t.T/Echo", "grpc-web-text", "Content-Length: 6") + "hello!";
    assert_eq!(gateway.connect().unwrap().request(wrong).unwrap().status, 400);
    let large = head("/web/t.T/Echo", "grpc-web", "Content-Length: 100001");
    assert_eq!(gateway.connect().unwrap().request(large).unwrap().status, 400);
    let unsized_body = format!("186a1\r\n{}\r\n0\r\n\r\n", "x".repeat(100_001));
    let large = head("/web/t.T/Silent", "grpc-web", "Transfer-Encoding: chunked") + &unsized_body;
    assert_eq!(gateway.connect().unwrap().request(large).unwrap().status, 400);
}

#[test]
fn messages_of_an_answer_come_one_by_one() {
    let server = Server::start();
    let gateway = start(&server);
    let text = STANDARD.encode(frame(0, b"tick"));
    for (kind, body) in [("grpc-web", frame(0, b"tick")), ("grpc-web-text", text.into_bytes())] {
        let mut wire = gateway.connect().unwrap();
        wire.send(head("/web/t.T/Paced", kind, &format!("Content-Length: {}", body.len()))).unwrap();
        wire.send(&body).unwrap();
        wire.read_past(&body).unwrap();
        server.released.notify_one();
        wire.read_past(&body).unwrap();
        wire.read_past(b"0\r\n\r\n").unwrap();
    }
}

#[test]
fn text_of_an_http_2_client_is_passed_on_before_its_end() {
    let server = Server::start();
    let gateway = start(&server);
    run(async {
        let client = connect(gateway.addr()).await;
        let mut sender = client.clone().ready().await.unwrap();
        let request = Request::post(format!("http://{}/web/t.T/Both", gateway.addr()))
            .header("content-type", "application/grpc-web-text")
            .body(())
            .unwrap();
        let (response, mut up) = sender.send_request(request, false).unwrap();
        up.send_data(Bytes::from("AAAA"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc-web-text");
        let mut down = response.into_body();
        assert_eq!(down.data().await.unwrap().unwrap(), "AAAA");
        up.send_data(Bytes::from("AAV0aWNrIQ"), false).unwrap();
        up.send_data(Bytes::from("=="), true).unwrap();
        let mut rest = Vec::new();
        while let Some(data) = down.data().await {
            rest.extend_from_slice(&data.unwrap());
        }
        assert!(down.trailers().await.unwrap().is_none());
        assert_eq!(decode(&rest), [b"\0\x05tick!".to_vec(), frame(0x80, END)].concat());
    });
}

#[test]
fn failures_are_told_in_the_head() {
    let server = Server::start();
    let gateway = start(&server);
    let mut wire = gateway.connect().unwrap();
    let mut ask = |path: &str| wire.request(head(path, "grpc-web", "Content-Length: 5") + "\0\0\0\0\0").unwrap();
    let failed = ask("/web/t.T/Fail");
    assert_eq!(
        (failed.status, failed.header("grpc-status"), failed.header("grpc-message")),
        (200, Some("9"), Some("no good"))
    );
    assert_eq!((failed.header("content-type"), &*failed.body), (Some("application/grpc-web"), &b""[..]));
    let bare = ask("/web/t.T/Bare");
    let end = frame(0x80, b"grpc-status:7\r\ngrpc-message:not you\r\n");
    assert_eq!((bare.status, bare.header("grpc-status"), &bare.body), (200, None, &end));
    let dead = ask("/dead/t.T/Echo");
    assert_eq!(
        (dead.status, dead.header("grpc-status"), dead.header("grpc-message")),
        (502, Some("14"), Some("Bad Gateway"))
    );
    assert_eq!((dead.header("content-type"), &*dead.body), (Some("application/grpc-web"), &b""[..]));
    let options = wire.request("OPTIONS /web/t.T/Echo HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!((options.status, options.header("access-control-allow-methods")), (204, Some("POST")));
    run(async {
        let client = connect(gateway.addr()).await;
        let mut sender = client.clone().ready().await.unwrap();
        let request = Request::post(format!("http://{}/dead/t.T/Echo", gateway.addr()))
            .header("content-type", "application/grpc-web")
            .body(())
            .unwrap();
        let (response, mut up) = sender.send_request(request, false).unwrap();
        up.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers()["grpc-status"].to_str().unwrap()), (502, "14"));
        assert!(whole(response).await.unwrap().is_empty());
    });
}

#[test]
fn a_body_in_base64_is_sent_to_another_node_from_its_beginning() {
    let server = Server::start();
    let gateway = start(&server);
    let mut wire = gateway.connect().unwrap();
    let message = frame(0, b"once more");
    let text = STANDARD.encode(&message);
    for _ in 0..4 {
        let request = head("/half/t.T/Echo", "grpc-web-text", &format!("Content-Length: {}", text.len())) + &text;
        let answer = wire.request(request).unwrap();
        assert_eq!((answer.status, decode(&answer.body)), (200, [message.clone(), frame(0x80, END)].concat()));
    }
}

#[test]
fn trailers_can_be_logged() {
    let server = Server::start();
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("access.log");
    let format = "$upstream_trailer_grpc_status,$sent_trailer_grpc_status,$sent_http_grpc_status";
    let gateway = start_with(
        &server,
        &json!({"nginx_config": {"http": {
        "enable_access_log": true, "access_log": log, "access_log_buffer": 0, "access_log_format": format}}}),
    );
    let mut wire = gateway.connect().unwrap();
    for path in ["/web/t.T/Bare", "/web/t.T/Fail"] {
        wire.request(head(path, "grpc-web", "Content-Length: 5") + "\0\0\0\0\0").unwrap();
    }
    let until = Instant::now() + Duration::from_secs(10);
    let lines = loop {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.lines().count() == 2 {
            break text;
        }
        assert!(Instant::now() < until, "{text}");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(lines, "7,-,-\n-,-,9\n");
}
