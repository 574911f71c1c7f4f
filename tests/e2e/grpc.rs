//! Upstreams of scheme `grpc`: calls of every kind, trailers, deadlines of either side, and what a client is told where there is
//! no answer.

use crate::http2::{connect, run, whole};
use crate::start::gateway;
use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use sluice_testkit::{Gateway, ports::free_port};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// A server that echoes each message at once, with what it saw of the request in its head and `grpc-status` in trailers.
/// `/t.T/Fail` answers with a head alone; `/t.T/Bare` fails in its trailers, without a message; `/t.T/Silent` never answers;
/// `/t.T/Reset` resets behind the first message; `/t.T/Paced` says everything twice, the second time once it is released.
pub(crate) struct Server {
    pub addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    cancelled: Arc<AtomicUsize>,
    pub released: Arc<Notify>,
}

impl Server {
    pub fn start() -> Server {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let (connections, cancelled) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (opened, given_up) = (connections.clone(), cancelled.clone());
        let released = Arc::<Notify>::default();
        let release = released.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    opened.fetch_add(1, Ordering::SeqCst);
                    let (given_up, release) = (given_up.clone(), release.clone());
                    tokio::spawn(async move {
                        let Ok(mut connection) = h2::server::handshake(socket).await else { return };
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            tokio::spawn(serve(request, respond, given_up.clone(), release.clone()));
                        }
                    });
                }
            });
        });
        Server { addr, connections, cancelled, released }
    }

    fn gateway(&self, upstream: Value, plugins: Value) -> Gateway {
        let mut own = json!({"scheme": "grpc", "nodes": {self.addr.to_string(): 1}});
        own.as_object_mut().unwrap().extend(upstream.as_object().unwrap().clone());
        let route = json!({"id": "1", "uri": "/t.T/*", "upstream": own, "plugins": plugins});
        let dead = json!({"id": "2", "uri": "/dead.D/*", "upstream": {"scheme": "grpc", "nodes": {format!("127.0.0.1:{}", free_port()): 1}}});
        gateway(&Value::Null, &json!({"routes": [route, dead]}))
    }
}

async fn serve(
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    cancelled: Arc<AtomicUsize>,
    release: Arc<Notify>,
) {
    let (head, mut body) = request.into_parts();
    let seen = |name: &str| head.headers.get(name).cloned().unwrap_or(http::HeaderValue::from_static("-"));
    let mut response = Response::builder()
        .header("content-type", "application/grpc")
        .header("seen-te", seen("te"))
        .header("seen-type", seen("content-type"))
        .header("seen-path", head.uri.path())
        .header("seen-length", seen("content-length"))
        .header("seen-authority", head.uri.authority().unwrap().as_str());
    match head.uri.path() {
        "/t.T/Fail" => {
            response = response.header("grpc-status", "9").header("grpc-message", "no good");
            respond.send_response(response.body(()).unwrap(), true).unwrap();
            return;
        }
        "/t.T/Silent" => {
            if std::future::poll_fn(|task| respond.poll_reset(task)).await.is_ok_and(|r| r == Reason::CANCEL) {
                cancelled.fetch_add(1, Ordering::SeqCst);
            }
            return;
        }
        _ => {}
    }
    let mut answer = respond.send_response(response.body(()).unwrap(), false).unwrap();
    if head.uri.path() == "/t.T/Bare" {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "7".parse().unwrap());
        trailers.insert("grpc-message", "not you".parse().unwrap());
        answer.send_trailers(trailers).unwrap();
        return;
    }
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        answer.send_data(data.clone(), false).unwrap();
        if head.uri.path() == "/t.T/Paced" && !data.is_empty() {
            release.notified().await;
            answer.send_data(data, false).unwrap();
        }
        if head.uri.path() == "/t.T/Reset" {
            answer.send_reset(Reason::INTERNAL_ERROR);
            return;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("x-trailer", "t".parse().unwrap());
    answer.send_trailers(trailers).unwrap();
}

fn call(gateway: &Gateway, path: &str) -> Request<()> {
    let uri = format!("http://{}{path}", gateway.addr());
    Request::post(uri).header("content-type", "application/grpc+proto").header("te", "trailers").body(()).unwrap()
}

