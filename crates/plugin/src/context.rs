//! The request context: everything that is known of one request while it passes.
//!
//! It is reused from request to request of a worker: [`Context::reset`] keeps its memory.
use crate::answer_tap::{AnswerTap, Background, BodySource};
use crate::consumer::{ConsumerMatch, Consumers};
use crate::reply::{Reply, ReplyBody};
use crate::tap::{BodyDecoder, RequestTap};
use crate::trace::Trace;
use sluice_http::{Known, Method, Request, Response};
use smallvec::SmallVec;
use std::any::Any;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// What TLS told of the client's connection.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    pub server_name: Option<Box<str>>,
    /// nginx's name: `TLSv1.3`.
    pub protocol: &'static str,
    pub cipher: Box<str>,
    pub session_reused: bool,
    /// `SUCCESS`, `NONE` or `FAILED:reason` as `$ssl_client_verify`.
    pub client_verify: Box<str>,
    /// The client's certificate, DER.
    pub client_certificate: Option<Vec<u8>>,
    /// The ssl object that served the handshake.
    pub ssl_id: Arc<str>,
    /// The protocol that was agreed on.
    pub alpn: Option<Alpn>,
}

/// The protocols that clients may agree on by ALPN; a byte, as idle connections carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    Http11,
    Http2,
}

impl Alpn {
    /// By its name on the wire.
    pub fn parse(name: &[u8]) -> Option<Alpn> {
        match name {
            b"http/1.1" => Some(Alpn::Http11),
            b"h2" => Some(Alpn::Http2),
            _ => None,
        }
    }
    pub fn name(self) -> &'static str {
        match self {
            Alpn::Http11 => "http/1.1",
            Alpn::Http2 => "h2",
        }
    }
}

/// The client's connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The peer of the socket, or what PROXY protocol said.
    pub peer: SocketAddr,
    /// [`Connection::peer`]'s address as text, as it goes into headers and logs.
    pub peer_text: Box<str>,
    /// Our side of the socket.
    pub local: SocketAddr,
    /// The socket's peer where PROXY protocol named another client.
    pub proxy_peer: Option<SocketAddr>,
    pub tls: Option<TlsInfo>,
    /// Requests on this connection so far, this one included.
    pub requests: std::cell::Cell<u64>,
}

impl Connection {
    pub fn new(peer: SocketAddr, local: SocketAddr, tls: Option<TlsInfo>) -> Connection {
        let peer_text = peer.ip().to_canonical().to_string().into();
        Connection { peer, peer_text, local, proxy_peer: None, tls, requests: std::cell::Cell::new(0) }
    }
    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// Bytes of the largest body that is parsed for a variable; a larger one has no such variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedBodies {
    /// `graphql.max_size`
    pub graphql: usize,
    /// `apisix.max_post_args_readable_size`
    pub post_args: usize,
}

impl Default for ParsedBodies {
    fn default() -> ParsedBodies {
        ParsedBodies { graphql: 1 << 20, post_args: 64 << 20 }
    }
}

/// The matched route, as plugins and variables see it.
#[derive(Clone, Debug, Default)]
pub struct RouteInfo {
    pub route_id: Arc<str>,
    pub route_name: Option<Arc<str>>,
    pub service_id: Option<Arc<str>>,
    pub service_name: Option<Arc<str>>,
    /// The route's labels.
    pub labels: serde_json::Map<String, serde_json::Value>,
    /// As configured, for `$matched_uri` and `$matched_host`.
    pub uris: Vec<Arc<str>>,
    pub hosts: Vec<Arc<str>>,
    /// There where one of the route's plugins reads it ([`crate::Info::objects`]).
    pub objects: Option<Arc<RouteObjects>>,
}

/// A route and its service as stored, defaults included, without their upstreams.
#[derive(Clone, Debug, Default)]
pub struct RouteObjects {
    pub route: serde_json::Value,
    pub service: Option<serde_json::Value>,
}

/// An upstream other than the route's, chosen by a plugin such as `traffic-split`.
#[derive(Clone)]
pub enum UpstreamRef {
    /// A stored upstream, resolved when the request is sent (500 where it does not exist any more).
    Id(Arc<str>),
    /// One that belongs to the plugin's configuration.
    Inline(Arc<sluice_upstream::Upstream>),
}

