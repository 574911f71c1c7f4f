//! The form in which two objects are compared: defaults filled in, node lists and ids written one way, timestamps gone.
//! The surprise: an object that cannot be completed (a plugin that is not known here) is compared as it was written.
use crate::object::Key;
use serde_json::{Map, Value, json};
use sluice_model::validate::{Checks, Invalid, KeyOwner, Lua, Parsers, PluginScope, Plugins, References};
use sluice_model::{Kind, id, validate_declared};
use sluice_plugin::{Registry, Scope};

/// Fields that name other objects: `1` and `"1"` are the same there.
const REFERENCES: [&str; 7] =
    ["service_id", "upstream_id", "plugin_config_id", "group_id", "proto_id", "client_cert_id", "superior_id"];

/// Fields the server writes.
pub const TIMESTAMPS: [&str; 2] = ["create_time", "update_time"];

/// An object as it is compared.
pub fn normal(key: &Key, value: &Value, registry: &Registry) -> Value {
    let mut completed = without_timestamps(value);
    let _ = complete(key, &mut completed, registry);
    if let Value::Object(fields) = &mut completed {
        fields.shift_remove("id");
    }
    canonical(completed, "")
}

/// A copy without the server's own fields.
pub fn without_timestamps(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Object(fields) = &mut value {
        TIMESTAMPS.iter().for_each(|field| drop(fields.shift_remove(*field)));
    }
    value
}

/// Checks an object as far as it can be checked without the server, and fills in defaults. A value that is refused stays as
/// it was; plugins that are not known here pass.
pub fn complete(key: &Key, value: &mut Value, registry: &Registry) -> Result<(), Invalid> {
    let mut copy = value.clone();
    if let Value::Object(fields) = &mut copy {
        fields.insert("id".into(), Value::String(key.id.clone()));
    }
    let outside = Outside(registry);
    let kind = key.kind.parent().unwrap_or(key.kind);
    validate_declared(kind, &mut copy, &Checks { plugins: &outside, references: &outside, parsers: &outside })?;
    *value = copy;
    Ok(())
}

/// What a check may ask of the outside, answered without knowing the server: references hold, unknown plugins are fine.
struct Outside<'a>(&'a Registry);

impl Plugins for Outside<'_> {
    fn check(&self, name: &str, scope: PluginScope, conf: &mut Value) -> Result<(), String> {
        let scope = match scope {
            PluginScope::Route => Scope::Route,
            PluginScope::Consumer => Scope::Consumer,
            PluginScope::Metadata => Scope::Metadata,
            PluginScope::Stream => Scope::Stream,
        };
        let known = match scope {
            Scope::Stream => self.0.get_stream(name).is_some(),
            _ => self.0.get(name).is_some(),
        };
        if known { self.0.check(name, scope, conf).map_err(|error| error.0) } else { Ok(()) }
    }
    fn exists(&self, _: &str, _: PluginScope) -> bool {
        true
    }
    fn is_auth(&self, name: &str) -> bool {
        self.0.get(name).is_none_or(|definition| definition.info.auth)
    }
}

impl References for Outside<'_> {
    fn exists(&self, _: Kind, _: &str) -> bool {
        true
    }
    fn get(&self, kind: Kind, _: &str) -> Option<Value> {
        // An ssl object that is referred to is a client's certificate.
        (kind == Kind::Ssl).then(|| json!({"type": "client"}))
    }
    fn global_rule_with(&self, _: &str, _: Option<&str>) -> Option<String> {
        None
    }
    fn key_owner(&self, _: &str, _: &str, _: &str) -> Option<KeyOwner> {
        None
    }
}

