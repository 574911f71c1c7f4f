//! The checks of `dpop` (apisix/plugins/openid-connect.lua, `check_dpop_key`). Proofs are not made: a configuration that enables them
//! is refused when it is written.
use crate::provider::assertion::public_jwk;
use serde_json::Value;
use sluice_model::secret::is_reference;
use sluice_plugin::BuildError;

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
    check_pair(dpop, jwk, needed)?;
    Err(BuildError::new("dpop is not supported"))
}

fn check_pair(dpop: &Value, jwk: &Value, needed: &[&str]) -> Result<(), BuildError> {
    let Some(private) = dpop.get("private_key").and_then(Value::as_str).filter(|key| !is_reference(key)) else {
        return Ok(());
    };
    let Some(derived) = public_jwk(private) else {
        return Err(super::config::no_private_key("dpop.private_key", private));
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
