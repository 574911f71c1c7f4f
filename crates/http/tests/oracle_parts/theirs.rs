//! Messages as hyper reads them, over a connection that exists in memory only.
use super::ours::Seen;
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, Version};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// One side of a connection: brings the pieces one by one, then its end; forgets what is written.
struct Wire {
    pieces: VecDeque<Vec<u8>>,
    /// Nothing comes before something was written, as from a server.
    waits: bool,
    waker: Option<Waker>,
}

impl Wire {
    fn new(pieces: Vec<Vec<u8>>, waits: bool) -> Wire {
        Wire { pieces: pieces.into(), waits, waker: None }
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.waits {
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if let Some(mut piece) = self.pieces.pop_front() {
            let n = piece.len().min(buf.remaining());
            buf.put_slice(&piece[..n]);
            if n < piece.len() {
                self.pieces.push_front(piece.split_off(n));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.waits = false;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn fields(map: &HeaderMap) -> BTreeMap<String, Vec<Vec<u8>>> {
    let values = |name| map.get_all(name).iter().map(|v| v.as_bytes().to_vec()).collect();
    map.keys().map(|name| (name.as_str().to_owned(), values(name))).collect()
}

/// The whole body; None where it is malformed or cut off.
async fn whole(mut body: Incoming) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame.ok()?.into_data() {
            out.extend_from_slice(&data);
        }
    }
    Some(out)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// The target as it was sent: hyper keeps its parts.
fn target(uri: &hyper::Uri) -> String {
    uri.path_and_query().map_or_else(|| uri.to_string(), ToString::to_string)
}

/// The requests of a connection that hyper reads to their end.
pub fn requests(pieces: Vec<Vec<u8>>) -> Vec<Seen> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            if let Some(body) = whole(body).await {
                let start = format!("{} {}", head.method, target(&head.uri));
                let message =
                    Seen { start, http11: head.version == Version::HTTP_11, fields: fields(&head.headers), body };
                seen.lock().unwrap().push(message);
            }
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.half_close(true);
    // An error is how a refusal ends.
    let _ = block_on(server.serve_connection(Wire::new(pieces, false), service).into_future());
    std::mem::take(&mut *seen.lock().unwrap())
}

/// The final response; None where hyper refuses it or its body ends too early.
pub fn response(pieces: Vec<Vec<u8>>, to_head: bool) -> Option<Seen> {
    block_on(async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(Wire::new(pieces, true)).await.ok()?;
        let method = if to_head { "HEAD" } else { "GET" };
        let request = Request::builder().method(method).uri("/").header("Host", "a").body(String::new()).ok()?;
        let exchange = async {
            let (head, body) = sender.send_request(request).await.ok()?.into_parts();
            let body = whole(body).await?;
            let start = head.status.as_u16().to_string();
            Some(Seen { start, http11: head.version == Version::HTTP_11, fields: fields(&head.headers), body })
        };
        tokio::join!(exchange, connection).0
    })
}
