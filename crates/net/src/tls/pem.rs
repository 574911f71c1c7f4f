//! PEM into certificates, keys and trust anchors, with errors that say which part is wrong.
//! The one surprise: a key that does not belong to its certificate is refused here, as nginx does at load.
use super::provider;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::sync::Arc;

/// A certificate or key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Not PEM, or no certificate in it.
    #[error("certificate: {0}")]
    Cert(String),
    /// Not PEM, or no usable private key in it.
    #[error("private key: {0}")]
    Key(String),
    /// The two do not belong together.
    #[error("certificate and private key do not match: {0}")]
    Mismatch(String),
    /// The trusted certificates cannot be used.
    #[error("CA certificate: {0}")]
    Ca(String),
    /// What was asked for makes no usable configuration.
    #[error("{0}")]
    Config(String),
}

pub(super) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| format!("invalid PEM: {e}"))?;
    if certs.is_empty() { Err("no CERTIFICATE section".to_owned()) } else { Ok(certs) }
}

pub(super) fn key(pem: &str) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| PemError::Key(e.to_string()))
}

/// A chain with its key, ready to sign.
pub(super) fn certified_key(cert_pem: &str, key_pem: &str) -> Result<CertifiedKey, PemError> {
    let chain = certificates(cert_pem).map_err(PemError::Cert)?;
    let key = provider().key_provider.load_private_key(key(key_pem)?).map_err(|e| PemError::Key(e.to_string()))?;
    let ck = CertifiedKey::new(chain, key);
    match ck.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(ck),
        Err(e @ rustls::Error::InvalidCertificate(_)) => Err(PemError::Cert(e.to_string())),
        Err(e) => Err(PemError::Mismatch(e.to_string())),
    }
}

/// Trust anchors; every certificate in the PEM must be usable.
pub(super) fn roots(pem: &str) -> Result<Arc<RootCertStore>, PemError> {
    let mut store = RootCertStore::empty();
    for c in certificates(pem).map_err(PemError::Ca)? {
        store.add(c).map_err(|e| PemError::Ca(e.to_string()))?;
    }
    Ok(Arc::new(store))
}

/// Whether a PEM text holds a certificate that can be read; the error says what is wrong.
pub fn check_certificate(pem: &str) -> Result<(), String> {
    let chain = certificates(pem)?;
    let Some(first) = chain.first() else { return Err("no certificate found".into()) };
    x509_parser::parse_x509_certificate(first).map(|_| ()).map_err(|e| e.to_string())
}

/// When the first certificate of a PEM text ends, seconds since the epoch; `None` where it cannot be read.
pub fn certificate_expiry(pem: &str) -> Option<i64> {
    let chain = certificates(pem).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// What there is to tell of a certificate. Times are unix time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    pub subject: String,
    pub issuer: String,
    /// `RSA 2048`, `EC 256`.
    pub key: String,
    pub not_before: i64,
    pub not_after: i64,
}

/// Of the first certificate of a PEM text; `None` where it cannot be read.
pub fn certificate_facts(pem: &str) -> Option<CertificateFacts> {
    use x509_parser::public_key::PublicKey;
    let chain = certificates(pem).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    let key = match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(point)) => format!("EC {}", point.key_size()),
        _ => "other".to_owned(),
    };
    let (subject, issuer) = (certificate.subject().to_string(), certificate.issuer().to_string());
    let (from, to) = (certificate.validity().not_before, certificate.validity().not_after);
    Some(CertificateFacts { subject, issuer, key, not_before: from.timestamp(), not_after: to.timestamp() })
}

/// Whether the first certificate of a PEM text is good for a name, as clients see it (RFC 9525, 6.3).
pub fn certificate_covers(pem: &str, name: &str) -> bool {
    use x509_parser::extensions::GeneralName;
    let Ok(chain) = certificates(pem) else { return false };
    let parsed = chain.first().and_then(|first| x509_parser::parse_x509_certificate(first).ok());
    let Some((_, certificate)) = parsed else { return false };
    let rest = name.split_once('.').map(|(_, rest)| rest);
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|own| match own {
        GeneralName::DNSName(own) => match own.strip_prefix("*.") {
            Some(own) => rest.is_some_and(|rest| own.eq_ignore_ascii_case(rest)),
            None => own.eq_ignore_ascii_case(name),
        },
        _ => false,
    })
}

/// Whether a PEM text holds a private key that can be used.
pub fn check_private_key(pem: &str) -> Result<(), String> {
    let der = key(pem).map_err(|e| e.to_string())?;
    super::provider().key_provider.load_private_key(der).map(|_| ()).map_err(|e| e.to_string())
}
