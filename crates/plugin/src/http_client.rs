//! The HTTP client of plugins: `env.http_client(&options)` in `build`, `client.send(request)` in a hook's future or beside
//! requests. The surprise: connections belong to the control threads, so that one pool serves all workers and a worker that
//! is busy or gone delays nobody's answer; whoever waits is woken across threads.
//!
//! What it guarantees: one pool per distinct [`HttpOptions`] of the process, neither redirects nor proxies of the environment
//! are followed (as APISIX's lua-resty-http follows none), an answer has at most `max_response` bytes in memory, and a future
//! that is dropped ends its request. Tests give [`crate::Env::with_http`] a fake.
use bytes::Bytes;
use sluice_net::tls::{ClientTls, ClientTlsConfig};
use sluice_upstream::Resolve;
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

#[cfg(test)]
mod tests;

/// Pieces of a streamed answer that wait for their reader; the server is read no further meanwhile.
const PIECES: usize = 8;
/// Pools of the process; a configuration with more distinct settings gets clients that are not shared.
const MAX_POOLS: usize = 256;

/// How to connect. Equal options share a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpOptions {
    /// Check the server's certificate and name.
    pub verify: bool,
    /// Trusted certificates in PEM instead of the gateway's.
    pub ca_pem: Option<String>,
    /// Our certificate chain and key in PEM.
    pub client_cert: Option<(String, String)>,
    /// How long an idle connection is kept; `None`: each request has a connection of its own.
    pub keepalive: Option<Duration>,
    /// Idle connections kept per server.
    pub keepalive_pool: usize,
    /// Servers between us and the server.
    pub proxy: Option<HttpProxy>,
}

/// HTTP proxies by the scheme of the address that is asked (lua-resty-http's `proxy_opts`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HttpProxy {
    /// `http://host:port`, for addresses with `http`; those with `https` go by a tunnel (CONNECT) of the other.
    pub http: Option<String>,
    pub https: Option<String>,
    /// Values of `Proxy-Authorization`.
    pub http_authorization: Option<String>,
    pub https_authorization: Option<String>,
    /// Names that are asked directly, with commas between them.
    pub except: Option<String>,
}

impl HttpProxy {
    fn all(&self) -> Result<Vec<reqwest::Proxy>, HttpError> {
        let ways = [
            (
                &self.http,
                &self.http_authorization,
                reqwest::Proxy::http as fn(String) -> reqwest::Result<reqwest::Proxy>,
            ),
            (&self.https, &self.https_authorization, reqwest::Proxy::https),
        ];
        let mut all = Vec::new();
        for (address, authorization, make) in ways {
            let Some(address) = address else { continue };
            let mut proxy = make(address.clone()).map_err(|e| HttpError::of(&e))?;
            if let Some(text) = authorization {
                let value = text.parse().map_err(|_| HttpError::new("the proxy's authorization is no header value"))?;
                proxy = proxy.custom_http_auth(value);
            }
            all.push(proxy.no_proxy(self.except.as_deref().and_then(reqwest::NoProxy::from_string)));
        }
        Ok(all)
    }
}

impl Default for HttpOptions {
    /// lua-resty-http's: verified, 60 s, and here 32 connections.
    fn default() -> HttpOptions {
        HttpOptions {
            verify: true,
            ca_pem: None,
            client_cert: None,
            keepalive: Some(Duration::from_secs(60)),
            keepalive_pool: 32,
            proxy: None,
        }
    }
}

/// A request. Fields are sent in order, beside `Host` and `Content-Length`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// A method's token, in capitals.
    pub method: String,
    /// Absolute: `https://host:port/path?query`.
    pub url: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Bytes,
    /// For the whole exchange with [`HttpClient::send`]; for the head and then for each piece with [`HttpClient::open`].
    pub timeout: Duration,
    /// Bytes of the largest answer that [`HttpClient::send`] takes; beyond it an error.
    pub max_response: usize,
}

impl HttpRequest {
    /// A request without fields or body: 3 s, 1 MiB of answer.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> HttpRequest {
        HttpRequest {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            timeout: Duration::from_secs(3),
            max_response: 1 << 20,
        }
    }
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> HttpRequest {
        self.headers.push((name.into(), value.into()));
        self
    }
    pub fn body(self, body: impl Into<Bytes>) -> HttpRequest {
        HttpRequest { body: body.into(), ..self }
    }
    pub fn timeout(self, timeout: Duration) -> HttpRequest {
        HttpRequest { timeout, ..self }
    }
    pub fn max_response(self, bytes: usize) -> HttpRequest {
        HttpRequest { max_response: bytes, ..self }
    }
}

/// An answer, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpResponse {
    pub status: u16,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl HttpResponse {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_slice())
    }
    /// The body as text for messages; what is not UTF-8 is replaced.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

