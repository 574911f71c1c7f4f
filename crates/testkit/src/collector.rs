//! A collector of spans: OTLP over HTTP (protobuf and JSON) and over gRPC, and Zipkin's JSON, version 2 of its API. What OTLP
//! means is read with the crate `opentelemetry-proto`, which the gateway does not use.
//!
//! The surprise: the HTTP side is an [`Upstream`], so a test can make it refuse, hang or answer nonsense; what it was sent
//! is read when a test asks.
#![allow(clippy::expect_used, reason = "a test that cannot have its collector ends there")]

use crate::upstream::{Behaviour, Seen, Upstream};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// Where OTLP over HTTP goes.
pub const OTLP_PATH: &str = "/v1/traces";
/// Where Zipkin's spans go.
pub const ZIPKIN_PATH: &str = "/api/v2/spans";

/// A span as OTLP tells it; ids in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span {
    pub resource: BTreeMap<String, Value>,
    pub scope: String,
    pub name: String,
    pub trace_id: String,
    pub span_id: String,
    /// Empty where it has none.
    pub parent_id: String,
    pub trace_state: String,
    /// 2 is server, 3 client, 1 internal.
    pub kind: i32,
    /// Nanoseconds since the epoch.
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, Value>,
    /// 2 is an error.
    pub status: i32,
    pub message: String,
    /// Fields of the request that brought it.
    pub headers: Vec<(String, String)>,
}

impl Span {
    /// A field of the request that brought it.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

type Exported = Vec<(Vec<(String, String)>, ExportTraceServiceRequest)>;

/// The collector; it ends with this value.
pub struct Collector {
    http: Upstream,
    grpc: SocketAddr,
    by_grpc: Arc<Mutex<Exported>>,
    _stop: oneshot::Sender<()>,
}

impl Collector {
    /// On two free ports of 127.0.0.1.
    pub fn start() -> std::io::Result<Collector> {
        Collector::with(Upstream::start()?, None)
    }

    /// With TLS on both ports.
    pub fn start_tls(config: Arc<rustls::ServerConfig>) -> std::io::Result<Collector> {
        let mut for_grpc = config.as_ref().clone();
        for_grpc.alpn_protocols = vec![b"h2".to_vec()];
        Collector::with(Upstream::start_tls(config)?, Some(Arc::new(for_grpc).into()))
    }

    fn with(http: Upstream, tls: Option<TlsAcceptor>) -> std::io::Result<Collector> {
        http.otherwise(Behaviour::answer(200, ""));
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let grpc = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel();
        let by_grpc = Arc::<Mutex<Exported>>::default();
        let state = by_grpc.clone();
        std::thread::Builder::new().name("collector".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, tls, state) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Collector { http, grpc, by_grpc, _stop: stop })
    }

    /// `host:port` of the HTTP side.
    pub fn address(&self) -> String {
        self.http.addr().to_string()
    }

    /// `host:port` of the gRPC side.
    pub fn grpc_address(&self) -> String {
        self.grpc.to_string()
    }

    /// Where Zipkin's reporters post to.
    pub fn zipkin_endpoint(&self) -> String {
        format!("http://{}{ZIPKIN_PATH}", self.http.addr())
    }

    /// The HTTP side, to make it misbehave.
    pub fn http(&self) -> &Upstream {
        &self.http
    }

    /// All OTLP spans so far.
    pub fn spans(&self) -> Vec<Span> {
        let mut all = Vec::new();
        for seen in self.http.seen().iter().filter(|seen| seen.path() == OTLP_PATH) {
            read(&seen.headers, &decode(seen), &mut all);
        }
        for (headers, request) in self.by_grpc.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            read(headers, request, &mut all);
        }
        all
    }

    /// All Zipkin spans so far.
    pub fn zipkin(&self) -> Vec<Value> {
        let posts = self.http.seen().into_iter().filter(|seen| seen.path() == ZIPKIN_PATH);
        posts.flat_map(|seen| serde_json::from_slice::<Vec<Value>>(&seen.body).expect("a list of spans")).collect()
    }

    /// OTLP spans, once there are so many; ends the test otherwise.
    pub fn wait_for(&self, count: usize, limit: Duration) -> Vec<Span> {
        wait(count, limit, || self.spans())
    }

    /// Zipkin spans, once there are so many; ends the test otherwise.
    pub fn wait_for_zipkin(&self, count: usize, limit: Duration) -> Vec<Value> {
        wait(count, limit, || self.zipkin())
    }
}

