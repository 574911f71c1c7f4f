//! Checks of certificates (apisix/ssl.lua `check_ssl_conf`). Surprise: a secret reference in either half of a pair skips the
//! check of both halves.

use super::{Checked, Checks, Invalid, PluginScope};
use crate::secret::is_reference;
use serde_json::Value;

/// What the schema cannot see.
pub(super) fn check(body: &Value, checks: &Checks<'_>) -> Checked {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let (cert, key) = (text("cert"), text("key"));
    if !is_reference(cert) && !is_reference(key) {
        check_pair(cert, Some(key), checks).map_err(|message| Invalid::at("/cert", message))?;
    }
    if text("type") == "client" {
        return Ok(());
    }
    let list = |name: &str| body.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (certs, keys) = (list("certs"), list("keys"));
    if certs.len() != keys.len() {
        return Err(Invalid::at("/certs", "mismatched number of certs and keys"));
    }
    for (i, (cert, key)) in certs.iter().zip(keys).enumerate() {
        let (cert, key) = (cert.as_str().unwrap_or_default(), key.as_str().unwrap_or_default());
        if !is_reference(cert) && !is_reference(key) {
            check_pair(cert, Some(key), checks).map_err(|message| {
                Invalid::at(&format!("/certs/{i}"), format!("failed to handle cert-key pair[{}]: {message}", i + 1))
            })?;
        }
    }
    match body.get("client").and_then(|client| client.get("ca")).and_then(Value::as_str) {
        Some(ca) if !is_reference(ca) => check_pair(ca, None, checks)
            .map_err(|message| Invalid::at("/client/ca", format!("failed to validate client_cert: {message}"))),
        _ => Ok(()),
    }
}

/// The field of a plugin is there only with the plugin (apisix/plugins/ocsp-stapling.lua `init`).
pub(super) fn check_fields(prefix: &str, body: &Value, checks: &Checks<'_>) -> Checked {
    if body.get("ocsp_stapling").is_some() && !checks.plugins.exists("ocsp-stapling", PluginScope::Route) {
        let message = format!("{prefix}additional properties forbidden, found ocsp_stapling");
        return Err(Invalid::at("/ocsp_stapling", message));
    }
    Ok(())
}

/// Both halves must parse; whether they belong together is not checked (as in APISIX). A key that is not PEM was stored
/// encrypted with a key that is not in the keyring.
pub(super) fn check_pair(cert: &str, key: Option<&str>, checks: &Checks<'_>) -> Result<(), String> {
    checks.parsers.certificate(cert).map_err(|cause| format!("failed to parse cert: {cause}"))?;
    match key {
        Some(key) if !key.starts_with("---") => Err("failed to decrypt previous encrypted key".to_owned()),
        Some(key) => checks.parsers.private_key(key).map_err(|cause| format!("failed to parse key: {cause}")),
        None => Ok(()),
    }
}
