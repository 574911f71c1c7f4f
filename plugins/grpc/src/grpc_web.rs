//! `grpc-web`: lets browsers call gRPC services, in the protocol gRPC-Web.
//!
//! Use it on routes whose upstream has scheme `grpc` or `grpcs`. Clients send `POST` with a `Content-Type` of
//! `application/grpc-web`, `application/grpc-web+proto`, or the same with `grpc-web-text` for bodies in base64, over HTTP/1.1 or
//! HTTP/2. The route's path ends with `*`, what the `*` stands for is the call (`/package.Service/Method`); without a `*` the
//! path is the call. Messages pass as they come, in both directions, and nothing is kept in memory; the trailers come as the last
//! frame of the answer's body, or in its head where there is no message.
//!
//! `OPTIONS` gets 204, other methods 405, other types 400. Every answer gets CORS fields; an origin that `cors` has allowed stands.
//!
//! Different from APISIX: `max_req_body_size` bounds what is passed on, as no body is kept; all trailers are told, not
//! `grpc-status` and `grpc-message` alone; trailers do not follow the body a second time; the gateway's own errors come as
//! `grpc-status` in the head.
//!
//! Source: apisix/plugins/grpc-web.lua. The surprise: each piece of a text answer is base64 with padding of its own, so that it can
//! be read before the next one comes.
use crate::base64_stream::Base64Stream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_http::h1::Framing;
use sluice_http::{Headers, Known};
use sluice_plugin::{
    BodyChunk, BodyDecoder, BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Reply, Undecodable,
};

/// Configuration of `grpc-web`.
#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// Requests with larger bodies are refused (bytes).
    #[serde(default = "default_size")]
    #[schemars(range(min = 1))]
    max_req_body_size: u64,
    /// `Access-Control-Allow-Headers`, separated by commas.
    #[serde(default = "default_headers")]
    cors_allow_headers: String,
}

fn default_size() -> u64 {
    64 << 20
}

fn default_headers() -> String {
    "content-type,x-grpc-web,x-user-agent".into()
}

/// What a request of this protocol needs to know of itself when its answer comes.
struct Call {
    /// The client's `Content-Type`, and the answer's.
    kind: Vec<u8>,
    text: bool,
    /// The status stands in the answer's head.
    told: bool,
}

/// A body of which only its end tells how long it is.
struct Unsized {
    limit: u64,
    seen: u64,
    text: Option<Base64Stream>,
}

impl BodyDecoder for Unsized {
    fn begin(&mut self) {
        self.seen = 0;
        self.text.iter_mut().for_each(Base64Stream::begin);
    }

    fn piece(&mut self, payload: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), Undecodable> {
        self.seen += payload.len() as u64;
        if self.seen > self.limit {
            tracing::error!("failed to read request body, err: the limit is {} bytes", self.limit);
            return Err(Undecodable);
        }
        match &mut self.text {
            Some(text) => text.piece(payload, last, out),
            None => {
                out.extend_from_slice(payload);
                Ok(())
            }
        }
    }
}

/// Answered by this plugin with a status alone.
struct Refused;

pub struct GrpcWeb {
    max_size: u64,
    allow_headers: String,
}

impl Define for GrpcWeb {
    const INFO: Info = Info::new("grpc-web", 505, Phases::ACCESS.and(Phases::HEADER_FILTER).and(Phases::BODY_FILTER));
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        Ok(GrpcWeb { max_size: config.max_req_body_size, allow_headers: config.cors_allow_headers })
    }
}

/// The path was decoded to be matched. nginx encodes so much of it when it is sent on (`ngx_escape_uri`).
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Whether a type is of this protocol, and then whether its bodies are base64. Parameters are none of it.
fn is_text(kind: &[u8]) -> Option<bool> {
    match kind {
        b"application/grpc-web" | b"application/grpc-web+proto" => Some(false),
        b"application/grpc-web-text" | b"application/grpc-web-text+proto" => Some(true),
        _ => None,
    }
}

