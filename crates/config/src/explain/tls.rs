//! Which ssl object serves a handshake for a name. The surprise: the handshake is taken to ask for the request's host, as
//! clients do.
use crate::Snapshot;
use serde_json::{Value, json};
use sluice_net::tls::certificate_facts;

/// The ssl object of a name, its certificates and what it asks of clients; `path`: of the request, where there is one.
pub(super) fn describe(snapshot: &Snapshot, name: &str, path: Option<&[u8]>) -> Value {
    let Some(config) = snapshot.ssl_names.get(name) else {
        return json!({"server_name": name, "error": "no ssl object has this name: the handshake fails"});
    };
    let certificates = config.certs.iter().map(|(pem, _)| match certificate_facts(pem) {
        Some(facts) => {
            json!({"subject": facts.subject, "issuer": facts.issuer, "key": facts.key, "not_after": facts.not_after})
        }
        None => json!({"error": "it cannot be read"}),
    });
    let versions = [(config.protocols.tls12, "TLSv1.2"), (config.protocols.tls13, "TLSv1.3")];
    let versions: Vec<&str> = versions.iter().filter(|(offered, _)| *offered).map(|(_, name)| *name).collect();
    let client = config.client.as_ref().map(|client| {
        let excepted = || {
            let patterns = snapshot.skip_mtls.get(&config.id)?;
            Some(path.is_some_and(|path| patterns.iter().any(|pattern| pattern.is_match(path))))
        };
        json!({"depth": client.depth, "certificate_needed": !excepted().unwrap_or(false)})
    });
    json!({
        "server_name": name,
        "ssl": &*config.id,
        "snis": config.snis,
        "certificates": certificates.collect::<Vec<_>>(),
        "protocols": versions,
        "client": client,
        "ocsp_stapling": config.stapling.is_some(),
    })
}
