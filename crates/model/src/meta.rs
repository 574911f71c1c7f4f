//! The `_meta` part that every plugin's schema gets (apisix/plugin.lua `load_plugin`). Surprise: it is added under
//! `properties` only, so that a plugin whose schema forbids other properties still takes `_meta`.

use serde_json::{Map, Value, json};

/// Marks a schema that has its `_meta` already.
pub const MARK: &str = "this is a mark for our injected plugin schema";

/// Adds `_meta` and the mark; a schema that bears the mark is left alone.
pub fn inject_meta(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    if fields.get("$comment").and_then(Value::as_str) == Some(MARK) {
        return;
    }
    let properties = fields.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    if !properties.is_object() {
        *properties = Value::Object(Map::new());
    }
    if let Value::Object(properties) = properties {
        properties.insert(String::from("_meta"), meta());
    }
    fields.insert(String::from("$comment"), Value::from(MARK));
}

fn meta() -> Value {
    json!({
        "type": "object",
        "properties": {
            "disable": {"type": "boolean"},
            "error_response": {"oneOf": [{"type": "string"}, {"type": "object"}]},
            "priority": {"description": "priority of plugins by customized order", "type": "integer"},
            "filter": {
                "description": "filter determines whether the plugin needs to be executed at runtime",
                "type": "array"
            },
            "override": {
                "description": "on a route's plugin: stands in for the global rule's of the same name, where that one allows it",
                "type": "boolean"
            },
            "allow_override": {
                "description": "on a global rule's plugin: routes may put theirs in its place",
                "type": "boolean"
            },
            "pre_function": {
                "description": "function to be executed in each phase before execution of plugins. The pre_function will have access to two arguments: `conf` and `ctx`.",
                "type": "string"
            }
        },
        "additionalProperties": false
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Schema;

    #[test]
    fn meta_is_injected_once_and_checked() {
        let mut document = json!({"type": "object", "additionalProperties": false});
        inject_meta(&mut document);
        let once = document.clone();
        inject_meta(&mut document);
        assert_eq!(document, once);
        let schema = Schema::new(document).unwrap();
        assert!(schema.check(&mut json!({"_meta": {"disable": true}})).is_ok());
        assert!(schema.check(&mut json!({"_meta": {"override": true, "allow_override": false}})).is_ok());
        let violation = schema.check(&mut json!({"_meta": {"disabled": true}})).unwrap_err();
        assert_eq!(
            violation.message,
            "property \"_meta\" validation failed: additional properties forbidden, found disabled"
        );
        assert_eq!(violation.path, "/_meta/disabled");
        assert_eq!(violation.nearest.as_deref(), Some("disable"));
    }
}
