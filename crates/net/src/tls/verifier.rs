//! Checks client certificates (mTLS): against the ssl object's CA, with a limit on the chain.
//! The one surprise: with `skip_mtls_uri_regex` the handshake lets everybody in, as in APISIX, and the outcome is kept
//! for the HTTP layer to refuse (apisix/ssl/router/radixtree_sni.lua, reject_in_handshake).
use super::PemError;
use super::pem::roots;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::fmt;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// nginx's `$ssl_client_verify`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ClientVerify {
    /// No certificate was presented (or none asked for).
    #[default]
    None,
    /// Valid.
    Success,
    /// Presented, and not valid: the reason.
    Failed(String),
}

impl fmt::Display for ClientVerify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("NONE"),
            Self::Success => f.write_str("SUCCESS"),
            Self::Failed(why) => write!(f, "FAILED:{why}"),
        }
    }
}

/// Verifies against a CA, using at most `depth` intermediate certificates.
#[derive(Debug)]
pub(super) struct DepthVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    depth: usize,
    lenient: bool,
}

impl DepthVerifier {
    pub(super) fn new(ca_pem: &str, depth: u8, lenient: bool) -> Result<Self, PemError> {
        let roots = roots(ca_pem)?;
        let inner = WebPkiClientVerifier::builder_with_provider(roots.clone(), super::provider())
            .build()
            .map_err(|e| PemError::Ca(e.to_string()))?;
        Ok(Self { inner, roots, depth: depth.into(), lenient })
    }

    /// The outcome for a chain as received, leaf first.
    pub(super) fn outcome(&self, chain: Option<&[CertificateDer<'_>]>) -> ClientVerify {
        match chain.and_then(<[_]>::split_first) {
            None => ClientVerify::None,
            // In strict mode the handshake has failed already if it was going to.
            Some(_) if !self.lenient => ClientVerify::Success,
            Some((leaf, rest)) => match self.check(leaf, rest, UnixTime::now()) {
                Ok(_) => ClientVerify::Success,
                Err(e) => ClientVerify::Failed(reason(&e, leaf, rest)),
            },
        }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.inner.verify_client_cert(leaf, &self.path(leaf, presented)?, now)
    }

    /// The intermediates that lead by name from the leaf to a trusted CA. Only these go to verification, so no longer
    /// path than `depth` can be accepted, whatever else was sent.
    fn path<'a>(
        &self,
        leaf: &CertificateDer<'a>,
        presented: &[CertificateDer<'a>],
    ) -> Result<Vec<CertificateDer<'a>>, Error> {
        let bad = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let names = |der: &CertificateDer<'_>| -> Result<(Vec<u8>, Vec<u8>), Error> {
            let (_, c) = X509Certificate::from_der(der).map_err(bad)?;
            Ok((c.subject().as_raw().to_vec(), c.issuer().as_raw().to_vec()))
        };
        let mut issuer = names(leaf)?.1;
        let mut path = Vec::new();
        while !self.is_root(&issuer) {
            let mut next = None;
            for c in presented {
                let (subject, its_issuer) = names(c)?;
                if subject == issuer && !path.contains(c) {
                    next = Some((c.clone(), its_issuer));
                    break;
                }
            }
            let Some((cert, its_issuer)) = next else {
                return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
            };
            path.push(cert);
            issuer = its_issuer;
            if path.len() > self.depth {
                return Err(Error::General("certificate chain too long".to_owned()));
            }
        }
        Ok(path)
    }

    /// Trust anchors keep the name without its SEQUENCE header.
    fn is_root(&self, name: &[u8]) -> bool {
        self.roots.roots.iter().any(|r| DistinguishedName::in_sequence(&r.subject).as_ref() == name)
    }
}

/// What OpenSSL says to it (X509_verify_cert_error_string), as configurations compare nginx's variable.
fn reason(error: &Error, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> String {
    use CertificateError as E;
    let issues_itself =
        |der| X509Certificate::from_der(der).is_ok_and(|(_, c)| c.subject().as_raw() == c.issuer().as_raw());
    let text = match error {
        Error::InvalidCertificate(cause) => match cause {
            E::UnknownIssuer if issues_itself(leaf) => "self-signed certificate",
            E::UnknownIssuer if rest.iter().any(|c| issues_itself(c)) => "self-signed certificate in certificate chain",
            E::UnknownIssuer if rest.is_empty() => "unable to verify the first certificate",
            E::UnknownIssuer => "unable to get local issuer certificate",
            E::Expired | E::ExpiredContext { .. } => "certificate has expired",
            E::NotValidYet | E::NotValidYetContext { .. } => "certificate is not yet valid",
            E::BadSignature => "certificate signature failure",
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => "unsuitable certificate purpose",
            E::Revoked => "certificate revoked",
            E::UnhandledCriticalExtension => "unhandled critical extension",
            _ => return cause.to_string(),
        },
        Error::General(text) => text,
        _ => return error.to_string(),
    };
    text.to_owned()
}

impl ClientCertVerifier for DepthVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.lenient
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.check(leaf, rest, now) {
            Err(_) if self.lenient => Ok(ClientCertVerified::assertion()),
            r => r,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
