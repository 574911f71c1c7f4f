//! Encryption at rest, on the way into the store and out of it (apisix/admin/resource.lua). The surprise: an answer to a
//! write shows what was stored, encrypted; an answer to a read shows plugins' fields in plain text, and private keys never.
use crate::admin::Admin;
use serde_json::Value;
use sluice_config::PluginSecrets;
use sluice_model::Kind;

/// Encrypts a checked body.
pub(crate) fn conceal(admin: &Admin, kind: Kind, id: &str, body: &mut Value) {
    let registry = admin.gateway.registry();
    sluice_secret::conceal(kind, id, body, &admin.settings.keyring, &PluginSecrets(&registry));
}

/// Decrypts the plugins' fields of a stored body.
pub(crate) fn reveal(admin: &Admin, kind: Kind, id: &str, body: &mut Value) {
    let registry = admin.gateway.registry();
    sluice_secret::reveal_plugins(kind, id, body, &admin.settings.keyring, &PluginSecrets(&registry));
}

/// Decrypts the private keys of a body that is to be checked: one may be sent as it was read from the store.
pub(crate) fn reveal_keys(admin: &Admin, kind: Kind, body: &mut Value) {
    let registry = admin.gateway.registry();
    let keys = |kind: Kind, body: &mut Value| {
        sluice_secret::reveal(kind, "", body, &admin.settings.keyring, &PluginSecrets(&registry));
    };
    match kind {
        Kind::Ssl | Kind::Upstream | Kind::StreamRoute => keys(kind, body),
        // Their plugins' fields are plain.
        Kind::Route | Kind::Service => {
            if let Some(upstream) = body.get_mut("upstream") {
                keys(Kind::Upstream, upstream);
            }
        }
        _ => {}
    }
}
