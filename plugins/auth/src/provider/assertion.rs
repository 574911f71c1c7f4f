//! JWTs that the gateway signs itself, to tell a provider who it is (RFC 7523, 2.2; OpenID Connect Core 1.0, 9).
use crate::digest;
use crate::jwt_auth::key::der;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// What kind of key a PEM text holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Rsa,
    /// With the curve's name (RFC 7518, 6.2.1.1).
    Ec(&'static str),
}

enum Signer {
    Mac(Box<hmac::Key>),
    Rsa(Box<RsaKeyPair>, &'static dyn signature::RsaEncoding),
    Ec(Box<EcdsaKeyPair>),
}

/// A key prepared for one algorithm.
pub struct SigningKey {
    algorithm: &'static str,
    id: Option<String>,
    signer: Signer,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.algorithm)
    }
}

fn rsa(pem: &str) -> Option<RsaKeyPair> {
    let bytes = der(pem, &["PRIVATE KEY", "RSA PRIVATE KEY"])?;
    RsaKeyPair::from_pkcs8(&bytes).or_else(|_| RsaKeyPair::from_der(&bytes)).ok()
}

fn ec(pem: &str, algorithm: &'static signature::EcdsaSigningAlgorithm) -> Option<EcdsaKeyPair> {
    let bytes = der(pem, &["PRIVATE KEY", "EC PRIVATE KEY"])?;
    EcdsaKeyPair::from_pkcs8(algorithm, &bytes).or_else(|_| EcdsaKeyPair::from_private_key_der(algorithm, &bytes)).ok()
}

/// Which key it is; nothing where it is none that could sign.
pub fn kind(pem: &str) -> Option<Kind> {
    if rsa(pem).is_some() {
        return Some(Kind::Rsa);
    }
    let curves = [
        (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
        (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
        (&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
    ];
    curves.into_iter().find(|(algorithm, _)| ec(pem, algorithm).is_some()).map(|(_, name)| Kind::Ec(name))
}

/// The first element of some DER: tag, content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        short if *short < 0x80 => (usize::from(*short), rest),
        long => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f)).filter(|(b, _)| b.len() <= 4)?;
            (bytes.iter().fold(0, |sum, b| sum << 8 | usize::from(*b)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// The public half of a private key in PEM, as a JWK.
pub fn public_jwk(pem: &str) -> Option<Value> {
    let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    if let Some(pair) = rsa(pem) {
        // RSAPublicKey (RFC 8017, A.1.1): a sequence of two integers.
        let (_, inner, _) = element(pair.public_key().as_ref())?;
        let (_, n, rest) = element(inner)?;
        let (_, e, _) = element(rest)?;
        let (n, e) = (n.strip_prefix(&[0]).unwrap_or(n), e.strip_prefix(&[0]).unwrap_or(e));
        return Some(json!({"kty": "RSA", "n": text(n), "e": text(e)}));
    }
    let Kind::Ec(curve) = kind(pem)? else { return None };
    let algorithm = match curve {
        "P-256" => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        "P-384" => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        _ => &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
    };
    let pair = ec(pem, algorithm)?;
    // An uncompressed point: 4, x, y.
    let point = pair.public_key().as_ref().get(1..)?;
    let (x, y) = point.split_at_checked(point.len() / 2)?;
    Some(json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)}))
}

impl SigningKey {
    /// `algorithm` is one of the schema's; `key` a secret for `HS…` and else a private key in PEM.
    pub fn new(algorithm: &str, key: &str, id: Option<String>) -> Result<SigningKey, &'static str> {
        let mac = |algorithm| Signer::Mac(Box::new(hmac::Key::new(algorithm, key.as_bytes())));
        let pair = |encoding| rsa(key).map(|pair| Signer::Rsa(Box::new(pair), encoding));
        let curve = |algorithm| ec(key, algorithm).map(|pair| Signer::Ec(Box::new(pair)));
        let (algorithm, signer) = match algorithm {
            "HS256" => ("HS256", Some(mac(hmac::HMAC_SHA256))),
            "HS512" => ("HS512", Some(mac(hmac::HMAC_SHA512))),
            "RS256" => ("RS256", pair(&signature::RSA_PKCS1_SHA256)),
            "RS512" => ("RS512", pair(&signature::RSA_PKCS1_SHA512)),
            "PS256" => ("PS256", pair(&signature::RSA_PSS_SHA256)),
            "ES256" => ("ES256", curve(&signature::ECDSA_P256_SHA256_FIXED_SIGNING)),
            "ES512" => ("ES512", curve(&signature::ECDSA_P521_SHA512_FIXED_SIGNING)),
            _ => return Err("is for no algorithm that the gateway signs with"),
        };
        let signer = signer.ok_or("is no private key in PEM that fits the algorithm")?;
        Ok(SigningKey { algorithm, id, signer })
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Mac(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Signer::Rsa(pair, encoding) => {
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut out).ok()?;
                Some(out)
            }
            Signer::Ec(pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
        }
    }

    /// A client's assertion, good for `lifetime` seconds.
    pub fn assertion(&self, client: &str, audience: &str, now: u64, lifetime: u64) -> Option<String> {
        let mut header = json!({"typ": "JWT", "alg": self.algorithm});
        if let Some(id) = &self.id {
            header["kid"] = json!(id);
        }
        let payload = json!({"iss": client, "sub": client, "aud": audience, "jti": digest::random_text(),
            "exp": now.saturating_add(lifetime), "iat": now});
        self.token(&header, &payload)
    }

    /// The algorithm's name.
    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// A signed token. The header names the algorithm.
    pub fn token(&self, header: &Value, payload: &Value) -> Option<String> {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(payload));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.sign(signed.as_bytes())?);
        Some(format!("{signed}.{signature}"))
    }
}
