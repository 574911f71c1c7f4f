//! Probes against real sockets.
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::health::checks::Checks;

fn active(active: Value) -> Active {
    Checks::read(&json!({ "active": active })).unwrap().active.unwrap()
}

/// One probe of a node that answers the first bytes with `answer`, then closes; `None`: it says nothing.
async fn ask(checks: Value, answer: Option<&'static [u8]>) -> (Verdict, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::new(listener.local_addr().unwrap(), None);
    let node = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let n = stream.read(&mut request).await.unwrap();
        match answer {
            Some(answer) => stream.write_all(answer).await.unwrap(),
            // until the probe closes its socket
            None => drop(stream.read(&mut [0]).await),
        }
        String::from_utf8_lossy(&request[..n]).into_owned()
    });
    let verdict = probe(&active(checks), &target, "foo.com", None, false).await;
    (verdict, node.await.unwrap())
}

#[tokio::test]
async fn http_reports_what_came() {
    let (verdict, request) = ask(json!({"http_path": "/s"}), Some(b"HTTP/1.1 503 Busy\r\n\r\n")).await;
    assert_eq!(verdict, Verdict::Status(503));
    assert_eq!(request, "GET /s HTTP/1.1\r\nConnection: close\r\nHost: foo.com\r\n\r\n");
    assert_eq!(ask(json!({}), Some(b"nonsense\r\n")).await.0, Verdict::Bad);
    assert_eq!(ask(json!({}), Some(b"HTTP/1.1 20")).await.0, Verdict::Broken);
    assert_eq!(ask(json!({"timeout": 0.05}), None).await.0, Verdict::Timeout);
}

#[tokio::test]
async fn redis_and_tcp() {
    let (verdict, request) = ask(json!({"type": "redis"}), Some(b"+PONG\r\n")).await;
    assert_eq!((verdict, &*request), (Verdict::Good, "*1\r\n$4\r\nPING\r\n"));
    assert_eq!(ask(json!({"type": "redis"}), Some(b"-NOAUTH\r\n")).await.0, Verdict::Bad);
    assert_eq!(ask(json!({"type": "redis"}), Some(b"")).await.0, Verdict::Broken);
    assert_eq!(ask(json!({"type": "tcp"}), Some(b"")).await.0, Verdict::Good);
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let verdict = probe(&active(json!({"type": "tcp"})), &Target::new(closed, None), "x", None, false).await;
    assert_eq!(verdict, Verdict::Broken);
}

/// One probe of a gRPC server with this answer; also the path and message it saw.
async fn ask_grpc(answer: Option<&'static [u8]>) -> (Verdict, String, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::new(listener.local_addr().unwrap(), None);
    let node = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let path = request.uri().to_string();
        let mut body = request.into_body();
        let head = ::http::Response::builder().header("content-type", "application/grpc");
        let answering = async move {
            let message = body.data().await.unwrap().unwrap().to_vec();
            match answer {
                Some(answer) => {
                    let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
                    stream.send_data(Bytes::from_static(answer), false).unwrap();
                    let trailers = ::http::HeaderMap::from_iter([(
                        ::http::HeaderName::from_static("grpc-status"),
                        ::http::HeaderValue::from_static("0"),
                    )]);
                    stream.send_trailers(trailers).unwrap();
                }
                None => drop(respond.send_response(head.header("grpc-status", "12").body(()).unwrap(), true)),
            }
            message
        };
        let (message, _) = tokio::join!(answering, async { while connection.accept().await.is_some() {} });
        (path, message)
    });
    let checks = active(json!({"type": "grpc", "grpc_service": "a.B", "timeout": 10}));
    let verdict = probe(&checks, &target, "foo.com", None, false).await;
    let (path, message) = tokio::time::timeout(Duration::from_secs(10), node).await.unwrap().unwrap();
    (verdict, path, message)
}

#[tokio::test]
async fn grpc_asks_the_health_service() {
    let (verdict, path, message) = ask_grpc(Some(&[0, 0, 0, 0, 2, 8, 1])).await;
    assert_eq!((verdict, &*path), (Verdict::Good, "http://foo.com/grpc.health.v1.Health/Check"));
    assert_eq!(message, [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
    assert_eq!(ask_grpc(Some(&[0, 0, 0, 0, 2, 8, 2])).await.0, Verdict::Bad);
    assert_eq!(ask_grpc(None).await.0, Verdict::Bad);
}

#[test]
fn server_names_have_no_port() {
    for (host, name) in [("a.b:8443", "a.b"), ("a.b", "a.b"), ("[::1]:443", "[::1]"), ("[::1]", "[::1]")] {
        assert_eq!(sni(host), name);
    }
}