#[test]
fn messages_and_trailers_pass_while_both_sides_stream() {
    let server = Server::start();
    let gateway = server.gateway(json!({}), json!({}));
    run(async {
        let client = connect(gateway.addr()).await;
        let mut sender = client.clone().ready().await.unwrap();
        let (response, mut up) = sender.send_request(call(&gateway, "/t.T/Both"), false).unwrap();
        up.send_data(Bytes::from("first"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["seen-te"], "trailers");
        assert_eq!(response.headers()["seen-type"], "application/grpc+proto");
        assert_eq!(response.headers()["seen-authority"], gateway.addr().to_string());
        let mut down = response.into_body();
        assert_eq!(down.data().await.unwrap().unwrap(), "first");
        for word in ["second", "third"] {
            // Each waits for the echo of the one before: nothing is held back on either way.
            up.send_data(Bytes::from(word), false).unwrap();
            assert_eq!(down.data().await.unwrap().unwrap(), word);
        }
        up.send_data(Bytes::new(), true).unwrap();
        while let Some(rest) = down.data().await {
            assert_eq!(rest.unwrap(), "");
        }
        let trailers = down.trailers().await.unwrap().unwrap();
        assert_eq!((&trailers["grpc-status"], &trailers["x-trailer"]), (&"0".parse().unwrap(), &"t".parse().unwrap()));
    });
}

#[test]
fn one_connection_carries_many_calls() {
    let server = Server::start();
    let gateway = server.gateway(json!({}), json!({}));
    run(async {
        let client = connect(gateway.addr()).await;
        let mut calls = tokio::task::JoinSet::new();
        for i in 0..80 {
            let (client, request) = (client.clone(), call(&gateway, "/t.T/Echo"));
            calls.spawn_local(async move {
                let mut sender = client.ready().await.unwrap();
                let (response, mut up) = sender.send_request(request, false).unwrap();
                up.send_data(Bytes::from(i.to_string()), true).unwrap();
                assert_eq!(whole(response.await.unwrap()).await.unwrap(), i.to_string().as_bytes());
            });
        }
        calls.join_all().await;
    });
    // One per worker at most.
    let connections = server.connections.load(Ordering::SeqCst);
    assert!((1..=8).contains(&connections), "{connections}");
}

#[test]
fn large_messages_pass_in_both_directions() {
    let server = Server::start();
    let gateway = server.gateway(json!({}), json!({}));
    run(async {
        let client = connect(gateway.addr()).await;
        let mut sender = client.clone().ready().await.unwrap();
        let (response, mut up) = sender.send_request(call(&gateway, "/t.T/Echo"), false).unwrap();
        let message = Bytes::from(vec![b'm'; 4 << 20]);
        up.send_data(message.clone(), true).unwrap();
        assert!(whole(response.await.unwrap()).await.unwrap() == message);
    });
}

#[test]
fn errors_are_told_in_grpc_s_terms() {
    let server = Server::start();
    let gateway = server.gateway(json!({}), json!({"ip-restriction": {"blacklist": ["10.0.0.0/8"]}}));
    run(async {
        let client = connect(gateway.addr()).await;
        for (path, status, message) in
            [("/t.T/Fail", "9", "no good"), ("/dead.D/X", "14", "Bad Gateway"), ("/none.N/X", "12", "Not Found")]
        {
            let mut sender = client.clone().ready().await.unwrap();
            let response = sender.send_request(call(&gateway, path), true).unwrap().0.await.unwrap();
            let field = |name: &str| response.headers()[name].to_str().unwrap();
            assert_eq!((field("grpc-status"), field("grpc-message")), (status, message), "{path}");
            assert!(response.body().is_end_stream(), "{path}");
        }
        let mut sender = client.clone().ready().await.unwrap();
        let (response, mut up) = sender.send_request(call(&gateway, "/t.T/Reset"), false).unwrap();
        up.send_data(Bytes::from("x"), false).unwrap();
        // The reset may overtake the head on either way: then it is an error of the gateway's, or a reset without a head.
        let broken = match response.await {
            Ok(response) if response.headers().contains_key("grpc-status") => {
                assert_eq!(response.headers()["grpc-status"], "14");
                return;
            }
            Ok(response) => whole(response).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(broken.reason(), Some(Reason::INTERNAL_ERROR));
    });
}

#[test]
fn a_call_that_is_given_up_is_given_up_upstream() {
    let server = Server::start();
    let gateway = server.gateway(json!({}), json!({}));
    run(async {
        let client = connect(gateway.addr()).await;
        let mut sender = client.clone().ready().await.unwrap();
        let (response, mut up) = sender.send_request(call(&gateway, "/t.T/Silent"), false).unwrap();
        while server.connections.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        up.send_reset(Reason::CANCEL);
        drop((response, sender));
        while server.cancelled.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_deadline_of_the_client_ends_the_wait() {
    let server = Server::start();
    let gateway = server.gateway(json!({}), json!({}));
    run(async {
        let client = connect(gateway.addr()).await;
        let mut sender = client.clone().ready().await.unwrap();
        let mut request = call(&gateway, "/t.T/Silent");
        request.headers_mut().insert("grpc-timeout", "200m".parse().unwrap());
        let response = sender.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "4");
    });
}

#[test]
fn http_1_clients_are_served_by_such_upstreams_too() {
    let server = Server::start();
    let gateway = server.gateway(json!({}), json!({}));
    let mut wire = gateway.connect().unwrap();
    let chunked =
        "POST /t.T/Echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = wire.request(format!("{chunked}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")).unwrap();
    assert_eq!((answer.status, answer.text()), (200, "abcde".to_owned()));
    let sized = "POST /t.T/Echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 3\r\n\r\nxyz";
    assert_eq!(wire.request(sized).unwrap().text(), "xyz");
}
