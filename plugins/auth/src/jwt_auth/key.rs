//! The key that a consumer's tokens are verified with, prepared once.
//!
//! A key belongs to exactly one algorithm, so no token can choose how it is verified (RFC 8725, 3.1).
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The algorithms of RFC 7518, 3.1 and RFC 8037 that APISIX takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Algorithm {
    #[default]
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    Es512,
    Ps256,
    Ps384,
    Ps512,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    /// Those whose tokens are verified with a public key.
    pub const PUBLIC: [Algorithm; 10] = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::Es512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::EdDsa,
    ];

    /// The name in a token's header.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::Hs384 => "HS384",
            Algorithm::Hs512 => "HS512",
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::Es512 => "ES512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    fn verification(self) -> Verification {
        use Verification::{Mac, Signature};
        match self {
            Algorithm::Hs256 => Mac(hmac::HMAC_SHA256),
            Algorithm::Hs384 => Mac(hmac::HMAC_SHA384),
            Algorithm::Hs512 => Mac(hmac::HMAC_SHA512),
            // RFC 7518, 3.3 wants 2048 bits; 1024 still work where the library has them, as in APISIX.
            Algorithm::Rs256 => Signature(&signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY),
            Algorithm::Rs384 => Signature(&signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => Signature(&signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY),
            Algorithm::Es256 => Signature(&signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::Es384 => Signature(&signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::Es512 => Signature(&signature::ECDSA_P521_SHA512_FIXED),
            Algorithm::Ps256 => Signature(&signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => Signature(&signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => Signature(&signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::EdDsa => Signature(&signature::ED25519),
        }
    }
}

enum Verification {
    Mac(hmac::Algorithm),
    Signature(&'static dyn VerificationAlgorithm),
}

/// Why no key could be made of a consumer's configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("no secret")]
    NoSecret,
    #[error("the secret is not base64")]
    Base64,
    #[error("no public key")]
    NoPublicKey,
    #[error("the public key is not PEM")]
    Pem,
    #[error("the public key does not fit the algorithm")]
    Rejected,
}

/// A prepared key.
pub enum Key {
    Mac(Box<hmac::Key>),
    Public(Box<ParsedPublicKey>),
}

impl Key {
    /// `secret` as bytes for HS algorithms, `public_key` in PEM for the others.
    pub fn new(algorithm: Algorithm, secret: Option<&[u8]>, public_key: Option<&str>) -> Result<Key, KeyError> {
        match algorithm.verification() {
            Verification::Mac(mac) => Ok(Key::Mac(Box::new(hmac::Key::new(mac, secret.ok_or(KeyError::NoSecret)?)))),
            Verification::Signature(signature) => {
                let der = from_pem(public_key.ok_or(KeyError::NoPublicKey)?).ok_or(KeyError::Pem)?;
                let key = ParsedPublicKey::new(signature, der).map_err(|_| KeyError::Rejected)?;
                Ok(Key::Public(Box::new(key)))
            }
        }
    }

    /// A public key in any form that the library reads: SubjectPublicKeyInfo, RSAPublicKey, an uncompressed point, raw Ed25519.
    pub fn public(algorithm: Algorithm, bytes: &[u8]) -> Result<Key, KeyError> {
        match algorithm.verification() {
            Verification::Mac(_) => Err(KeyError::Rejected),
            Verification::Signature(signature) => {
                let key = ParsedPublicKey::new(signature, bytes).map_err(|_| KeyError::Rejected)?;
                Ok(Key::Public(Box::new(key)))
            }
        }
    }

    /// Whether `signature` is this key's for `message`. MACs are compared in constant time.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Key::Mac(key) => hmac::verify(key, message, signature).is_ok(),
            Key::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

/// The DER of `PUBLIC KEY` (RFC 5280) or `RSA PUBLIC KEY` (RFC 8017) in PEM (RFC 7468).
pub fn from_pem(pem: &str) -> Option<Vec<u8>> {
    der(pem, &["PUBLIC KEY", "RSA PUBLIC KEY"])
}

/// The DER of the first block of PEM (RFC 7468), where it has one of these labels. The parameters that OpenSSL writes before an EC
/// key are passed over.
pub fn der(pem: &str, labels: &[&str]) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, after) = rest.split_once("-----END ")?;
    if label == "EC PARAMETERS" {
        return der(after, labels);
    }
    if !labels.contains(&label) {
        return None;
    }
    let text: String = body.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(text).ok()
}
