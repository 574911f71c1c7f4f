//! mTLS beyond the handshake (apisix/init.lua `verify_https_client`): paths that need no certificate, and requests whose
//! `Host` belongs to another ssl object than the handshake's.
use sluice_config::Snapshot;
use sluice_plugin::Context;

/// Whether the client may go on. Cheap where no ssl object asks for client certificates.
pub fn accepted(cx: &Context, snapshot: &Snapshot) -> bool {
    let Some(tls) = &cx.connection.tls else { return true };
    let verified = &*tls.client_verify == "SUCCESS";
    if let Some(patterns) = snapshot.skip_mtls.get(&tls.ssl_id)
        && !verified
        && !patterns.iter().any(|p| p.is_match(cx.request.path_bytes()))
    {
        return false;
    }
    // The host of the request may be one that a certificate is required for.
    let host = cx.request.host();
    let demands = |snis: &[String]| snis.iter().any(|sni| matches_name(sni, host));
    let other = snapshot.mutual.values().find(|c| c.id != tls.ssl_id && demands(&c.snis));
    match other {
        Some(required) => verified && snapshot.mutual.get(&tls.ssl_id).is_some_and(|c| c.client == required.client),
        None => true,
    }
}

fn matches_name(sni: &str, host: &str) -> bool {
    match sni.strip_prefix('*') {
        Some(suffix) => host.strip_suffix(suffix).is_some_and(|label| !label.is_empty() && !label.contains('.')),
        None => sni == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(matches_name("a.com", "a.com"));
        assert!(matches_name("*.a.com", "b.a.com"));
        assert!(!matches_name("*.a.com", "a.com"));
        assert!(!matches_name("*.a.com", "c.b.a.com"));
    }
}