impl Parsers for Outside<'_> {
    fn vars(&self, expression: &Value) -> Result<(), String> {
        sluice_expr::Expr::compile(expression).map(|_| ()).map_err(|error| error.0)
    }
    fn certificate(&self, pem: &str) -> Result<(), String> {
        if pem == crate::secrets::MASK { Ok(()) } else { sluice_net::tls::check_certificate(pem) }
    }
    fn private_key(&self, pem: &str) -> Result<(), String> {
        // An encrypted key (of a dump) is text that is not PEM.
        if pem.contains("-----BEGIN") { sluice_net::tls::check_private_key(pem) } else { Ok(()) }
    }
    fn proto(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
    fn lua(&self, _: Lua, _: &str) -> Result<(), String> {
        Ok(())
    }
    fn protocol(&self, _: &Value) -> Result<(), String> {
        Ok(())
    }
}

fn canonical(value: Value, name: &str) -> Value {
    match value {
        Value::Object(map) if name == "nodes" => nodes_of_map(map),
        Value::Array(items) if name == "nodes" => nodes_of_list(items),
        // Lua cannot tell an empty list from an empty object.
        Value::Array(items) if items.is_empty() => json!({}),
        Value::Array(items) => items.into_iter().map(|item| canonical(item, "")).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(name, value)| {
                let value = canonical(value, &name);
                (name, value)
            })
            .collect(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if REFERENCES.contains(&name) => {
                Value::String(id::text(&json!(float)).unwrap_or_else(|| number.to_string()))
            }
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => json!(float as i64),
            _ => Value::Number(number),
        },
        other => other,
    }
}

/// `{"a:80": 1}`
fn nodes_of_map(map: Map<String, Value>) -> Value {
    map.into_iter()
        .map(|(address, weight)| (address, json!({"weight": canonical(weight, ""), "priority": 0})))
        .collect()
}

/// `[{"host": "a", "port": 80, "weight": 1}]`; as a list where an address stands twice.
fn nodes_of_list(items: Vec<Value>) -> Value {
    let mut out = Map::new();
    for item in &items {
        let Value::Object(fields) = item else { return Value::Array(items) };
        let Some(host) = fields.get("host").and_then(Value::as_str) else { return Value::Array(items) };
        let address = match fields.get("port") {
            Some(port) => format!("{host}:{}", canonical(port.clone(), "")),
            None => host.to_owned(),
        };
        let mut rest: Map<String, Value> =
            fields.iter().map(|(name, value)| (name.clone(), canonical(value.clone(), name))).collect();
        rest.shift_remove("host");
        rest.shift_remove("port");
        rest.entry("priority").or_insert_with(|| json!(0));
        if out.insert(address, Value::Object(rest)).is_some() {
            return Value::Array(items);
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(kind: Kind, a: Value, b: Value) -> bool {
        let registry = Registry::new(&[]).unwrap();
        let key = Key::new(kind, "1");
        normal(&key, &a, &registry) == normal(&key, &b, &registry)
    }

    #[test]
    fn defaults_and_forms_do_not_count() {
        let short = json!({"uri": "/", "service_id": 1, "upstream": {"nodes": {"a:80": 1}}});
        let long = json!({"uri": "/", "id": "1", "service_id": "1", "priority": 0, "status": 1, "create_time": 5,
            "upstream": {"type": "roundrobin", "scheme": "http", "pass_host": "pass", "hash_on": "vars",
                "nodes": [{"host": "a", "port": 80, "weight": 1, "priority": 0}]}});
        assert!(same(Kind::Route, short.clone(), long));
        assert!(!same(Kind::Route, short, json!({"uri": "/", "service_id": 1, "upstream": {"nodes": {"a:80": 2}}})));
        assert!(same(
            Kind::Route,
            json!({"uri": "/", "plugins": {"x": []}}),
            json!({"uri": "/", "plugins": {"x": {}}})
        ));
        assert!(same(Kind::Proto, json!({"content": "x", "update_time": 1}), json!({"content": "x", "id": "1"})));
    }

    #[test]
    fn what_cannot_be_completed_is_compared_as_written() {
        assert!(same(Kind::Route, json!({"nonsense": 1}), json!({"nonsense": 1})));
        assert!(!same(Kind::Route, json!({"nonsense": 1}), json!({"nonsense": 2})));
    }
}
