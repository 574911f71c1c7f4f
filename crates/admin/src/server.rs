//! The HTTP server of all APIs: HTTP/1.1 by hyper on the control runtime, one task a connection, bodies bounded.
use crate::message::{Reply, Request, Stream};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

/// Connections served at a time by one listener; more wait.
const CONNECTIONS: usize = 1024;
/// For a request's head and for a TLS handshake.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// For a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes that are read of a body beyond what is allowed.
const DROPPED: usize = 16 << 20;

/// An answer to come.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Reply> + Send + 'a>>;

/// Something that answers requests.
pub trait Handler: Send + Sync + 'static {
    fn answer(&self, request: Request) -> Answer<'_>;
    /// Bytes of a body that are read.
    fn max_body(&self, _path: &str) -> usize {
        0
    }
}

/// Serves connections until the task is dropped.
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, handler: Arc<dyn Handler>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, peer)) => {
                let (handler, tls) = (handler.clone(), tls.clone());
                let _ = socket.set_nodelay(true);
                tokio::spawn(async move {
                    match tls {
                        None => connection(socket, peer, handler).await,
                        Some(tls) => match tokio::time::timeout(HEAD_TIMEOUT, tls.accept(socket)).await {
                            Ok(Ok(stream)) => connection(stream, peer, handler).await,
                            Ok(Err(error)) => tracing::info!(%peer, %error, "no TLS connection"),
                            Err(_) => {}
                        },
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection<S>(stream: S, peer: SocketAddr, handler: Arc<dyn Handler>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(exchange(request, peer, handler.as_ref()).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 * 1024);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%peer, %error, "a connection ended");
    }
}

async fn exchange(
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    handler: &dyn Handler,
) -> hyper::Response<Answered> {
    let (parts, body) = request.into_parts();
    let (body, too_large) =
        match tokio::time::timeout(BODY_TIMEOUT, read(body, handler.max_body(parts.uri.path()))).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => return response(Reply::empty(400)),
            Err(_) => return response(Reply::empty(408)),
        };
    let headers = parts.headers.iter();
    let request = Request {
        method: parts.method.as_str().to_owned(),
        path: decode(parts.uri.path(), false),
        query: query(parts.uri.query().unwrap_or_default()),
        headers: headers
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
        body,
        too_large,
        peer: Some(peer.ip()),
    };
    let head = request.method == "HEAD";
    let mut reply = handler.answer(request).await;
    if head {
        reply.body.clear();
        reply.stream = None;
    }
    response(reply)
}

/// The body, or that it is too large. What is too large is read on and dropped up to a bound, for a client that is still
/// sending would not see the answer.
async fn read(mut body: Incoming, max: usize) -> Result<(Bytes, bool), hyper::Error> {
    let (mut taken, mut length) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length <= max {
            taken.extend_from_slice(&data);
        } else {
            taken = Vec::new();
            if length > max.saturating_add(DROPPED) {
                break;
            }
        }
    }
    Ok((taken.into(), length > max))
}

/// The body of an answer: what is there, then what comes.
struct Answered {
    whole: Bytes,
    pieces: Option<mpsc::Receiver<Bytes>>,
}

impl hyper::body::Body for Answered {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.whole.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.whole)))));
        }
        match &mut self.pieces {
            None => Poll::Ready(None),
            Some(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }
    fn is_end_stream(&self) -> bool {
        self.whole.is_empty() && self.pieces.is_none()
    }
    fn size_hint(&self) -> SizeHint {
        match self.pieces {
            None => SizeHint::with_exact(self.whole.len() as u64),
            Some(_) => SizeHint::default(),
        }
    }
}

fn response(reply: Reply) -> hyper::Response<Answered> {
    let pieces = reply.stream.as_ref().and_then(Stream::take);
    let mut response = hyper::Response::new(Answered { whole: Bytes::from(reply.body), pieces });
    *response.status_mut() =
        hyper::StatusCode::from_u16(reply.status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in reply.headers {
        if let Ok(value) = hyper::header::HeaderValue::from_str(&value) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// Name and value of each argument, decoded.
pub(crate) fn query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(n, v)| (decode(n, true), decode(v, true)))
        .collect()
}

fn decode(text: &str, plus: bool) -> String {
    let spaced = if plus { text.replace('+', " ") } else { text.to_owned() };
    percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}
