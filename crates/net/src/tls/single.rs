//! TLS for the gateway's own APIs: one certificate whatever name is asked for. The surprise: with a CA a client without a
//! good certificate does not get through the handshake, where nginx would answer 400.
use super::pem::certified_key;
use super::verifier::DepthVerifier;
use super::{PemError, provider};
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use std::sync::Arc;

/// A server with one certificate, HTTP/1.1. `client_ca`: trusted certificates in PEM that clients' must come from.
pub fn single_server(cert: &str, key: &str, client_ca: Option<&str>) -> Result<Arc<ServerConfig>, PemError> {
    let certified = certified_key(cert, key)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| PemError::Config(error.to_string()))?;
    let builder = match client_ca {
        Some(ca) => builder.with_client_cert_verifier(Arc::new(DepthVerifier::new(ca, 1, false)?)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
