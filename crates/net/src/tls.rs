//! TLS with clients (`server`: one rustls configuration per ssl object, chosen by SNI) and with upstreams (`client`).
//! The one surprise: the crypto provider is always named (aws-lc-rs), never the process default.
mod ciphers;
mod client;
mod ocsp;
mod pem;
mod server;
mod sessions;
mod single;
mod sni;
mod verifier;

use crate::socket::Socket;
use ciphers::{openssl_name, provider_with};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ProtocolVersion, SupportedCipherSuite};
use std::sync::{Arc, LazyLock};

pub use client::{ClientTls, ClientTlsConfig, system_roots};
pub use ocsp::{CertStatus, OcspAnswer, OcspError, OcspSubject};
pub use pem::{
    CertificateFacts, PemError, certificate_covers, certificate_expiry, certificate_facts, check_certificate,
    check_private_key,
};
pub use server::{
    AcceptError, CertConfig, CertError, ClientAuth, Protocols, ServerCerts, ServerTls, ServerTlsSettings, StapleKey,
    Stapling,
};
pub use single::single_server;
pub use sni::SniMap;
pub use verifier::ClientVerify;

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// The one crypto provider of the gateway; also for QUIC.
pub fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}

/// A TLS connection with a client.
#[derive(Debug)]
pub struct ServerTlsStream {
    pub(crate) io: tokio_rustls::server::TlsStream<Socket>,
    pub(crate) verify: ClientVerify,
    pub(crate) ssl_id: Arc<str>,
}

/// What a handshake settled.
#[derive(Clone, Debug)]
pub struct TlsInfo {
    /// The server name the client asked for.
    pub sni: Option<String>,
    /// Protocol version.
    pub protocol: Option<ProtocolVersion>,
    /// Cipher suite.
    pub cipher: Option<SupportedCipherSuite>,
    /// Whether an earlier session was resumed.
    pub session_reused: bool,
    /// The peer's certificates, leaf first, in DER; empty when it sent none.
    pub peer_certs: Vec<CertificateDer<'static>>,
    /// What came of checking the client's certificate.
    pub client_verify: ClientVerify,
    /// The agreed application protocol.
    pub alpn: Option<Vec<u8>>,
    /// Id of the ssl object that served the handshake; empty on upstream connections.
    pub ssl_id: Arc<str>,
}

impl TlsInfo {
    pub(crate) fn of_server(s: &ServerTlsStream) -> Self {
        let c = s.io.get_ref().1;
        let mut info = Self::of(c, c.server_name(), s.ssl_id.clone());
        info.client_verify = s.verify.clone();
        info
    }

    pub(crate) fn of_client(c: &rustls::ClientConnection) -> Self {
        Self::of(c, None, Arc::from(""))
    }

    fn of<D>(c: &rustls::ConnectionCommon<D>, sni: Option<&str>, ssl_id: Arc<str>) -> Self {
        Self {
            sni: sni.map(str::to_owned),
            protocol: c.protocol_version(),
            cipher: c.negotiated_cipher_suite(),
            session_reused: c.handshake_kind() == Some(HandshakeKind::Resumed),
            peer_certs: c.peer_certificates().map(<[_]>::to_vec).unwrap_or_default(),
            client_verify: ClientVerify::None,
            alpn: c.alpn_protocol().map(<[u8]>::to_vec),
            ssl_id,
        }
    }

    /// nginx's `$ssl_protocol`: `TLSv1.2`, `TLSv1.3`.
    pub fn protocol_name(&self) -> &'static str {
        match self.protocol {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        }
    }

    /// nginx's `$ssl_cipher`: OpenSSL's name of the suite.
    pub fn cipher_name(&self) -> &'static str {
        self.cipher.map(openssl_name).unwrap_or_default()
    }
}