/// What is going to be sent to the upstream, as far as plugins have changed it.
#[derive(Default)]
pub struct UpstreamRequest {
    /// Path and query instead of the client's (APISIX: `upstream_uri`).
    pub target: Option<Vec<u8>>,
    /// The `Host` field instead of what `pass_host` says (APISIX: `upstream_host`).
    pub host: Option<Vec<u8>>,
    /// `http`, `https`, `grpc`, `grpcs` instead of the upstream's (APISIX: `upstream_scheme`).
    pub scheme: Option<Box<str>>,
    /// Another upstream.
    pub upstream: Option<UpstreamRef>,
    /// A body instead of the client's.
    pub body: Option<Vec<u8>>,
    /// Changes the client's body on its way, piece by piece.
    pub decoder: Option<Box<dyn BodyDecoder>>,
    /// What a node that speaks HTTP/2 is told instead of the client's `Content-Type` (apisix/cli/ngx_tpl.lua, `@grpc_pass`). The
    /// client's own still says how it reads the gateway's errors.
    pub content_type: Option<&'static str>,
    /// A head without a body's first piece waits for it, so that a call which fails without a message is told by its head alone,
    /// wherever its node put the status (gRPC over HTTP2, "Trailers-Only").
    pub awaits_message: bool,
    /// The chosen node's name as configured, when it is not an address. The gateway sets it at each try.
    pub node_name: Option<Arc<str>>,
    /// The chosen node's `metadata` as configured. The gateway sets it at each try.
    pub node_metadata: Option<Arc<serde_json::Value>>,
    withheld: u32,
}

impl UpstreamRequest {
    /// Keeps the gateway from adding this field of its own, such as `X-Forwarded-Host`: a plugin has removed it.
    pub fn withhold(&mut self, known: Known) {
        self.withheld |= 1 << known as u32;
    }
    /// Whether [`UpstreamRequest::withhold`] was called for the field.
    #[inline]
    pub fn withholds(&self, known: Known) -> bool {
        self.withheld & (1 << known as u32) != 0
    }
}

/// The outcome of a rate limit, kept as numbers because few logs print it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RateLimiting {
    /// The counter's whole key.
    pub key: SmallVec<[u8; 64]>,
    pub limit: u64,
    pub remaining: u64,
    /// Whole seconds until the window ends.
    pub reset: u64,
}

impl RateLimiting {
    /// `$rate_limiting_info` (apisix/core/utils.lua `set_var_rate_limiting_info`). The key is not escaped there either.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = b"{\"rate_limiting_key\":\"".to_vec();
        out.extend_from_slice(&self.key);
        let RateLimiting { limit, remaining, reset, .. } = self;
        let rest = format!(
            "\",\"rate_limiting_limit\":{limit},\"rate_limiting_remaining\":{remaining},\"rate_limiting_reset\":{reset}}}"
        );
        out.extend_from_slice(rest.as_bytes());
        out
    }
}

/// One try to get an answer from a node.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub address: SocketAddr,
    /// The answer's status; 502 or 504 where there was none.
    pub status: u16,
    pub connect_time: Option<Duration>,
    pub header_time: Option<Duration>,
    pub response_time: Duration,
}

/// A piece of a response's body on its way to the client.
#[derive(Debug, Default)]
pub struct BodyChunk {
    /// May be changed, emptied or extended.
    pub data: Vec<u8>,
    /// Nothing comes after this piece.
    pub last: bool,
}

