//! TLS to upstreams: one configuration per set of settings, made at configuration time and shared by all workers.
//! The one surprise: by default the upstream's certificate is not checked, as in APISIX (`upstream.tls.verify`); that
//! the upstream holds the certificate's key is.
use super::pem::{certificates, key, roots};
use super::{PemError, provider};
use crate::socket::Socket;
use crate::stream::Stream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// How to speak TLS to an upstream.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientTlsConfig {
    /// Check the upstream's certificate and name (APISIX: false).
    pub verify: bool,
    /// Trusted certificates in PEM; the system's when None.
    pub ca_pem: Option<String>,
    /// Our certificate chain and key in PEM.
    pub client_cert: Option<(String, String)>,
    /// The name to ask for and check, whatever name is connected to.
    pub sni: Option<String>,
    /// Application protocols, most wanted first.
    pub alpn: Vec<Vec<u8>>,
    /// Sessions remembered for resumption (names, that is).
    pub session_cache: usize,
}

impl Default for ClientTlsConfig {
    fn default() -> Self {
        Self { verify: false, ca_pem: None, client_cert: None, sni: None, alpn: Vec::new(), session_cache: 256 }
    }
}

impl std::fmt::Debug for ClientTlsConfig {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTlsConfig")
            .field("verify", &self.verify)
            .field("sni", &self.sni)
            .field("client_cert", &self.client_cert.is_some())
            .finish_non_exhaustive()
    }
}

/// A ready configuration; cloning shares it, sessions included.
#[derive(Clone, Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    sni: Option<ServerName<'static>>,
    verify: bool,
}

impl ClientTls {
    /// Compiles settings.
    pub fn new(c: &ClientTlsConfig) -> Result<Self, PemError> {
        let config = |e: Error| PemError::Config(e.to_string());
        let b =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(config)?;
        let b = if c.verify {
            let roots = match &c.ca_pem {
                Some(pem) => roots(pem)?,
                None => system_roots()?,
            };
            let v = WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|e| PemError::Ca(e.to_string()))?;
            b.with_webpki_verifier(v)
        } else {
            b.dangerous().with_custom_certificate_verifier(Arc::new(SignatureOnly))
        };
        let mut config = match &c.client_cert {
            Some((cert, k)) => b
                .with_client_auth_cert(certificates(cert).map_err(PemError::Cert)?, key(k)?)
                .map_err(|e| PemError::Key(e.to_string()))?,
            None => b.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&c.alpn);
        config.resumption = Resumption::in_memory_sessions(c.session_cache);
        let sni = c.sni.as_deref().map(server_name).transpose();
        Ok(Self { config: Arc::new(config), sni: sni.map_err(|e| PemError::Config(e.to_string()))?, verify: c.verify })
    }

    /// Does the handshake; `name` is the upstream's host name or address, used unless settings name another.
    pub async fn connect(&self, socket: Socket, name: &str) -> io::Result<Stream> {
        let name = match (&self.sni, server_name(name)) {
            (Some(own), _) => own.clone(),
            (None, Ok(name)) => name,
            // A `Host` need not be a name that TLS can ask for; an address is not sent.
            (None, Err(_)) if !self.verify => ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            (None, Err(error)) => return Err(error),
        };
        let connector = tokio_rustls::TlsConnector::from(self.config.clone());
        let tls = Box::pin(connector.connect(name, socket)).await?;
        Ok(Stream::ClientTls(Box::new(tls)))
    }

    /// The rustls configuration, for clients that bring their own connector.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// Whether both are the same configuration: connections of one may serve the other.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && self.sni == other.sni
    }
}

fn server_name(name: &str) -> io::Result<ServerName<'static>> {
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    ServerName::try_from(bare.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("not a TLS server name: {name:?}")))
}

/// The system's trusted certificates: `SSL_CERT_FILE`, or the bundle where distributions put it. Unreadable
/// certificates in it are passed over.
pub fn system_roots() -> Result<Arc<rustls::RootCertStore>, PemError> {
    use rustls::pki_types::pem::PemObject;
    const BUNDLES: [&str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    let named = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
    let pem = named.into_iter().chain(BUNDLES.map(Into::into)).find_map(|p| std::fs::read(p).ok());
    let pem = pem.ok_or_else(|| PemError::Ca("no system bundle of trusted certificates found".to_owned()))?;
    let mut store = rustls::RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    Ok(Arc::new(store))
}

/// Takes any certificate, but only from who holds its key.
#[derive(Debug)]
struct SignatureOnly;

impl ServerCertVerifier for SignatureOnly {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
