//! HTTP/2 with clients: the same pipeline, many requests on a connection. Hostile ones are in `http2/hostile.rs`, upstreams that
//! speak it in `grpc.rs`.

mod hostile;
pub(crate) mod node;
mod upstream;

use crate::start::{all_to, gateway, pair};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use serde_json::{Value, json};
use sluice_testkit::{Authority, Behaviour, Gateway, Upstream};
use std::future::Future;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async { tokio::time::timeout(LIMIT, work).await.expect("in time") })
}

async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + 'static) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::task::spawn_local(connection);
    client
}

pub(crate) async fn connect(addr: SocketAddr) -> SendRequest<Bytes> {
    over(TcpStream::connect(addr).await.unwrap()).await
}

pub(crate) fn get(gateway: &Gateway, path: &str) -> Request<()> {
    Request::get(format!("http://{}{path}", gateway.addr())).body(()).unwrap()
}

pub(crate) async fn whole(response: Response<RecvStream>) -> Result<Vec<u8>, h2::Error> {
    let mut body = response.into_body();
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    Ok(all)
}

async fn ask(client: &SendRequest<Bytes>, request: Request<()>) -> (u16, Vec<u8>) {
    let mut client = client.clone().ready().await.unwrap();
    let response = client.send_request(request, true).unwrap().0.await.unwrap();
    (response.status().as_u16(), whole(response).await.unwrap())
}

async fn send(client: &SendRequest<Bytes>, request: Request<()>, parts: &[&[u8]]) -> (u16, Vec<u8>) {
    let mut client = client.clone().ready().await.unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    for (i, part) in parts.iter().enumerate() {
        body.send_data(Bytes::copy_from_slice(part), i + 1 == parts.len()).unwrap();
    }
    let response = response.await.unwrap();
    (response.status().as_u16(), whole(response).await.unwrap())
}

#[test]
fn by_prior_knowledge_beside_http_1() {
    let (_upstream, gateway) = pair();
    let seen = run(async {
        let client = connect(gateway.addr()).await;
        let (status, body) = ask(&client, get(&gateway, "/a?b=c")).await;
        assert_eq!(status, 200);
        serde_json::from_slice::<Value>(&body).unwrap()
    });
    assert_eq!((&seen["method"], &seen["target"]), (&json!("GET"), &json!("/a?b=c")));
    assert_eq!(seen["headers"]["host"], gateway.addr().to_string());
    assert_eq!(seen["headers"]["x-forwarded-proto"], "http");
    assert_eq!(gateway.connect().unwrap().get("/").unwrap().status, 200);
}

#[test]
fn its_preface_may_come_in_pieces() {
    let upstream = Upstream::start().unwrap();
    let gateway = gateway(&Value::Null, &all_to(&upstream));
    // In the middle of the version nothing of HTTP/1 can follow any more.
    for cut in [1, 5, 12, 13, 15, 17] {
        let mut stream = std::net::TcpStream::connect(gateway.addr()).unwrap();
        stream.set_nodelay(true).unwrap();
        let (first, rest) = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".split_at(cut);
        stream.write_all(first).unwrap();
        // They are to arrive apart.
        std::thread::sleep(Duration::from_millis(20));
        stream.write_all(rest).unwrap();
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).unwrap();
        assert_eq!(frame[3], 4, "SETTINGS, after {cut} bytes: {frame:?}");
    }
}

#[test]
fn switched_off_it_is_not_spoken() {
    let upstream = Upstream::start().unwrap();
    let gateway = gateway(&json!({"apisix": {"enable_http2": false}}), &all_to(&upstream));
    let mut wire = gateway.connect().unwrap();
    wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    assert_eq!(wire.read_answer(false).unwrap().status, 505);
}

#[test]
fn by_alpn_with_tls() {
    let upstream = Upstream::start().unwrap();
    let authority = Authority::new("servers").unwrap();
    let pair = authority.server(&["h2.test"]).unwrap();
    let mut resources = all_to(&upstream);
    resources["ssls"] = json!([{"id": 1, "snis": ["h2.test"], "cert": pair.cert, "key": pair.key}]);
    let gateway = gateway(&Value::Null, &resources);
    let addr: SocketAddr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
    for offered in ["h2", "http/1.1"] {
        let mut config = (*authority.client_config(None).unwrap()).clone();
        config.alpn_protocols = vec![offered.into()];
        run(async {
            let socket = TcpStream::connect(addr).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let stream = connector.connect("h2.test".try_into().unwrap(), socket).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(offered.as_bytes()));
            if offered == "h2" {
                let client = over(stream).await;
                let request = Request::get("https://h2.test/x").body(()).unwrap();
                let (status, body) = ask(&client, request).await;
                let seen: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!((status, &seen["headers"]["x-forwarded-proto"]), (200, &json!("https")));
            }
        });
    }
}

