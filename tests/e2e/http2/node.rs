//! A node that speaks HTTP/2, programmed by path, plain or over TLS; it counts connections and requests.

use crate::http2::LIMIT;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

/// What is shared with whoever looks.
#[derive(Default)]
pub struct Seen {
    pub connections: AtomicUsize,
    pub requests: AtomicUsize,
    /// Bodies of requests that were answered.
    pub bodies: Mutex<Vec<String>>,
}

pub struct Node {
    pub addr: SocketAddr,
    pub seen: Arc<Seen>,
}

/// How it behaves beside its paths.
#[derive(Clone, Default)]
pub struct Manner {
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Of the streams of each connection the first so many are refused.
    pub refuses: usize,
    /// Opens no tunnels (RFC 8441).
    pub no_tunnels: bool,
    /// Requests at once.
    pub streams: Option<u32>,
}

impl Node {
    pub fn start(manner: Manner) -> Node {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let shared = seen.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    let (seen, manner) = (shared.clone(), manner.clone());
                    tokio::spawn(async move {
                        match manner.tls.clone() {
                            None => connection(socket, seen, manner).await,
                            Some(tls) => {
                                let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(socket).await else {
                                    return;
                                };
                                match stream.get_ref().1.alpn_protocol() {
                                    Some(b"h2") => connection(stream, seen, manner).await,
                                    _ => old(stream, seen).await,
                                }
                            }
                        }
                    });
                }
            });
        });
        Node { addr, seen }
    }

    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }
}

async fn connection(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, seen: Arc<Seen>, manner: Manner) {
    seen.connections.fetch_add(1, Ordering::SeqCst);
    let mut builder = h2::server::Builder::new();
    if !manner.no_tunnels {
        builder.enable_connect_protocol();
    }
    if let Some(streams) = manner.streams {
        builder.max_concurrent_streams(streams);
    }
    let Ok(mut connection) = builder.handshake(io).await else { return };
    let mut count = 0;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        count += 1;
        if count <= manner.refuses {
            respond.send_reset(Reason::REFUSED_STREAM);
            continue;
        }
        seen.requests.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(serve(request, respond, seen.clone()));
    }
}

/// HTTP/1.1, where a client does not offer more: one request after the other, without bodies; or a WebSocket that echoes.
async fn old(mut io: impl AsyncRead + AsyncWrite + Unpin, seen: Arc<Seen>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    seen.connections.fetch_add(1, Ordering::SeqCst);
    let mut head = Vec::new();
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            if io.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        seen.requests.fetch_add(1, Ordering::SeqCst);
        if String::from_utf8_lossy(&head).to_lowercase().contains("upgrade: websocket") {
            let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            let _ = io.write_all(switched.as_bytes()).await;
            let mut bytes = [0; 1024];
            while let Ok(n @ 1..) = io.read(&mut bytes).await {
                let _ = io.write_all(&bytes[..n]).await;
            }
            return;
        }
        head.clear();
        if io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold").await.is_err() {
            return;
        }
    }
}

fn text(map: &HeaderMap) -> Value {
    let mut all = serde_json::Map::new();
    for (name, value) in map {
        let value = String::from_utf8_lossy(value.as_bytes());
        match all.get_mut(name.as_str()) {
            Some(Value::String(before)) => *before = format!("{before}, {value}"),
            _ => drop(all.insert(name.to_string(), json!(value))),
        }
    }
    all.into()
}

/// Paths: `/hints` says 103 first, `/trailers` ends with some, `/empty` is 204, `/call/N` ends as a call does with status N (in its
/// head alone; with `?late` behind a head, with `?message` behind one message), `/refused` is 403, `/hello` is no tunnel.
async fn serve(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, seen: Arc<Seen>) {
    let (head, mut body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let mut own = Response::new(());
    if head.method == http::Method::CONNECT {
        let mut up = body;
        if path == "/refused" {
            *own.status_mut() = http::StatusCode::FORBIDDEN;
            let _ = respond.send_response(own, true);
            return;
        }
        own.headers_mut()
            .insert("seen-key", json!(head.headers.contains_key("sec-websocket-key")).to_string().parse().unwrap());
        let mut down = respond.send_response(own, false).unwrap();
        while let Some(Ok(data)) = up.data().await {
            let _ = up.flow_control().release_capacity(data.len());
            let _ = down.send_data(data, false);
        }
        let _ = down.send_data(Bytes::new(), true);
        return;
    }
    if path == "/slow" {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    if let Some(status) = path.strip_prefix("/call/") {
        let mut fields = HeaderMap::new();
        fields.insert("grpc-status", status.parse().unwrap());
        own.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        match head.uri.query() {
            None => {
                own.headers_mut().extend(fields);
                let _ = respond.send_response(own, true);
            }
            Some(how) => {
                let mut down = respond.send_response(own, false).unwrap();
                if how == "message" {
                    let _ = down.send_data(Bytes::from("message"), false);
                }
                let _ = down.send_trailers(fields);
            }
        }
        return;
    }
    let mut bytes = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.ok().flatten().unwrap_or_default();
    let body = String::from_utf8_lossy(&bytes).into_owned();
    seen.bodies.lock().unwrap().push(body.clone());
    match path.as_str() {
        "/hints" => {
            let mut hint = Response::new(());
            *hint.status_mut() = http::StatusCode::from_u16(103).unwrap();
            hint.headers_mut().insert("link", "</a.css>".parse().unwrap());
            respond.send_informational(hint).unwrap();
        }
        "/empty" => {
            *own.status_mut() = http::StatusCode::NO_CONTENT;
            let _ = respond.send_response(own, true);
            return;
        }
        _ => {}
    }
    let answer = json!({
        "method": head.method.as_str(), "path": head.uri.path_and_query().unwrap().as_str(), "scheme": head.uri.scheme_str(),
        "authority": head.uri.authority().map(|a| a.as_str()), "headers": text(&head.headers), "body": body,
        "trailers": text(&trailers),
    });
    own.headers_mut().insert("content-type", "application/json".parse().unwrap());
    let mut down = respond.send_response(own, false).unwrap();
    let _ = down.send_data(Bytes::from(answer.to_string()), path != "/trailers");
    if path == "/trailers" {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "abc".parse().unwrap());
        let _ = down.send_trailers(trailers);
    }
    // Where the answer is long the stream must live until it is taken.
    let _ = tokio::time::timeout(LIMIT, std::future::poll_fn(|task| down.poll_reset(task))).await;
}