/// One request.
pub struct Context {
    pub request: Request,
    pub response: Response,
    pub connection: Rc<Connection>,
    /// When the request's head was whole.
    pub started: Instant,
    pub route: Option<Arc<RouteInfo>>,
    /// The pattern that matched (`$matched_uri`).
    pub matched_uri: Option<Arc<str>>,
    pub matched_host: Option<Arc<str>>,
    /// Parameters captured by the router.
    pub uri_params: SmallVec<[(Arc<str>, Box<str>); 2]>,
    pub consumers: Arc<Consumers>,
    pub consumer: Option<ConsumerMatch>,
    pub upstream: UpstreamRequest,
    pub attempts: SmallVec<[Attempt; 1]>,
    /// The body, once it is in memory.
    pub request_body: Option<Vec<u8>>,
    /// The same for all requests of a worker.
    pub parsed_bodies: ParsedBodies,
    /// Response bytes written to the client, head included (`$bytes_sent`).
    pub bytes_sent: u64,
    /// Body bytes written to the client (`$body_bytes_sent`).
    pub body_bytes_sent: u64,
    /// Bytes of response body received from the upstream.
    pub upstream_body_bytes: u64,
    /// The response is the gateway's own, not an upstream's.
    pub own_response: bool,
    /// `client-control`: limit of the request's body in bytes instead of `client_max_body_size`.
    pub max_body_size: Option<u64>,
    /// What the last rate limit of this request found (`$rate_limiting_info`).
    pub rate_limiting: Option<RateLimiting>,
    /// Plugins that run no more for this request (a `workflow` action ran them already).
    pub skip_plugins: SmallVec<[&'static str; 2]>,
    /// Watches the request on its way to the upstream.
    pub tap: Option<Box<dyn RequestTap>>,
    /// Watches the answer on its way from the upstream.
    pub answer_tap: Option<Box<dyn AnswerTap>>,
    /// The body of a [`ReplyBody::Streamed`].
    pub body_source: Option<Box<dyn BodySource>>,
    /// To be done when the client has its answer.
    pub background: Option<Box<Background>>,
    /// Which hooks ran, where debug mode or `debug-logger` asks for it.
    pub trace: Option<Box<Trace>>,
    client: Option<(IpAddr, u16, Box<str>)>,
    variables: Vec<(Box<str>, Vec<u8>)>,
    extensions: Vec<Box<dyn Any>>,
    filter_body: bool,
    client_head: Option<bool>,
    request_id: Option<Box<str>>,
    apisix_request_id: Option<Box<str>>,
    begun: Option<Box<Reply>>,
    early_headers: Vec<(Cow<'static, str>, SmallVec<[u8; 24]>)>,
}

impl Context {
    /// A context for a connection. The proxy keeps and reuses them.
    pub fn new(connection: Rc<Connection>, consumers: Arc<Consumers>) -> Context {
        Context {
            request: Request::default(),
            response: Response::default(),
            connection,
            started: Instant::now(),
            route: None,
            matched_uri: None,
            matched_host: None,
            uri_params: SmallVec::new(),
            consumers,
            consumer: None,
            upstream: UpstreamRequest::default(),
            attempts: SmallVec::new(),
            request_body: None,
            parsed_bodies: ParsedBodies::default(),
            bytes_sent: 0,
            body_bytes_sent: 0,
            upstream_body_bytes: 0,
            own_response: false,
            max_body_size: None,
            rate_limiting: None,
            skip_plugins: SmallVec::new(),
            tap: None,
            answer_tap: None,
            body_source: None,
            background: None,
            trace: None,
            client: None,
            variables: Vec::new(),
            extensions: Vec::new(),
            filter_body: false,
            client_head: None,
            request_id: None,
            apisix_request_id: None,
            begun: None,
            early_headers: Vec::new(),
        }
    }

    /// Makes the context ready for the next request. The request head is cleared by its parser.
    pub fn reset(&mut self) {
        self.request.clear();
        self.response.clear();
        self.route = None;
        self.matched_uri = None;
        self.matched_host = None;
        self.uri_params.clear();
        self.consumer = None;
        self.upstream = UpstreamRequest::default();
        self.attempts.clear();
        self.request_body = None;
        self.bytes_sent = 0;
        self.body_bytes_sent = 0;
        self.upstream_body_bytes = 0;
        self.own_response = false;
        self.max_body_size = None;
        self.rate_limiting = None;
        self.skip_plugins.clear();
        self.tap = None;
        self.answer_tap = None;
        self.body_source = None;
        self.background = None;
        self.trace = None;
        self.client = None;
        self.variables.clear();
        self.extensions.clear();
        self.filter_body = false;
        self.client_head = None;
        self.request_id = None;
        self.apisix_request_id = None;
        self.begun = None;
        self.early_headers.clear();
    }

    /// The same request, as far as its phases have come, to be sent once more without its client: no body, no filters.
    pub fn fork(&self) -> Context {
        let mut fork = Context::new(self.connection.clone(), self.consumers.clone());
        fork.request = self.request.clone();
        fork.started = Instant::now();
        fork.route = self.route.clone();
        fork.matched_uri = self.matched_uri.clone();
        fork.matched_host = self.matched_host.clone();
        fork.uri_params = self.uri_params.clone();
        fork.consumer = self.consumer.clone();
        let UpstreamRequest { target, host, scheme, upstream, withheld, .. } = &self.upstream;
        fork.upstream = UpstreamRequest {
            target: target.clone(),
            host: host.clone(),
            scheme: scheme.clone(),
            upstream: upstream.clone(),
            withheld: *withheld,
            ..UpstreamRequest::default()
        };
        fork.parsed_bodies = self.parsed_bodies;
        fork.skip_plugins = self.skip_plugins.clone();
        fork.client = self.client.clone();
        fork.variables = self.variables.clone();
        fork.client_head = self.client_head;
        fork.request_id = self.request_id.clone();
        fork.apisix_request_id = self.apisix_request_id.clone();
        fork
    }

    /// The client's address: the connection's, unless `real-ip` found another (`$remote_addr`).
    pub fn client_ip(&self) -> IpAddr {
        match &self.client {
            Some((ip, _, _)) => *ip,
            None => self.connection.peer.ip().to_canonical(),
        }
    }
    /// The route's id, or nothing where none matched: the field `route` of lines in the operator's log.
    pub fn route_id(&self) -> &str {
        self.route.as_ref().map_or("", |route| &route.route_id)
    }
    /// [`Context::client_ip`] as text.
    pub fn client_ip_text(&self) -> &str {
        match &self.client {
            Some((_, _, text)) => text,
            None => &self.connection.peer_text,
        }
    }
    /// `$remote_port`.
    pub fn client_port(&self) -> u16 {
        self.client.as_ref().map_or(self.connection.peer.port(), |c| c.1)
    }
    /// Replaces the client's address (`real-ip`).
    pub fn set_client(&mut self, ip: IpAddr, port: u16) {
        self.client = Some((ip, port, ip.to_string().into()));
    }

    /// Wall time of [`Context::started`].
    pub fn started_wall(&self) -> SystemTime {
        SystemTime::now() - self.started.elapsed()
    }

    /// The variables that plugins have set.
    pub(crate) fn custom_variables(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.variables.iter().map(|(name, value)| (&**name, value.as_slice()))
    }
    /// Whether no plugin has set a variable.
    pub(crate) fn no_variables(&self) -> bool {
        self.variables.is_empty()
    }

    /// Adds a field to the response before it exists: it will stand beside the upstream's fields, or the reply's. A short
    /// value costs no allocation.
    pub fn set_response_header(&mut self, name: impl Into<Cow<'static, str>>, value: impl AsRef<[u8]>) {
        let (name, value) = (name.into(), SmallVec::from_slice(value.as_ref()));
        match self.early_headers.iter_mut().find(|(n, _)| n.eq_ignore_ascii_case(&name)) {
            Some((_, v)) => *v = value,
            None => self.early_headers.push((name, value)),
        }
    }
    /// As [`Context::set_response_header`], beside values that the field has already.
    pub fn add_response_header(&mut self, name: impl Into<Cow<'static, str>>, value: impl AsRef<[u8]>) {
        self.early_headers.push((name.into(), SmallVec::from_slice(value.as_ref())));
    }
    /// Takes back what [`Context::set_response_header`] has set.
    pub fn clear_response_header(&mut self, name: &str) {
        self.early_headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }
    /// The fields set by [`Context::set_response_header`] so far.
    pub fn early_headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.early_headers.iter().map(|(n, v)| (n.as_ref(), v.as_slice()))
    }
    /// Moves the fields of [`Context::set_response_header`] into [`Context::response`]. A type that the response has
    /// already stands (nginx: the upstream's `Content-Type` replaces one set before).
    pub fn apply_early_headers(&mut self) {
        for (name, value) in self.early_headers.drain(..) {
            if name.eq_ignore_ascii_case("content-type") && self.response.headers.known(Known::ContentType).is_some() {
                continue;
            }
            self.response.headers.append(&name, &value);
        }
    }

    /// A variable that a plugin has set.
    pub fn custom_variable(&self, name: &str) -> Option<&[u8]> {
        self.variables.iter().rev().find(|(n, _)| n.as_ref() == name).map(|(_, v)| v.as_slice())
    }
    /// Sets a variable for later plugins, expressions and logs (APISIX: `ctx.var.name = value`).
    pub fn set_variable(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        match self.variables.iter_mut().find(|(n, _)| n.as_ref() == name) {
            Some((_, v)) => *v = value.into(),
            None => self.variables.push((name.into(), value.into())),
        }
    }

    /// Begins an answer while the other plugins still run (`ngx.say`): it is sent when the request phases are over, and the
    /// upstream is not asked. The first call decides the status, later ones add to the body.
    pub fn begin_reply(&mut self, status: u16, body: &[u8]) {
        let begun = self.begun.get_or_insert_with(|| Box::new(Reply::text(status, Vec::new())));
        if let ReplyBody::Bytes(bytes) = &mut begun.body {
            bytes.extend_from_slice(body);
        }
    }
    /// Takes what [`Context::begin_reply`] has begun; `end` is what a plugin then answered, whose body comes last.
    pub fn take_begun(&mut self, end: Option<&Reply>) -> Option<Reply> {
        let mut begun = self.begun.take()?;
        if let (ReplyBody::Bytes(bytes), Some(ReplyBody::Bytes(more))) = (&mut begun.body, end.map(|e| &e.body)) {
            bytes.extend_from_slice(more);
        }
        Some(*begun)
    }

    /// Forgets what [`Context::set_variable`] has set; the real variable is seen again.
    pub fn unset_variable(&mut self, name: &str) {
        self.variables.retain(|(n, _)| n.as_ref() != name);
    }

    /// Keeps a value for a later phase of the same request; one per type.
    pub fn insert<T: 'static>(&mut self, value: T) {
        match self.extensions.iter_mut().find_map(|e| e.downcast_mut::<T>()) {
            Some(old) => *old = value,
            None => self.extensions.push(Box::new(value)),
        }
    }
    /// A value kept by [`Context::insert`].
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.extensions.iter().find_map(|e| e.downcast_ref::<T>())
    }
    /// A value kept by [`Context::insert`], to change.
    pub fn get_mut<T: 'static>(&mut self) -> Option<&mut T> {
        self.extensions.iter_mut().find_map(|e| e.downcast_mut::<T>())
    }
    /// Takes a kept value out.
    pub fn take<T: 'static>(&mut self) -> Option<T> {
        let at = self.extensions.iter().position(|e| e.is::<T>())?;
        self.extensions.swap_remove(at).downcast::<T>().ok().map(|b| *b)
    }

    /// Asks that `body_filter` hooks see this response's body. Without it bytes pass untouched.
    pub fn filter_body(&mut self) {
        self.filter_body = true;
    }
    /// As [`Context::filter_body`], where the body will be another: removes the fields that describe the old one
    /// (apisix/core/response.lua `clear_header_as_body_modified`).
    pub fn body_modified(&mut self) {
        for name in ["content-length", "content-encoding", "last-modified", "etag"] {
            self.response.headers.remove(name);
        }
        self.filter_body();
    }
    /// Whether some plugin wants the body.
    pub fn wants_body(&self) -> bool {
        self.filter_body
    }

    /// `$request_id` (nginx: 16 random bytes in hexadecimal), made on first use.
    pub fn request_id(&mut self) -> &str {
        self.request_id.get_or_insert_with(|| crate::env::random_hex_16().into())
    }
    /// `$request_id`, if it was made.
    pub fn known_request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// Changes the method for the upstream. What the client asked for still decides whether it gets a body.
    pub fn set_method(&mut self, token: &str) {
        self.client_head.get_or_insert(self.request.method == Method::Head);
        self.request.set_method(token);
    }
    /// Whether the client sent HEAD, whatever the upstream gets.
    #[inline]
    pub fn client_sent_head(&self) -> bool {
        self.client_head.unwrap_or(self.request.method == Method::Head)
    }

    /// Sets `$apisix_request_id`, which is `$request_id` otherwise (plugin `request-id`).
    pub fn set_apisix_request_id(&mut self, id: impl Into<Box<str>>) {
        self.apisix_request_id = Some(id.into());
    }
    /// `$apisix_request_id`, if a plugin has set it or `$request_id` was made.
    pub fn apisix_request_id(&self) -> Option<&str> {
        self.apisix_request_id.as_deref().or(self.request_id.as_deref())
    }

    /// The path and query that the upstream will get.
    pub fn upstream_target(&self) -> &[u8] {
        self.upstream.target.as_deref().unwrap_or(self.request.target_bytes())
    }

    /// A context for unit tests: a client at 127.0.0.1 with no route.
    pub fn for_tests(method: &str, target: &str) -> Context {
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 40000));
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 9080));
        let mut cx = Context::new(Rc::new(Connection::new(peer, local, None)), Arc::new(Consumers::default()));
        cx.request.assemble(method, target, "localhost", &[]);
        cx
    }
}
