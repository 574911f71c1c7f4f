//! Checks of consumers and credentials (apisix/admin/consumers.lua, credentials.lua, apisix/consumer.lua). Surprise: two
//! consumers with the same key are refused, except where the key is a secret reference.

use super::{Checked, Checks, Invalid, PluginScope, check_reference, check_schema, plugins};
use crate::kind::Kind;
use crate::{schemas, secret};
use serde_json::Value;

const PREFIX: &str = "invalid plugins configuration: ";

/// The field by which an auth plugin finds its consumer.
const KEY_FIELDS: [(&str, &str); 6] = [
    ("key-auth", "key"),
    ("basic-auth", "username"),
    ("jwt-auth", "key"),
    ("hmac-auth", "key_id"),
    ("ldap-auth", "user_dn"),
    ("ldap-auth-advanced", "user_dn"),
];

/// Whether an auth plugin finds its consumer by this field.
pub fn is_key_field(plugin: &str, field: &str) -> bool {
    KEY_FIELDS.contains(&(plugin, field))
}

pub(super) fn check(username: Option<&str>, follow: bool, body: &mut Value, checks: &Checks<'_>) -> Checked {
    check_schema(schemas::schema(Kind::Consumer), body)?;
    let own = body.get("username").and_then(Value::as_str).unwrap_or_default().to_owned();
    if username.is_some_and(|username| username != own) {
        return Err(Invalid::at("/username", "wrong username"));
    }
    plugins::check(PluginScope::Consumer, PREFIX, body, checks)?;
    check_duplicates(&own, None, body, checks)?;
    if follow { check_reference("group_id", Kind::ConsumerGroup, "consumer group", body, checks) } else { Ok(()) }
}

pub(super) fn check_credential(
    id: Option<&str>,
    consumer: Option<&str>,
    body: &mut Value,
    checks: &Checks<'_>,
) -> Checked {
    check_schema(schemas::schema(Kind::Credential), body)?;
    plugins::check(PluginScope::Consumer, PREFIX, body, checks)?;
    for name in body.get("plugins").and_then(Value::as_object).into_iter().flat_map(|plugins| plugins.keys()) {
        if !checks.plugins.is_auth(name) {
            let message = "only supports auth type plugins in consumer credential";
            return Err(Invalid::at(&format!("/plugins/{name}"), message));
        }
    }
    match consumer {
        Some(consumer) => check_duplicates(consumer, id, body, checks),
        None => Ok(()),
    }
}

fn check_duplicates(consumer: &str, credential: Option<&str>, body: &Value, checks: &Checks<'_>) -> Checked {
    for (plugin, conf) in body.get("plugins").and_then(Value::as_object).into_iter().flatten() {
        let Some((_, field)) = KEY_FIELDS.iter().find(|(name, _)| name == plugin) else { continue };
        let Some(key) = conf.get(*field).and_then(Value::as_str).filter(|key| !secret::is_reference(key)) else {
            continue;
        };
        let Some(owner) = checks.references.key_owner(plugin, field, key) else { continue };
        let same_credential = credential.is_none() || owner.credential.as_deref() == credential;
        if owner.consumer == consumer && same_credential {
            continue;
        }
        let whose = match owner.credential {
            Some(credential) => format!("credential: {credential} of consumer: {}", owner.consumer),
            None => format!("consumer: {}", owner.consumer),
        };
        let message = format!("duplicate {field} of plugin {plugin} found with {whose}");
        return Err(Invalid::at(&format!("/plugins/{plugin}/{field}"), message));
    }
    Ok(())
}
