//! Which fields of a resource are encrypted at rest: those that its plugins name (`encrypt_fields` of their schemas),
//! private keys of ssl objects, and client keys of upstreams (apisix/plugin.lua `encrypt_conf`, apisix/admin/resource.lua,
//! apisix/upstream.lua). The surprise: only keys in PEM are encrypted, so those twice written stay as they are, while a
//! plugin field is encrypted whatever it holds: conceal what is plain, once.

use crate::keyring::Keyring;
use serde_json::Value;
use sluice_model::Kind;
use sluice_model::validate::PluginScope;

/// What plugins say of their fields.
pub trait SecretFields {
    /// Paths of secret fields (`auth.password`) in the plugin's configuration of this scope; `None` for a plugin that is
    /// not known or not enabled.
    fn secret_fields(&self, plugin: &str, scope: PluginScope) -> Option<&[String]>;
}

/// Encrypts a checked resource before it is stored. `id` as in the store: the plugin's name of `plugin_metadata`.
pub fn conceal(kind: Kind, id: &str, body: &mut Value, keyring: &Keyring, plugins: &dyn SecretFields) {
    walk_plugins(kind, id, body, keyring, plugins, Direction::Conceal);
    keys(kind, body, &mut |key| {
        if is_pem(key) {
            *key = keyring.encrypt(key);
        }
    });
}

/// Decrypts a stored resource for its use. What cannot be decrypted is taken as it is: plugin fields that were written
/// without encryption are told at level info, private keys at level error.
pub fn reveal(kind: Kind, id: &str, body: &mut Value, keyring: &Keyring, plugins: &dyn SecretFields) {
    reveal_plugins(kind, id, body, keyring, plugins);
    keys(kind, body, &mut |key| {
        if is_pem(key) || sluice_model::secret::is_reference(key) {
            return;
        }
        match keyring.decrypt(key) {
            Ok(plain) => *key = plain,
            Err(error) => tracing::error!("{}/{id}: ssl key: {error}", kind.dir()),
        }
    });
}

/// Decrypts the plugin fields alone: what the Admin API shows. Private keys it does not show, or as they are stored.
pub fn reveal_plugins(kind: Kind, id: &str, body: &mut Value, keyring: &Keyring, plugins: &dyn SecretFields) {
    walk_plugins(kind, id, body, keyring, plugins, Direction::Reveal);
}

/// What stands for a secret where values are shown that need not be read back.
pub const MASK: &str = "***";

/// Replaces every secret of a stored resource with [`MASK`]: the plugins' fields whether they are encrypted at rest or not
/// (of a plugin that is not known, every text), private keys, and the texts of a secret manager's settings.
pub fn mask(kind: Kind, id: &str, body: &mut Value, plugins: &dyn SecretFields) {
    let hide = |text: &mut String| {
        if !sluice_model::secret::is_reference(text) {
            MASK.clone_into(text);
        }
    };
    if kind == Kind::Secret {
        let fields = body.as_object_mut().into_iter().flatten();
        fields.filter(|(name, _)| !OPEN.contains(&name.as_str())).for_each(|(_, value)| texts(value, &hide));
    }
    keys(kind, body, &mut |key| hide(key));
    walk(kind, id, body, plugins, &mut |found| match found {
        Found::Field { text, .. } => hide(text),
        Found::Unknown { config, .. } => texts(config, &hide),
    });
}

/// Settings of secret managers that are no secrets.
const OPEN: [&str; 5] = ["id", "uri", "prefix", "region", "endpoint_url"];

fn texts(value: &mut Value, change: &dyn Fn(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| texts(item, change)),
        Value::Object(fields) => fields.iter_mut().for_each(|(_, value)| texts(value, change)),
        _ => {}
    }
}

/// What [`walk`] comes by.
enum Found<'a> {
    Field {
        plugin: &'a str,
        path: &'a str,
        place: &'a str,
        text: &'a mut String,
    },
    /// A plugin whose fields are not known.
    Unknown {
        plugin: &'a str,
        config: &'a mut Value,
    },
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Conceal,
    Reveal,
}

