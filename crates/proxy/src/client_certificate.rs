//! mTLS beyond the handshake (apisix/init.lua `verify_https_client`): paths that need no certificate, and requests whose host
//! belongs to an ssl object that asks for one while the handshake was for another name.
//! The surprise: in HTTP/2 the latter get 421 instead of APISIX's 400 where the handshake's certificate covers the host. Then
//! browsers send requests for several names over one connection, and open another after 421 (RFC 9110, 15.5.20).
use crate::rescue::Trouble;
use sluice_config::Snapshot;
use sluice_http::Version;
use sluice_net::tls::certificate_covers;
use sluice_plugin::{Context, TlsInfo};

/// Whether the client may go on. Cheap where no ssl object asks for client certificates.
pub fn check(cx: &Context, snapshot: &Snapshot) -> Result<(), Trouble> {
    let Some(tls) = &cx.connection.tls else { return Ok(()) };
    if snapshot.mutual.is_empty() {
        return Ok(());
    }
    let verified = &*tls.client_verify == "SUCCESS";
    let excepted = || {
        let patterns = snapshot.skip_mtls.get(&tls.ssl_id);
        patterns.is_some_and(|patterns| patterns.iter().any(|p| p.is_match(cx.request.path_bytes())))
    };
    // Of the name that the handshake was for; it may have come to ask for certificates after the handshake.
    if snapshot.mutual.contains_key(&tls.ssl_id) && !verified && !excepted() {
        tracing::error!("client certificate was not accepted: {}", tls.client_verify);
        return Err(Trouble::ClientCertificate);
    }
    let host = cx.request.host();
    match snapshot.ssl_names.get(host).filter(|of_host| of_host.client.is_some()) {
        Some(of_host) if !is_for(tls, host, &of_host.id) => {
            let sni = tls.server_name.as_deref().unwrap_or_default();
            tracing::error!("client certificate verified with SNI {sni}, but the host is {host}");
            let shown = snapshot.certificates.get(&tls.ssl_id);
            let covers = || shown.is_some_and(|c| c.certs.iter().any(|(pem, _)| certificate_covers(pem, host)));
            let may_be_shared = cx.request.version == Version::Http2 && covers();
            Err(if may_be_shared { Trouble::Misdirected } else { Trouble::ClientCertificate })
        }
        _ => Ok(()),
    }
}

/// Whether the handshake was for this host: by its name, or, where none was sent, by the fallback's ssl object.
fn is_for(tls: &TlsInfo, host: &str, ssl_id: &str) -> bool {
    match tls.server_name.as_deref() {
        Some(sni) => sni.strip_suffix('.').unwrap_or(sni).eq_ignore_ascii_case(host),
        None => *tls.ssl_id == *ssl_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_handshake_is_the_host() {
        let tls = |name: Option<&str>| TlsInfo {
            server_name: name.map(Into::into),
            client_verify: "SUCCESS".into(),
            ssl_id: "1".into(),
            ..TlsInfo::default()
        };
        assert!(is_for(&tls(Some("A.test.")), "a.test", "1"));
        assert!(!is_for(&tls(Some("a.test")), "b.test", "1"));
        assert!(is_for(&tls(None), "b.test", "1"));
        assert!(!is_for(&tls(None), "b.test", "2"));
    }
}
