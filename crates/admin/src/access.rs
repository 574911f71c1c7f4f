//! Who may use the Admin API (apisix/admin/init.lua `check_token`; nginx's allow and deny for `allow_admin`).
use crate::message::{Reply, Request};
use crate::settings::{AdminSettings, Role};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde_json::json;

/// Whether the peer's address is allowed.
pub fn address_allowed(settings: &AdminSettings, request: &Request) -> bool {
    let Some(peer) = request.peer else { return true };
    settings.allow.is_empty() || settings.allow.iter().any(|network| network.contains(&peer.to_canonical()))
}

/// The name of the key that was given, or why it is refused.
pub fn authenticate(settings: &AdminSettings, request: &Request) -> Result<String, Reply> {
    if !settings.key_required || settings.keys.is_empty() {
        return Ok(String::from("anonymous"));
    }
    let refuse = |why: &str| {
        tracing::warn!("failed to check token: {why}");
        Err(Reply::json(401, &json!({"error_msg": "failed to check token", "description": why})))
    };
    let token = request.arg("api_key").or_else(|| request.header("x-api-key")).or_else(|| request.cookie("x_api_key"));
    let Some(token) = token else { return refuse("missing apikey") };
    let known = settings
        .keys
        .iter()
        .find(|key| !key.key.is_empty() && verify_slices_are_equal(key.key.as_bytes(), token.as_bytes()).is_ok());
    match known {
        None => refuse("wrong apikey"),
        Some(key) if key.role == Role::Viewer && request.method != "GET" => refuse("invalid method for role viewer"),
        Some(key) => Ok(key.name.clone()),
    }
}