fn walk_plugins(
    kind: Kind,
    id: &str,
    body: &mut Value,
    keyring: &Keyring,
    plugins: &dyn SecretFields,
    direction: Direction,
) {
    if !keyring.encrypts_plugin_fields() {
        return;
    }
    walk(kind, id, body, plugins, &mut |found| match found {
        Found::Unknown { plugin, .. } => tracing::warn!("failed to get schema for plugin: {plugin}"),
        Found::Field { plugin, path, place, text } => match direction {
            Direction::Conceal => *text = keyring.encrypt(text),
            Direction::Reveal => match keyring.decrypt(text) {
                Ok(plain) => *text = plain,
                Err(error) => tracing::info!(
                    "failed to decrypt the conf of plugin [{plugin}] key [{path}{place}], err: {error}: the value is taken as plain text; \
                     it may have been written before the field was encrypted, or with a key that is not in the keyring"
                ),
            },
        },
    });
}

/// Every secret field of the plugins. Stream routes' plugins have none in APISIX (apisix/admin/stream_routes.lua).
fn walk(kind: Kind, id: &str, body: &mut Value, plugins: &dyn SecretFields, change: &mut dyn FnMut(Found<'_>)) {
    let scope = match kind {
        Kind::Consumer | Kind::Credential => PluginScope::Consumer,
        Kind::Route | Kind::Service | Kind::PluginConfig | Kind::GlobalRule | Kind::ConsumerGroup => PluginScope::Route,
        Kind::PluginMetadata => {
            if let Some(paths) = plugins.secret_fields(id, PluginScope::Metadata) {
                walk_plugin(id, body, paths, change);
            }
            return;
        }
        Kind::StreamRoute | Kind::Upstream | Kind::Ssl | Kind::Proto | Kind::Secret | Kind::GraphqlCostDecoration => {
            return;
        }
    };
    let Some(configured) = body.get_mut("plugins").and_then(Value::as_object_mut) else { return };
    for (name, config) in configured.iter_mut() {
        match plugins.secret_fields(name, scope) {
            Some(paths) => walk_plugin(name, config, paths, change),
            None => change(Found::Unknown { plugin: name, config }),
        }
    }
}

fn walk_plugin(plugin: &str, config: &mut Value, paths: &[String], change: &mut dyn FnMut(Found<'_>)) {
    for path in paths {
        at_path(config, path, &mut |place, text| change(Found::Field { plugin, path, place, text }));
    }
}

/// Every text at a dotted path: lists on the way are entered at each item, at its end a text, the texts of a list, or those
/// of a map's values. `place` says which.
fn at_path(config: &mut Value, path: &str, change: &mut dyn FnMut(&str, &mut String)) {
    let Some((first, rest)) = path.split_once('.') else {
        match config.get_mut(path) {
            Some(Value::String(text)) => change("", text),
            Some(Value::Array(items)) => {
                for (i, item) in items.iter_mut().enumerate() {
                    if let Value::String(text) = item {
                        change(&format!("][{}", i + 1), text);
                    }
                }
            }
            Some(Value::Object(fields)) => {
                for (name, value) in fields.iter_mut() {
                    if let Value::String(text) = value {
                        change(&format!(".{name}"), text);
                    }
                }
            }
            _ => {}
        }
        return;
    };
    match config.get_mut(first) {
        Some(Value::Array(items)) => items.iter_mut().for_each(|item| at_path(item, rest, change)),
        Some(inner) => at_path(inner, rest, change),
        None => {}
    }
}

/// The private keys that a resource may hold.
fn keys(kind: Kind, body: &mut Value, change: &mut dyn FnMut(&mut String)) {
    match kind {
        Kind::Ssl => {
            text(body.get_mut("key"), change);
            for key in body.get_mut("keys").and_then(Value::as_array_mut).into_iter().flatten() {
                text(Some(key), change);
            }
        }
        Kind::Upstream => text(body.pointer_mut("/tls/client_key"), change),
        Kind::Route | Kind::Service | Kind::StreamRoute => text(body.pointer_mut("/upstream/tls/client_key"), change),
        _ => {}
    }
}

fn text(value: Option<&mut Value>, change: &mut dyn FnMut(&mut String)) {
    if let Some(Value::String(text)) = value {
        change(text);
    }
}

/// As APISIX tells a key in PEM from an encrypted one (apisix/ssl.lua).
fn is_pem(key: &str) -> bool {
    key.starts_with("---")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Known(Vec<(&'static str, PluginScope, Vec<String>)>);

    impl SecretFields for Known {
        fn secret_fields(&self, plugin: &str, scope: PluginScope) -> Option<&[String]> {
            let named = self.0.iter().find(|(name, known, _)| *name == plugin && *known == scope);
            let known = self.0.iter().any(|(name, ..)| *name == plugin);
            named.map(|(.., paths)| paths.as_slice()).or(known.then_some(&[]))
        }
    }

    fn known() -> Known {
        let paths = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect();
        Known(vec![
            ("key-auth", PluginScope::Consumer, paths(&["key"])),
            ("csrf", PluginScope::Route, paths(&["key"])),
            ("csrf", PluginScope::Consumer, paths(&["key"])),
            ("kafka-logger", PluginScope::Route, paths(&["brokers.sasl_config.password"])),
            ("loki-logger", PluginScope::Route, paths(&["headers", "fallbacks"])),
            ("azure-functions", PluginScope::Metadata, paths(&["master_apikey"])),
        ])
    }

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        let masked = |kind: Kind, id: &str, mut body: Value| {
            mask(kind, id, &mut body, &known());
            body
        };
        let consumer =
            json!({"username": "a", "plugins": {"key-auth": {"key": "hidden"}, "gone": {"x": ["hidden", 1]}}});
        let shown = json!({"username": "a", "plugins": {"key-auth": {"key": "***"}, "gone": {"x": ["***", 1]}}});
        assert_eq!(masked(Kind::Consumer, "a", consumer), shown);
        let route = json!({"uri": "/", "plugins": {"kafka-logger": {"brokers": [{"host": "h", "sasl_config": {"password": "hidden"}}]}},
            "upstream": {"tls": {"client_key": "hidden", "client_cert": "c"}}});
        let text = masked(Kind::Route, "1", route).to_string();
        assert!(!text.contains("hidden") && text.contains("\"client_cert\":\"c\""), "{text}");
        let ssl = masked(Kind::Ssl, "1", json!({"cert": "c", "key": "hidden", "keys": ["hidden"]}));
        assert_eq!(ssl, json!({"cert": "c", "key": "***", "keys": ["***"]}));
        let vault = json!({"uri": "u", "prefix": "p", "token": "hidden"});
        assert_eq!(masked(Kind::Secret, "vault/1", vault), json!({"uri": "u", "prefix": "p", "token": "***"}));
        // Where a secret is to be found is none.
        let reference = json!({"plugins": {"key-auth": {"key": "$secret://vault/1/key"}}});
        assert_eq!(masked(Kind::Consumer, "a", reference.clone()), reference);
        let metadata = masked(Kind::PluginMetadata, "azure-functions", json!({"master_apikey": "hidden"}));
        assert_eq!(metadata, json!({"master_apikey": "***"}));
    }

    fn keyring(plugin_fields: bool) -> Keyring {
        Keyring::new(&["edd1c9f0985e76a2"], plugin_fields)
    }

    const BAR: &str = "77+NmbYqNfN+oLm0aX5akg==";

    fn check(kind: Kind, id: &str, plain: Value, stored: Value) {
        let mut body = plain.clone();
        conceal(kind, id, &mut body, &keyring(true), &known());
        assert_eq!(body, stored);
        reveal(kind, id, &mut body, &keyring(true), &known());
        assert_eq!(body, plain);
    }

    #[test]
    fn fields_of_plugins() {
        let route = |key: &str| {
            json!({"uri": "/", "plugins": {
                "csrf": {"key": key, "name": "bar"},
                "key-auth": {"key": "bar"},
                "unknown": {"key": "bar"},
                "kafka-logger": {"brokers": [{"sasl_config": {"password": key}}, {"host": "bar"}, 5], "key": "bar"},
                "loki-logger": {"headers": {"a": key, "b": 1, "c": ["bar"]}, "fallbacks": [key, 2, {"x": "bar"}]}
            }})
        };
        for kind in [Kind::Route, Kind::Service, Kind::PluginConfig, Kind::GlobalRule, Kind::ConsumerGroup] {
            check(kind, "1", route("bar"), route(BAR));
        }
        check(Kind::StreamRoute, "1", route("bar"), route("bar"));
        let consumer = |key: &str| json!({"plugins": {"key-auth": {"key": key}, "csrf": {"key": key}}});
        check(Kind::Consumer, "anna", consumer("bar"), consumer(BAR));
        check(Kind::Credential, "anna/credentials/1", consumer("bar"), consumer(BAR));
        let metadata = |key: &str| json!({"master_apikey": key, "key": "bar"});
        check(Kind::PluginMetadata, "azure-functions", metadata("bar"), metadata(BAR));
        check(Kind::PluginMetadata, "unknown", metadata("bar"), metadata("bar"));
        check(Kind::Route, "1", json!({"plugins": 5}), json!({"plugins": 5}));
    }

    #[test]
    fn a_field_that_was_never_encrypted_is_plain() {
        let mut body = json!({"plugins": {"key-auth": {"key": "auth-one"}}});
        reveal(Kind::Consumer, "anna", &mut body, &keyring(true), &known());
        assert_eq!(body, json!({"plugins": {"key-auth": {"key": "auth-one"}}}));
    }

    #[test]
    fn without_enable_encrypt_fields_only_private_keys_are_encrypted() {
        let mut body = json!({"plugins": {"csrf": {"key": "bar"}}, "upstream": {"tls": {"client_key": "---k"}}});
        conceal(Kind::Route, "1", &mut body, &keyring(false), &known());
        assert_eq!(body["plugins"]["csrf"]["key"], "bar");
        assert_ne!(body["upstream"]["tls"]["client_key"], "---k");
        reveal(Kind::Route, "1", &mut body, &keyring(false), &known());
        assert_eq!(body["upstream"]["tls"]["client_key"], "---k");
    }

    #[test]
    fn private_keys_in_pem_and_nothing_else() {
        let pem = "-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----";
        let stored = keyring(true).encrypt(pem);
        let ssl = |key: &str| json!({"cert": "---c", "key": key, "keys": [key, "$secret://vault/1/a/b"]});
        check(Kind::Ssl, "1", ssl(pem), ssl(&stored));
        let tls = |key: &str| json!({"client_cert": "---c", "client_key": key});
        check(Kind::Upstream, "1", json!({"tls": tls(pem)}), json!({"tls": tls(&stored)}));
        for kind in [Kind::Route, Kind::Service, Kind::StreamRoute] {
            check(kind, "1", json!({"upstream": {"tls": tls(pem)}}), json!({"upstream": {"tls": tls(&stored)}}));
        }
        let mut twice = ssl(&stored);
        conceal(Kind::Ssl, "1", &mut twice, &keyring(true), &known());
        assert_eq!(twice, ssl(&stored));
        let mut foreign = ssl("AAAAAAAAAAAAAAAAAAAAAA==");
        reveal(Kind::Ssl, "1", &mut foreign, &keyring(true), &known());
        assert_eq!(foreign, ssl("AAAAAAAAAAAAAAAAAAAAAA=="));
        let mut shown = ssl(&stored);
        reveal_plugins(Kind::Ssl, "1", &mut shown, &keyring(true), &known());
        assert_eq!(shown, ssl(&stored));
    }
}
