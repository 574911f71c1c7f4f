//! Proofs that the gateway has the key that its tokens are bound to (RFC 9449), and the checks of `dpop`
//! (apisix/plugins/openid-connect.lua, `check_dpop_key`).
use super::config::no_private_key;
use crate::digest;
use crate::provider::assertion::{SigningKey, public_jwk};
use serde_json::{Value, json};
use sluice_model::secret::is_reference;
use sluice_plugin::{BuildError, HttpResponse};
use std::sync::{Mutex, PoisonError};

/// What proofs are made with.
pub struct Proofs {
    key: SigningKey,
    jwk: Value,
    /// RFC 7638.
    pub thumbprint: String,
    /// What the provider wants to see in the next proof.
    nonce: Mutex<Option<String>>,
}

impl Proofs {
    /// Nothing where they are not wanted.
    pub fn new(dpop: &Value) -> Result<Option<Proofs>, BuildError> {
        if dpop["enabled"] != true {
            return Ok(None);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let private = text(&dpop["private_key"]);
        if is_reference(&private) {
            return Err(BuildError::new("openid-connect: dpop.private_key refers to a secret that cannot be resolved"));
        }
        let algorithm = dpop["signing_alg"].as_str().unwrap_or("ES256");
        let key = SigningKey::new(algorithm, &private, None)
            .map_err(|reason| BuildError(format!("openid-connect: dpop.private_key {reason}")))?;
        let jwk = public_jwk(&private).ok_or_else(|| no_private_key("dpop.private_key", &private))?;
        let members: &[&str] = if jwk["kty"] == "EC" { &["crv", "kty", "x", "y"] } else { &["e", "kty", "n"] };
        let members: Vec<String> = members.iter().map(|name| format!("\"{name}\":{}", jwk[*name])).collect();
        let thumbprint = digest::text(format!("{{{}}}", members.join(",")).as_bytes());
        Ok(Some(Proofs { key, jwk, thumbprint, nonce: Mutex::default() }))
    }

    /// A proof for one request; with `token` also that it is ours.
    pub fn proof(&self, method: &str, url: &str, token: Option<&str>, now: u64) -> Option<String> {
        let header = json!({"typ": "dpop+jwt", "alg": self.key.algorithm(), "jwk": self.jwk});
        let url = url.split(['?', '#']).next().unwrap_or(url);
        let mut payload = json!({"jti": digest::random_text(), "htm": method, "htu": url, "iat": now});
        if let Some(token) = token {
            payload["ath"] = json!(digest::text(token.as_bytes()));
        }
        if let Some(nonce) = &*self.nonce.lock().unwrap_or_else(PoisonError::into_inner) {
            payload["nonce"] = json!(nonce);
        }
        self.key.token(&header, &payload)
    }

    /// Reads what an answer wants to see in the next proof; whether it was refused for want of that (RFC 9449, 8).
    pub fn learn(&self, answer: &HttpResponse) -> bool {
        let Some(nonce) = answer.header("dpop-nonce").and_then(|n| std::str::from_utf8(n).ok()) else { return false };
        *self.nonce.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce.to_owned());
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        let wanted = b"use_dpop_nonce";
        matches!(answer.status, 400 | 401)
            && [challenge, &answer.body].iter().any(|text| text.windows(wanted.len()).any(|part| part == wanted))
    }
}

pub fn check(dpop: &Value) -> Result<(), BuildError> {
    let Some(jwk) = dpop.get("public_jwk").filter(|_| dpop["enabled"] == true) else { return Ok(()) };
    let refused = |text: String| Err(BuildError(text));
    let kind = jwk.get("kty").and_then(Value::as_str).unwrap_or("nil");
    let needed: &[&str] = match kind {
        "EC" => &["crv", "x", "y"],
        "RSA" => &["e", "n"],
        _ => {
            return refused(format!("property \"dpop.public_jwk\" validation failed: kty \"{kind}\" is not supported"));
        }
    };
    for member in needed {
        match jwk.get(*member) {
            None => {
                let all = needed.join(", ");
                return refused(format!(
                    "property \"dpop.public_jwk\" validation failed: kty \"{kind}\" requires {all}"
                ));
            }
            Some(Value::String(text)) if !text.is_empty() => {}
            Some(_) => {
                return refused(format!(
                    "property \"dpop.public_jwk\" validation failed: \"{member}\" must be a non-empty string"
                ));
            }
        }
    }
    let algorithm = dpop.get("signing_alg").and_then(Value::as_str).unwrap_or("ES256");
    let expected = if algorithm == "ES256" { "EC" } else { "RSA" };
    if expected != kind {
        return refused(format!(
            "property \"dpop.signing_alg\" \"{algorithm}\" requires an {expected} \"dpop.public_jwk\""
        ));
    }
    let curve = jwk.get("crv").and_then(Value::as_str).unwrap_or("nil");
    if kind == "EC" && curve != "P-256" {
        return refused(format!(
            "property \"dpop.signing_alg\" \"{algorithm}\" requires \"dpop.public_jwk\" crv \"P-256\", got \"{curve}\""
        ));
    }
    check_pair(dpop, jwk, needed)
}

fn check_pair(dpop: &Value, jwk: &Value, needed: &[&str]) -> Result<(), BuildError> {
    let Some(private) = dpop.get("private_key").and_then(Value::as_str).filter(|key| !is_reference(key)) else {
        return Ok(());
    };
    let Some(derived) = public_jwk(private) else {
        return Err(no_private_key("dpop.private_key", private));
    };
    for member in ["kty"].iter().chain(needed) {
        if derived[*member] != jwk[*member] {
            let got = derived[*member].as_str().unwrap_or("nil");
            return Err(BuildError(format!(
                "property \"dpop.public_jwk\" is not the public key of \"dpop.private_key\": {member} is \"{got}\""
            )));
        }
    }
    Ok(())
}