#[test]
fn a_host_that_wants_a_certificate_is_sent_to_a_connection_of_its_own() {
    let upstream = Upstream::start().unwrap();
    let authority = Authority::new("servers").unwrap();
    let people = Authority::new("people").unwrap();
    let pair = authority.server(&["*.h2.test"]).unwrap();
    let mut resources = all_to(&upstream);
    resources["ssls"] = json!([
        {"id": 1, "snis": ["open.h2.test", "also.h2.test"], "cert": pair.cert, "key": pair.key},
        {"id": 2, "snis": ["a.h2.test", "b.h2.test"], "cert": pair.cert, "key": pair.key, "client": {"ca": people.pem()}},
    ]);
    let gateway = gateway(&Value::Null, &resources);
    let addr: SocketAddr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
    let anna = people.client("anna").unwrap();
    let mut config = (*authority.client_config(Some(&anna)).unwrap()).clone();
    config.alpn_protocols = vec!["h2".into()];
    let config = Arc::new(config);
    run(async {
        for (name, statuses) in [("open.h2.test", [200, 200, 421, 421]), ("a.h2.test", [200, 200, 200, 421])] {
            let socket = TcpStream::connect(addr).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(config.clone());
            let client = over(connector.connect(name.try_into().unwrap(), socket).await.unwrap()).await;
            for (host, status) in ["open.h2.test", "also.h2.test", "a.h2.test", "b.h2.test"].iter().zip(statuses) {
                let request = Request::get(format!("https://{host}/x")).body(()).unwrap();
                assert_eq!(ask(&client, request).await.0, status, "{host} over {name}");
            }
        }
    });
}

#[test]
fn bodies_pass_both_ways() {
    let (upstream, gateway) = pair();
    let large = vec![b'x'; 300_000];
    upstream.on("/large", Behaviour::answer(200, large.clone()));
    upstream.on("/chunks", Behaviour::Chunked { chunks: vec![b"ab".to_vec(), b"cd".to_vec()], pause: Duration::ZERO });
    upstream.on("/empty", Behaviour::answer(204, ""));
    run(async {
        let client = connect(gateway.addr()).await;
        assert_eq!(ask(&client, get(&gateway, "/large")).await.1, large);
        assert_eq!(ask(&client, get(&gateway, "/chunks")).await.1, b"abcd");
        assert_eq!(ask(&client, get(&gateway, "/empty")).await, (204, Vec::new()));
        let post = |length: Option<usize>| {
            let builder = Request::post(format!("http://{}/p", gateway.addr()));
            match length {
                Some(length) => builder.header("content-length", length),
                None => builder,
            }
            .body(())
            .unwrap()
        };
        for (length, framing) in [(Some(6), "content-length"), (None, "transfer-encoding")] {
            let (status, body) = send(&client, post(length), &[b"abc", b"def"]).await;
            let seen: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((status, &seen["body"]), (200, &json!("abcdef")), "{framing}");
            assert!(seen["headers"].get(framing).is_some(), "{seen}");
        }
        let head = Request::head(format!("http://{}/large", gateway.addr())).body(()).unwrap();
        let mut sender = client.clone().ready().await.unwrap();
        let response = sender.send_request(head, true).unwrap().0.await.unwrap();
        assert_eq!(response.headers()["content-length"], "300000");
        assert!(response.into_body().is_end_stream());
    });
}

#[test]
fn a_body_without_length_is_sent_again_where_a_node_is_gone() {
    let upstream = Upstream::start().unwrap();
    let gone = sluice_testkit::ports::free_port();
    let nodes = json!({upstream.addr().to_string(): 1, format!("127.0.0.1:{gone}"): 1000});
    let gateway = gateway(&Value::Null, &json!({"routes": [{"id": "1", "uri": "/*", "upstream": {"nodes": nodes}}]}));
    run(async {
        let client = connect(gateway.addr()).await;
        for _ in 0..5 {
            let request = Request::put(format!("http://{}/", gateway.addr())).body(()).unwrap();
            let (status, body) = send(&client, request, &[b"abc", b"def"]).await;
            assert_eq!((status, &serde_json::from_slice::<Value>(&body).unwrap()["body"]), (200, &json!("abcdef")));
        }
    });
}

