//! Where spans go: OTLP over HTTP (protobuf), or over gRPC where the collector's address begins with `grpc://` or `grpcs://`.
use super::otlp;
use crate::dial::{self, Dial};
use bytes::{Buf, BufMut};
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use sluice_net::tls::{ClientTls, ClientTlsConfig};
use sluice_plugin::{BuildError, Env, HttpClient, HttpOptions, HttpRequest};
use sluice_telemetry::{BatchError, BatchSink};
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// The gateway as it names itself among what makes spans; people filter by it.
const SCOPE: &str = "opentelemetry-lua";
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// One collector.
pub struct Sink {
    way: Way,
    /// Attributes of the resource, encoded.
    resource: Vec<u8>,
    address: String,
}

enum Way {
    Http(HttpClient, HttpRequest),
    Grpc {
        channel: Channel,
        metadata: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
        timeout: Duration,
    },
    /// The address cannot be used.
    None(String),
}

impl Sink {
    /// Needs to be within the control runtime, as the gRPC client starts a task.
    pub fn new(env: &Env, address: &str, timeout: Duration, headers: &[(String, String)], resource: Vec<u8>) -> Sink {
        let way = match address.split_once("://") {
            Some((scheme @ ("grpc" | "grpcs"), authority)) => grpc(env, authority, scheme == "grpcs", timeout, headers)
                .unwrap_or_else(|error| {
                    tracing::error!("opentelemetry: {address}: {error}");
                    Way::None(error.0)
                }),
            _ => {
                let mut request =
                    HttpRequest::new("POST", uri(address)).header("Content-Type", "application/x-protobuf");
                for (name, value) in headers {
                    request = request.header(name.as_str(), value.as_str());
                }
                Way::Http(env.http_client(&HttpOptions::default()), request.timeout(timeout))
            }
        };
        Sink { way, resource, address: address.to_owned() }
    }
}

/// `host:port` is HTTP, and `/v1/traces` stands where there is no path (opentelemetry-lua, exporter/http_client.lua).
fn uri(address: &str) -> String {
    let lower = address.to_ascii_lowercase();
    let whole = match lower.starts_with("http://") || lower.starts_with("https://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    };
    let authority = whole.find("://").map_or(0, |at| at + 3);
    match whole.get(authority..).and_then(|rest| rest.find('/')) {
        None => whole + "/v1/traces",
        Some(at) if authority + at + 1 == whole.len() => whole + "v1/traces",
        Some(_) => whole,
    }
}

fn grpc(
    env: &Env,
    authority: &str,
    secure: bool,
    timeout: Duration,
    headers: &[(String, String)],
) -> Result<Way, BuildError> {
    let authority = authority.trim_end_matches('/');
    let parsed: http::uri::Authority = authority.parse().map_err(|_| BuildError::new("not host:port"))?;
    let dial = Dial::new(env, parsed.host(), i64::from(parsed.port_u16().unwrap_or(4317)));
    let tls = match secure {
        false => None,
        true => {
            let ca_pem = env.trusted_certificates.as_deref().map(str::to_owned);
            let wanted =
                ClientTlsConfig { verify: true, ca_pem, alpn: vec![b"h2".to_vec()], ..ClientTlsConfig::default() };
            Some(ClientTls::new(&wanted).map_err(BuildError::new)?)
        }
    };
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(BuildError::new)?;
    let channel = endpoint.connect_with_connector_lazy(Connect { dial, tls, limit: timeout });
    let mut metadata = Vec::new();
    for (name, value) in headers {
        let key = MetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes());
        let key = key.map_err(|_| BuildError(format!("{name} is no field's name")))?;
        let value = value.parse().map_err(|_| BuildError(format!("the value of {name} cannot be sent")))?;
        metadata.push((key, value));
    }
    Ok(Way::Grpc { channel, metadata, timeout })
}

impl BatchSink<Vec<u8>> for Sink {
    async fn deliver(&self, spans: &[Vec<u8>]) -> Result<(), BatchError> {
        let body = otlp::export(&self.resource, SCOPE, spans);
        let address = &self.address;
        let failed = |what: String| BatchError::new(format!("request failed: {what}, address: {address}"));
        match &self.way {
            Way::None(error) => Err(failed(error.clone())),
            Way::Http(client, request) => {
                let answer = client.send(request.clone().body(body)).await.map_err(|e| failed(e.to_string()))?;
                match answer.status {
                    200..300 => Ok(()),
                    status => Err(failed(format!("{status} {}", answer.text()))),
                }
            }
            Way::Grpc { channel, metadata, timeout } => {
                let mut request = Request::new(body);
                for (name, value) in metadata {
                    request.metadata_mut().insert(name.clone(), value.clone());
                }
                let mut grpc = Grpc::new(channel.clone());
                let call = async {
                    grpc.ready().await.map_err(|error| reason(&error))?;
                    let path = PathAndQuery::from_static(EXPORT);
                    grpc.unary(request, path, Encoded).await.map_err(|status| match status.source() {
                        Some(source) => reason(source),
                        None => format!("{}: {}", status.code(), status.message()),
                    })
                };
                match tokio::time::timeout(*timeout, call).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(failed(error)),
                    Err(_) => Err(failed("timeout".into())),
                }
            }
        }
    }
}

/// The innermost cause.
fn reason(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Messages that are encoded already; answers are not looked at.
struct Encoded;

impl Codec for Encoded {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Encoded;
    type Decoder = Encoded;
    fn encoder(&mut self) -> Encoded {
        Encoded
    }
    fn decoder(&mut self) -> Encoded {
        Encoded
    }
}

impl Encoder for Encoded {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = ();
    type Error = Status;
    fn decode(&mut self, answer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        answer.advance(answer.remaining());
        Ok(Some(()))
    }
}

/// Connections as all plugins make them: names by the gateway's resolver, TLS with its authorities.
#[derive(Clone)]
struct Connect {
    dial: Dial,
    tls: Option<ClientTls>,
    limit: Duration,
}

/// Either kind of connection.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl tower_service::Service<Uri> for Connect {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, _: Uri) -> Self::Future {
        let Connect { dial, tls, limit } = self.clone();
        Box::pin(dial::within(limit, async move {
            let socket = dial.tcp().await?;
            let io: Box<dyn Io> = match &tls {
                None => Box::new(socket),
                Some(tls) => Box::new(dial::encrypt(tls, socket, &dial.host).await?),
            };
            Ok(TokioIo::new(io))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::uri;

    #[test]
    fn addresses_become_uris() {
        assert_eq!(uri("127.0.0.1:4318"), "http://127.0.0.1:4318/v1/traces");
        assert_eq!(uri("https://c/"), "https://c/v1/traces");
        assert_eq!(uri("http://c:1/own"), "http://c:1/own");
    }
}