impl GrpcWeb {
    /// Makes the call of it; the error is the status to answer with.
    fn accept(&self, cx: &mut Context) -> Result<(), u16> {
        let method = cx.request.method_text();
        if method == "OPTIONS" {
            return Err(204);
        }
        if method != "POST" {
            tracing::error!("request method: `{method}` invalid");
            return Err(405);
        }
        let kind = cx.request.headers.known(Known::ContentType).unwrap_or_default().to_vec();
        let Some(is_text) = is_text(&kind) else {
            tracing::error!("request Content-Type: `{}` invalid", String::from_utf8_lossy(&kind));
            return Err(400);
        };
        let size = match (&cx.request_body, cx.request.framing) {
            (Some(body), _) => body.len() as u64,
            (None, Framing::Length(size)) => size,
            (None, Framing::None) => 0,
            // Only its end will tell.
            (None, Framing::Chunked | Framing::Close) => 1,
        };
        if size == 0 || size > self.max_size {
            tracing::error!("failed to read request body, err: {size} bytes, the limit is {}", self.max_size);
            return Err(400);
        }
        let path = cx.uri_params.iter().find(|(name, _)| name.as_ref() == ":ext").map(|(_, rest)| rest.clone());
        if let Some(path) = path.filter(|path| !path.is_empty()) {
            let slash = if path.starts_with('/') { "" } else { "/" };
            let path = utf8_percent_encode(&path, ESCAPED);
            let query = cx.request.query().map_or(String::new(), |query| format!("?{query}"));
            cx.upstream.target = Some(format!("{slash}{path}{query}").into_bytes());
        }
        let text = is_text.then(Base64Stream::default);
        match (&cx.request_body, text) {
            (None, text) if !matches!(cx.request.framing, Framing::Length(_)) => {
                cx.upstream.decoder = Some(Box::new(Unsized { limit: self.max_size, seen: 0, text }));
            }
            (None, Some(decoder)) => cx.upstream.decoder = Some(Box::new(decoder)),
            (Some(body), Some(mut decoder)) => {
                let mut decoded = Vec::with_capacity(body.len() / 4 * 3);
                let undecodable = |Undecodable| {
                    tracing::error!("failed to decode request body");
                    400u16
                };
                decoder.piece(body, true, &mut decoded).map_err(undecodable)?;
                cx.upstream.body = Some(decoded);
            }
            (_, None) => {}
        }
        cx.request.headers.set("Content-Type", "application/grpc");
        cx.insert(Call { kind, text: is_text, told: false });
        Ok(())
    }
}

/// The trailers as the body's last frame (PROTOCOL-WEB of gRPC). Status and message come first, as APISIX writes them.
fn frame(trailers: Option<&Headers>) -> Vec<u8> {
    let field = |name: &str| trailers.and_then(|own| own.get(name));
    let (status, message): (&[u8], &[u8]) = match field("grpc-status").filter(|status| !status.is_empty()) {
        Some(status) => (status, field("grpc-message").unwrap_or_default()),
        None => (b"2", b"upstream grpc status not received"),
    };
    let mut frame = vec![0x80, 0, 0, 0, 0];
    let mut line = |name: &[u8], value: &[u8]| {
        frame.extend_from_slice(name);
        frame.push(b':');
        frame.extend_from_slice(value);
        frame.extend_from_slice(b"\r\n");
    };
    line(b"grpc-status", status);
    line(b"grpc-message", message);
    for (name, value) in trailers.into_iter().flat_map(Headers::iter) {
        if name != b"grpc-status" && name != b"grpc-message" {
            line(name, value);
        }
    }
    // What an upstream may send of trailers is far below 4 GiB.
    let length = u32::try_from(frame.len() - 5).unwrap_or(u32::MAX);
    if let Some(place) = frame.get_mut(1..5) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    frame
}

impl Plugin for GrpcWeb {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        match self.accept(cx) {
            Ok(()) => Flow::Next,
            Err(status) => {
                cx.insert(Refused);
                let reply = Reply::status(status);
                // The page has no charset there.
                Flow::reply(if status == 204 { reply } else { reply.header("Content-Type", "text/html") })
            }
        }
    }

    fn header_filter(&self, cx: &mut Context) {
        let headers = &mut cx.response.headers;
        if cx.request.method_text() == "OPTIONS" {
            headers.set("Access-Control-Allow-Methods", "POST");
            headers.set("Access-Control-Allow-Headers", &self.allow_headers);
        }
        if !headers.contains("access-control-allow-origin") {
            headers.set("Access-Control-Allow-Origin", "*");
        }
        headers.set("Access-Control-Expose-Headers", "grpc-message,grpc-status");
        if cx.get::<Refused>().is_some() {
            return;
        }
        let told = cx.response.headers.contains("grpc-status");
        let Some(call) = cx.get_mut::<Call>() else { return };
        call.told = told;
        let kind = call.kind.clone();
        cx.response.headers.set("Content-Type", kind);
        cx.response.headers.remove("content-length");
        cx.filter_body();
    }

    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        let Some(&Call { text, told, .. }) = cx.get::<Call>() else { return };
        if text && !chunk.data.is_empty() {
            chunk.data = STANDARD.encode(&chunk.data).into_bytes();
        }
        if !chunk.last || told {
            return;
        }
        let frame = frame(cx.response.trailers.as_deref());
        // They are a part of the body now; logs may still want them.
        if let Some(trailers) = &mut cx.response.trailers {
            trailers.withhold();
        }
        match text {
            true => chunk.data.extend_from_slice(STANDARD.encode(frame).as_bytes()),
            false => chunk.data.extend_from_slice(&frame),
        }
    }
}

#[cfg(test)]
mod tests;
