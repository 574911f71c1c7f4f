//! Sockets to etcd: TCP, with TLS where the address says https. The surprise: gRPC is told http in every case, since
//! TLS is done here with the settings and the provider that upstreams have, not by the gRPC library.
use super::settings::EtcdSettings;
use hyper::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sluice_net::tls::{ClientTls, ClientTlsConfig};
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Either kind of connection.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A member's address, taken apart.
#[derive(Clone)]
pub(crate) struct Member {
    /// As the settings have it, for messages.
    pub url: Arc<str>,
    pub host: String,
    pub port: u16,
    pub tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// All members. Errors: an address or a certificate's file that cannot be used, named.
pub(crate) fn members(settings: &EtcdSettings) -> Result<Vec<Member>, String> {
    let tls = if settings.hosts.iter().any(|url| url.starts_with("https://")) { Some(tls(settings)?) } else { None };
    let member = |url: &String| {
        let wrong = || format!("{url}: not an address of etcd");
        let uri: Uri = url.trim_end_matches('/').parse().map_err(|_| wrong())?;
        let host = uri.host().ok_or_else(wrong)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = match tls.as_ref().filter(|_| secure) {
            None => None,
            Some(connector) => {
                let name = settings.sni.clone().unwrap_or_else(|| host.clone());
                let name = ServerName::try_from(name).map_err(|error| format!("{url}: {error}"))?;
                Some((connector.clone(), name))
            }
        };
        Ok(Member { url: url.as_str().into(), host, port, tls })
    };
    settings.hosts.iter().map(member).collect()
}

fn tls(settings: &EtcdSettings) -> Result<TlsConnector, String> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let ca_pem = settings.trusted_ca.as_deref().map(read).transpose()?;
    let client_cert = match (&settings.cert, &settings.key) {
        (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
        (None, None) => None,
        _ => return Err("deployment.etcd.tls: cert and key belong together".to_owned()),
    };
    let wanted = ClientTlsConfig {
        verify: settings.verify,
        ca_pem,
        client_cert,
        alpn: vec![b"h2".to_vec()],
        ..ClientTlsConfig::default()
    };
    let tls = ClientTls::new(&wanted).map_err(|error| format!("deployment.etcd.tls: {error}"))?;
    Ok(TlsConnector::from(tls.config().clone()))
}

impl tower_service::Service<Uri> for Member {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let member = self.clone();
        Box::pin(async move {
            let socket = TcpStream::connect((member.host.as_str(), member.port)).await?;
            socket.set_nodelay(true)?;
            let io: Box<dyn Io> = match member.tls {
                None => Box::new(socket),
                Some((connector, name)) => Box::new(connector.connect(name, socket).await?),
            };
            Ok(TokioIo::new(io))
        })
    }
}
