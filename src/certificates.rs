//! Certificates of a snapshot into the TLS listeners, when they changed. The surprise: only what changed is looked at.
use sluice_config::Snapshot;
use sluice_net::tls::ServerTls;
use std::sync::Arc;

/// Puts a snapshot's certificates into force; what is wrong with one is logged and leaves the others alone.
pub fn install(tls: &ServerTls, before: &Snapshot, now: &Snapshot) {
    let (old, new) = (&before.certificates, &now.certificates);
    let differs = |id: &str| match (old.get(id), new.get(id)) {
        (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
        _ => true,
    };
    let mut changed: Vec<_> = new.perhaps_changed(old).filter(|(id, _)| differs(id)).map(|(_, c)| c.clone()).collect();
    let gone: Vec<Arc<str>> =
        old.perhaps_changed(new).map(|(id, _)| id).filter(|id| !new.contains_key(id)).cloned().collect();
    if changed.is_empty() && gone.is_empty() {
        return;
    }
    changed.sort_by(|a, b| a.id.cmp(&b.id));
    for error in tls.update(&changed, &gone) {
        tracing::error!(ssl = %error.id, %error, "certificate is not used");
    }
}
