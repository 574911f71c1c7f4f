//! Which values of an object are secret, masking them, and taking a mask back. The surprise: a mask in a file means "what
//! the server has", so a masked dump can be changed elsewhere and synced without wiping out any password.
use crate::object::Key;
use serde_json::Value;
use sluice_model::{Kind, secret::is_reference};
use sluice_plugin::{Registry, Scope};

/// What stands in place of a secret.
pub const MASK: &str = "********";

/// JSON pointers of the secret texts of an object. References (`$secret://`, `$env://`) are no secrets.
pub fn pointers(key: &Key, value: &Value, registry: &Registry) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |path: &str, at: &str| collect(value.pointer(at), &steps(path), at.to_owned(), &mut found);
    match key.kind {
        Kind::Ssl => {
            add("key", "");
            add("keys", "");
        }
        Kind::Secret => {
            for path in ["token", "secret_access_key", "session_token", "auth_config.private_key"] {
                add(path, "");
            }
        }
        Kind::Upstream => add("tls.client_key", ""),
        Kind::Route | Kind::Service => add("upstream.tls.client_key", ""),
        _ => {}
    }
    if key.kind == Kind::PluginMetadata {
        in_plugin(&key.id, Scope::Metadata, value, "", registry, &mut found);
    }
    let scope = match key.kind {
        Kind::Consumer | Kind::Credential => Scope::Consumer,
        Kind::StreamRoute => Scope::Stream,
        _ => Scope::Route,
    };
    for (name, config) in value["plugins"].as_object().into_iter().flatten() {
        in_plugin(name, scope, config, &format!("/plugins/{}", escape(name)), registry, &mut found);
    }
    found.retain(|pointer| value.pointer(pointer).and_then(Value::as_str).is_some_and(|text| !is_reference(text)));
    found.sort();
    found.dedup();
    found
}

fn in_plugin(name: &str, scope: Scope, config: &Value, at: &str, registry: &Registry, found: &mut Vec<String>) {
    match registry.secret_fields(name, scope) {
        Some(paths) => paths.iter().for_each(|path| collect(Some(config), &steps(path), at.to_owned(), found)),
        // Of a plugin that is not known here, what looks like a secret is taken for one.
        None => by_name(config, at, false, found),
    }
}

fn steps(path: &str) -> Vec<&str> {
    path.split('.').collect()
}

fn escape(step: &str) -> String {
    step.replace('~', "~0").replace('/', "~1")
}

/// Every text at a path; lists on the way are entered at each item (apisix/plugin.lua `encrypt_fields`).
fn collect(value: Option<&Value>, path: &[&str], at: String, found: &mut Vec<String>) {
    match (value, path.split_first()) {
        (Some(Value::Array(items)), _) => {
            for (index, item) in items.iter().enumerate() {
                collect(Some(item), path, format!("{at}/{index}"), found);
            }
        }
        (Some(Value::Object(map)), Some((first, rest))) => {
            collect(map.get(*first), rest, format!("{at}/{}", escape(first)), found);
        }
        (Some(Value::Object(map)), None) => {
            for (name, item) in map {
                collect(Some(item), path, format!("{at}/{}", escape(name)), found);
            }
        }
        (Some(Value::String(_)), None) => found.push(at),
        _ => {}
    }
}

fn by_name(value: &Value, at: &str, secret: bool, found: &mut Vec<String>) {
    match value {
        Value::String(_) if secret => found.push(at.to_owned()),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                by_name(item, &format!("{at}/{index}"), secret, found);
            }
        }
        Value::Object(map) => {
            for (name, item) in map {
                let lower = name.to_ascii_lowercase();
                let telling = ["secret", "password", "passwd", "token", "private_key", "api_key", "apikey", "auth"];
                let named = lower == "key" || telling.iter().any(|word| lower.contains(word));
                // A word such as `token_endpoint` names a place, not a secret; its value is an address.
                let address =
                    item.as_str().is_some_and(|text| text.starts_with("http://") || text.starts_with("https://"));
                by_name(item, &format!("{at}/{}", escape(name)), secret || (named && !address), found);
            }
        }
        _ => {}
    }
}

/// Replaces the secrets of an object.
pub fn mask(key: &Key, value: &mut Value, registry: &Registry) {
    for pointer in pointers(key, value, registry) {
        if let Some(place) = value.pointer_mut(&pointer) {
            *place = MASK.into();
        }
    }
    // APISIX answers ssl objects without their keys; the object in a file needs one.
    if let (Kind::Ssl, Value::Object(fields)) = (key.kind, value)
        && fields.contains_key("cert")
        && !fields.contains_key("key")
    {
        fields.insert("key".into(), MASK.into());
    }
}

/// JSON pointers of all masks in a value.
pub fn masks(value: &Value) -> Vec<String> {
    fn walk(value: &Value, at: String, found: &mut Vec<String>) {
        match value {
            Value::String(text) if text == MASK => found.push(at),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, item)| walk(item, format!("{at}/{index}"), found));
            }
            Value::Object(map) => {
                map.iter().for_each(|(name, item)| walk(item, format!("{at}/{}", escape(name)), found));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(value, String::new(), &mut found);
    found
}

/// Puts what the server has in place of masks; the pointers of those for which it has nothing.
pub fn unmask(value: &mut Value, server: Option<&Value>) -> Vec<String> {
    let mut left = Vec::new();
    for pointer in masks(value) {
        let known = server.and_then(|server| server.pointer(&pointer)).filter(|known| known.is_string());
        match (known, value.pointer_mut(&pointer)) {
            (Some(known), Some(place)) => *place = known.clone(),
            _ => left.push(pointer),
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn registry() -> Registry {
        Registry::new(&[]).unwrap()
    }

    #[test]
    fn secrets_are_masked_and_come_back() {
        let key = Key::new(Kind::Consumer, "anna");
        let server =
            json!({"username": "anna", "plugins": {"key-auth": {"key": "one"}, "x": {"key": "$env://K", "n": 1}}});
        let mut masked = server.clone();
        mask(&key, &mut masked, &registry());
        assert_eq!(masked["plugins"], json!({"key-auth": {"key": MASK}, "x": {"key": "$env://K", "n": 1}}));
        assert_eq!(unmask(&mut masked, Some(&server)), Vec::<String>::new());
        assert_eq!(masked, server);
        mask(&key, &mut masked, &registry());
        assert_eq!(unmask(&mut masked, None), ["/plugins/key-auth/key"]);
    }

    #[test]
    fn private_keys_are_secrets() {
        let ssl = Key::new(Kind::Ssl, "1");
        let mut value = json!({"cert": "c", "key": "k", "keys": ["a", "b"]});
        assert_eq!(pointers(&ssl, &value, &registry()), ["/key", "/keys/0", "/keys/1"]);
        value = json!({"cert": "c"});
        mask(&ssl, &mut value, &registry());
        assert_eq!(value["key"], MASK);
        let route = Key::new(Kind::Route, "1");
        assert_eq!(
            pointers(&route, &json!({"upstream": {"tls": {"client_key": "k"}}}), &registry()),
            ["/upstream/tls/client_key"]
        );
    }
}
