//! Certificates of a snapshot into the TLS listeners, when they changed.
use sluice_config::Snapshot;
use sluice_net::tls::ServerTls;
use std::sync::Arc;

/// Puts a snapshot's certificates into force; what is wrong with one is logged and leaves the others alone.
pub fn install(tls: &ServerTls, before: &Snapshot, now: &Snapshot) {
    if Arc::ptr_eq(&before.certificates, &now.certificates) {
        return;
    }
    for error in tls.replace(&now.certificates) {
        tracing::error!(ssl = %error.id, %error, "certificate is not used");
    }
}