fn wait<T: std::fmt::Debug>(count: usize, limit: Duration, all: impl Fn() -> Vec<T>) -> Vec<T> {
    let end = Instant::now() + limit;
    loop {
        let spans = all();
        if spans.len() >= count {
            return spans;
        }
        assert!(Instant::now() < end, "{} of {count} spans: {spans:#?}", spans.len());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One export over HTTP: JSON where its type says so, protobuf otherwise.
fn decode(seen: &Seen) -> ExportTraceServiceRequest {
    match seen.header("content-type") {
        Some("application/json") => serde_json::from_slice(&seen.body).expect("OTLP as JSON"),
        Some("application/x-protobuf") => {
            ExportTraceServiceRequest::decode(seen.body.as_slice()).expect("OTLP as protobuf")
        }
        other => panic!("OTLP has no form {other:?}"),
    }
}

fn read(headers: &[(String, String)], request: &ExportTraceServiceRequest, out: &mut Vec<Span>) {
    for of_resource in &request.resource_spans {
        let resource = attributes(of_resource.resource.as_ref().map_or(&[][..], |r| &r.attributes));
        for of_scope in &of_resource.scope_spans {
            let scope = of_scope.scope.as_ref().map(|scope| scope.name.clone()).unwrap_or_default();
            out.extend(of_scope.spans.iter().map(|span| Span {
                resource: resource.clone(),
                scope: scope.clone(),
                name: span.name.clone(),
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent_id: hex(&span.parent_span_id),
                trace_state: span.trace_state.clone(),
                kind: span.kind,
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                attributes: attributes(&span.attributes),
                status: span.status.as_ref().map_or(0, |status| status.code),
                message: span.status.as_ref().map(|status| status.message.clone()).unwrap_or_default(),
                headers: headers.to_vec(),
            }));
        }
    }
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, Value> {
    list.iter().map(|pair| (pair.key.clone(), value(pair.value.as_ref()))).collect()
}

fn value(any: Option<&AnyValue>) -> Value {
    match any.and_then(|any| any.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => json!(text),
        Some(any_value::Value::BoolValue(yes)) => json!(yes),
        Some(any_value::Value::IntValue(number)) => json!(number),
        Some(any_value::Value::DoubleValue(number)) => json!(number),
        Some(other) => json!(format!("{other:?}")),
        None => Value::Null,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The gRPC side: `TraceService/Export` and nothing else.
async fn serve(listener: std::net::TcpListener, tls: Option<TlsAcceptor>, exported: Arc<Mutex<Exported>>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    while let Ok((socket, _)) = listener.accept().await {
        let (exported, tls) = (exported.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => exchange(socket, exported).await,
                Some(tls) => {
                    if let Ok(socket) = tls.accept(socket).await {
                        exchange(socket, exported).await;
                    }
                }
            }
        });
    }
}

async fn exchange(socket: impl AsyncRead + AsyncWrite + Unpin, exported: Arc<Mutex<Exported>>) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(export(request, respond, exported.clone()));
    }
}

async fn export(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    exported: Arc<Mutex<Exported>>,
) {
    assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    let headers = request.headers().iter();
    let headers = headers.map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect();
    let mut body = request.into_body();
    let mut message = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        message.extend_from_slice(&data);
    }
    // A byte for compression and four of length stand before the message.
    let decoded = message.get(5..).map(ExportTraceServiceRequest::decode).expect("a message").expect("OTLP");
    exported.lock().unwrap_or_else(PoisonError::into_inner).push((headers, decoded));
    let head = http::Response::builder().status(200).header("content-type", "application/grpc").body(());
    let Ok(mut stream) = respond.send_response(head.expect("a head"), false) else { return };
    let _ = stream.send_data(Bytes::from_static(&[0; 5]), false);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let _ = stream.send_trailers(trailers);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Wire;

    #[test]
    fn otlp_as_json_is_read_too() {
        let collector = Collector::start().expect("a collector");
        let span = json!({
            "traceId": "80f198ee56343ba864fe8b2a57d3eff7", "spanId": "e457b5a2e4d86bd1", "name": "GET /", "kind": 2,
            "startTimeUnixNano": "1", "endTimeUnixNano": "2",
            "attributes": [{"key": "http.status_code", "value": {"intValue": "200"}}],
        });
        let scope = json!({"scope": {"name": "s"}, "spans": [span]});
        let body = json!({"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [scope]}]}).to_string();
        let request = format!(
            "POST /v1/traces HTTP/1.1\r\nHost: c\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Wire::connect(collector.http().addr()).expect("a connection").request(request).expect("an answer");
        let spans = collector.wait_for(1, Duration::from_secs(5));
        assert_eq!(
            (spans[0].span_id.as_str(), &spans[0].attributes["http.status_code"]),
            ("e457b5a2e4d86bd1", &json!(200))
        );
    }
}