#[test]
fn a_slow_request_holds_up_no_other() {
    let (upstream, gateway) = pair();
    upstream.on("/slow", Behaviour::Silence);
    run(async {
        let client = connect(gateway.addr()).await;
        let mut sender = client.clone().ready().await.unwrap();
        let (slow, _) = sender.send_request(get(&gateway, "/slow"), true).unwrap();
        let mut quick = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (client, request) = (client.clone(), get(&gateway, "/quick"));
            quick.spawn_local(async move { ask(&client, request).await.0 });
        }
        assert_eq!(quick.join_all().await, [200; 100]);
        // The client gives the slow one up: the upstream's connection is closed.
        let before = upstream.open_connections();
        drop((slow, sender));
        while upstream.open_connections() >= before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn an_answer_that_breaks_off_is_reset() {
    let (upstream, gateway) = pair();
    upstream.on("/half", Behaviour::CloseMidBody { declared: 100, sent: 10 });
    run(async {
        let client = connect(gateway.addr()).await;
        let mut sender = client.clone().ready().await.unwrap();
        // The reset may overtake the head.
        let broken = match sender.send_request(get(&gateway, "/half"), true).unwrap().0.await {
            Ok(response) => whole(response).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(broken.reason(), Some(Reason::INTERNAL_ERROR));
        assert_eq!(ask(&client, get(&gateway, "/whole")).await.0, 200);
    });
}

#[test]
fn plugins_and_refusals_are_those_of_http_1() {
    let upstream = Upstream::start().unwrap();
    let mut resources = all_to(&upstream);
    resources["routes"][0]["plugins"] =
        json!({"key-auth": {}, "response-rewrite": {"headers": {"set": {"X-Own": "1"}}}});
    resources["consumers"] = json!([{"username": "anna", "plugins": {"key-auth": {"key": "k"}}}]);
    let gateway = gateway(&Value::Null, &resources);
    run(async {
        let client = connect(gateway.addr()).await;
        assert_eq!(ask(&client, get(&gateway, "/")).await.0, 401);
        let mut request = get(&gateway, "/");
        request.headers_mut().insert("apikey", "k".parse().unwrap());
        let mut sender = client.clone().ready().await.unwrap();
        let response = sender.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!((response.status().as_u16(), &response.headers()["x-own"]), (200, &"1".parse().unwrap()));
        let mut request = get(&gateway, "/");
        request.headers_mut().insert("host", "other".parse().unwrap());
        assert_eq!(ask(&client, request).await, (400, b"Host differs from :authority\n".to_vec()));
    });
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn a_drain_lets_requests_end_and_says_good_bye() {
    let (upstream, mut gateway) = pair();
    upstream.on("/slow", Behaviour::Delay(Duration::from_millis(500), Box::default()));
    run(async {
        let client = connect(gateway.addr()).await;
        let mut sender = client.clone().ready().await.unwrap();
        let (slow, _) = sender.send_request(get(&gateway, "/slow"), true).unwrap();
        while upstream.requests() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        gateway.terminate().unwrap();
        assert_eq!(slow.await.unwrap().status(), 200);
        let mut late = client.clone();
        // GOAWAY: nothing more is taken on this connection.
        let end = async {
            while late.clone().ready().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await
            }
        };
        end.await;
        let _ = &mut late;
    });
    assert!(gateway.wait(LIMIT).unwrap().success());
}

#[test]
fn a_bound_of_requests_ends_a_connection_in_order() {
    let upstream = Upstream::start().unwrap();
    let settings = json!({"sluice": {"limits": {"requests_per_connection": 5}}});
    let gateway = gateway(&settings, &all_to(&upstream));
    run(async {
        let client = connect(gateway.addr()).await;
        for _ in 0..5 {
            assert_eq!(ask(&client, get(&gateway, "/")).await.0, 200);
        }
        while client.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(upstream.requests(), 5);
}

#[test]
fn websockets_over_http_2() {
    let upstream = Upstream::start().unwrap();
    upstream.on("/chat", Behaviour::Upgrade);
    let mut resources = all_to(&upstream);
    resources["routes"][0]["enable_websocket"] = json!(true);
    let gateway = gateway(&Value::Null, &resources);
    run(async {
        let client = connect(gateway.addr()).await;
        // SETTINGS_ENABLE_CONNECT_PROTOCOL must have arrived.
        assert_eq!(ask(&client, get(&gateway, "/")).await.0, 200);
        assert!(client.is_extended_connect_protocol_enabled());
        let mut request = Request::connect(format!("http://{}/chat", gateway.addr())).body(()).unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        let mut sender = client.clone().ready().await.unwrap();
        let (response, mut up) = sender.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let mut down = response.into_body();
        for word in ["one", "two"] {
            up.send_data(Bytes::from(word), false).unwrap();
            assert_eq!(down.data().await.unwrap().unwrap(), word);
        }
        up.send_data(Bytes::new(), true).unwrap();
        // The end may come as an empty frame.
        while let Some(rest) = down.data().await {
            assert_eq!(rest.unwrap(), "");
        }
    });
    let seen = upstream.take_seen();
    let asked = seen.iter().find(|s| s.path() == "/chat").unwrap();
    assert_eq!((asked.method.as_str(), asked.header("upgrade")), ("GET", Some("websocket")));
    assert!(asked.header("sec-websocket-key").is_some_and(|key| key.len() == 24));
}