/// Why there is no answer, in nginx's words where it has some: `connection refused`, `timeout`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HttpError {
    pub message: String,
    pub stage: HttpStage,
}

/// How far a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpStage {
    /// The server was not reached.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// Anything later, and every time-out.
    Exchange,
}

impl HttpError {
    pub fn new(message: impl Into<String>) -> HttpError {
        HttpError { message: message.into(), stage: HttpStage::Exchange }
    }
    fn timeout() -> HttpError {
        HttpError::new("timeout")
    }
    fn of(error: &reqwest::Error) -> HttpError {
        let (message, tls) = cause(error);
        let stage = match error.is_connect() {
            true if tls => HttpStage::Tls,
            true => HttpStage::Connect,
            false => HttpStage::Exchange,
        };
        HttpError { message, stage }
    }
}

/// The head of an answer whose body comes in pieces.
pub struct HttpStream {
    pub status: u16,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, Vec<u8>)>,
    pieces: mpsc::Receiver<Result<Bytes, HttpError>>,
    /// Ends the exchange when the stream is dropped.
    _task: Option<Running<()>>,
}

impl HttpStream {
    /// The next piece of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, HttpError>> {
        self.pieces.recv().await
    }
}

/// A future of a fake's answer.
pub type FakeAnswer = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send>>;

/// Stands in for the network in tests.
pub trait FakeHttp: Send + Sync {
    fn answer(&self, options: &HttpOptions, request: HttpRequest) -> FakeAnswer;
}

impl<F: Fn(&HttpRequest) -> Result<HttpResponse, HttpError> + Send + Sync> FakeHttp for F {
    fn answer(&self, _: &HttpOptions, request: HttpRequest) -> FakeAnswer {
        Box::pin(std::future::ready(self(&request)))
    }
}

/// A client for one set of options; cloning shares it.
#[derive(Clone)]
pub struct HttpClient {
    way: Way,
    control: Option<Handle>,
}

#[derive(Clone)]
enum Way {
    Real(reqwest::Client),
    /// TLS cannot be set up as asked for.
    Broken(HttpError),
    Fake(Arc<dyn FakeHttp>, Arc<HttpOptions>),
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HttpClient")
    }
}

impl HttpClient {
    /// Sends and reads the whole answer. An error status is an answer.
    pub async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        match &self.way {
            Way::Fake(fake, options) => fake.answer(options, request).await,
            Way::Broken(error) => Err(error.clone()),
            Way::Real(client) => {
                let client = client.clone();
                self.run(async move {
                    let limit = request.timeout;
                    tokio::time::timeout(limit, whole(client, request))
                        .await
                        .unwrap_or_else(|_| Err(HttpError::timeout()))
                })
                .await
                .unwrap_or_else(|| Err(HttpError::new("the client was stopped")))
            }
        }
    }

    /// Sends and returns with the answer's head; the body comes in pieces.
    pub async fn open(&self, request: HttpRequest) -> Result<HttpStream, HttpError> {
        let (more, pieces) = mpsc::channel(PIECES);
        let limit = request.timeout;
        let client = match &self.way {
            Way::Fake(fake, options) => {
                let answer = fake.answer(options, request).await?;
                let _ = more.try_send(Ok(answer.body.into()));
                return Ok(HttpStream { status: answer.status, headers: answer.headers, pieces, _task: None });
            }
            Way::Broken(error) => return Err(error.clone()),
            Way::Real(client) => client.clone(),
        };
        let (head, opened) = tokio::sync::oneshot::channel();
        let task = self.spawn(async move {
            let response = match tokio::time::timeout(limit, begin(client, request)).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return drop(head.send(Err(error))),
                Err(_) => return drop(head.send(Err(HttpError::timeout()))),
            };
            let mut response = response;
            if head.send(Ok((response.status().as_u16(), fields(&response)))).is_err() {
                return;
            }
            loop {
                let piece = match tokio::time::timeout(limit, response.chunk()).await {
                    Ok(Ok(Some(piece))) => Ok(piece),
                    Ok(Ok(None)) => return,
                    Ok(Err(error)) => Err(HttpError::of(&error)),
                    Err(_) => Err(HttpError::timeout()),
                };
                let failed = piece.is_err();
                if more.send(piece).await.is_err() || failed {
                    return;
                }
            }
        });
        let (status, headers) = opened.await.unwrap_or_else(|_| Err(HttpError::new("the client was stopped")))?;
        Ok(HttpStream { status, headers, pieces, _task: Some(task) })
    }

    /// On the control threads, or here where there are none.
    async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        match &self.control {
            Some(_) => {
                let mut running = self.spawn(work);
                (&mut running.0).await.ok()
            }
            None => Some(work.await),
        }
    }

    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Running<T> {
        Running(match &self.control {
            Some(control) => control.spawn(work),
            None => tokio::spawn(work),
        })
    }
}

/// A task that ends with whoever waits for it.
struct Running<T>(JoinHandle<T>);

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn begin(client: reqwest::Client, request: HttpRequest) -> Result<reqwest::Response, HttpError> {
    let method = reqwest::Method::from_bytes(request.method.as_bytes())
        .map_err(|_| HttpError::new(format!("not a method: {}", request.method)))?;
    let mut builder = client.request(method, &request.url);
    for (name, value) in &request.headers {
        builder = builder.header(name.as_str(), value.as_slice());
    }
    builder.body(request.body).send().await.map_err(|e| HttpError::of(&e))
}

async fn whole(client: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, HttpError> {
    let max = request.max_response;
    let mut response = begin(client, request).await?;
    let (status, headers) = (response.status().as_u16(), fields(&response));
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|e| HttpError::of(&e))? {
        if body.len() + piece.len() > max {
            return Err(HttpError::new(format!("the answer has more than {max} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(HttpResponse { status, headers, body })
}

fn fields(response: &reqwest::Response) -> Vec<(String, Vec<u8>)> {
    response.headers().iter().map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec())).collect()
}

/// The last cause of a failure (reqwest's own text names the URL alone, which may hold secrets), and whether it is TLS's.
fn cause(error: &reqwest::Error) -> (String, bool) {
    if error.is_timeout() {
        return ("timeout".into(), false);
    }
    let (mut last, mut tls): (&dyn std::error::Error, bool) = (error, false);
    while let Some(next) = last.source() {
        last = next;
        tls |= is_tls(next);
    }
    let message = match last.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => "connection refused".into(),
        Some(std::io::ErrorKind::ConnectionReset) => "connection reset by peer".into(),
        _ if error.is_builder() => format!("the request cannot be made: {last}"),
        _ => last.to_string(),
    };
    (message, tls)
}

/// An I/O error hides from `source` what it was made of.
fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls(inner))
}

/// The clients of the process by their options.
#[derive(Clone, Default)]
pub(crate) struct HttpClients {
    pub(crate) made: Arc<Mutex<HashMap<HttpOptions, HttpClient>>>,
    pub(crate) fake: Option<Arc<dyn FakeHttp>>,
}

impl HttpClients {
    /// `trusted`: certificates in PEM for options that name none, the same for the whole process.
    pub(crate) fn get(
        &self,
        options: &HttpOptions,
        control: Option<&Handle>,
        resolver: Option<&Arc<dyn Resolve>>,
        trusted: Option<&str>,
    ) -> HttpClient {
        if let Some(fake) = &self.fake {
            return HttpClient { way: Way::Fake(fake.clone(), Arc::new(options.clone())), control: control.cloned() };
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.get(options) {
            return client.clone();
        }
        let way = match make(options, resolver, trusted) {
            Ok(client) => Way::Real(client),
            Err(error) => Way::Broken(error),
        };
        let client = HttpClient { way, control: control.cloned() };
        if made.len() < MAX_POOLS {
            made.insert(options.clone(), client.clone());
        }
        client
    }
}

fn make(
    options: &HttpOptions,
    resolver: Option<&Arc<dyn Resolve>>,
    trusted: Option<&str>,
) -> Result<reqwest::Client, HttpError> {
    let ca_pem = options.ca_pem.clone().or_else(|| trusted.map(str::to_owned));
    let tls = ClientTlsConfig {
        verify: options.verify,
        ca_pem,
        client_cert: options.client_cert.clone(),
        alpn: vec![b"http/1.1".to_vec()],
        ..ClientTlsConfig::default()
    };
    let tls = ClientTls::new(&tls).map_err(|e| HttpError::new(e.to_string()))?;
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured((**tls.config()).clone())
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_idle_timeout(options.keepalive)
        .pool_max_idle_per_host(if options.keepalive.is_some() { options.keepalive_pool } else { 0 });
    for proxy in options.proxy.iter().map(HttpProxy::all).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        builder = builder.proxy(proxy);
    }
    if let Some(resolver) = resolver {
        builder = builder.dns_resolver(Arc::new(Names(resolver.clone())));
    }
    builder.build().map_err(|e| HttpError::of(&e))
}

/// The gateway's own resolver as reqwest asks for it.
struct Names(Arc<dyn Resolve>);

impl reqwest::dns::Resolve for Names {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let resolver = self.0.clone();
        Box::pin(async move {
            let found = resolver.resolve(name.as_str()).await?;
            let addresses = found.addresses.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(Box::new(addresses) as reqwest::dns::Addrs)
        })
    }
}
