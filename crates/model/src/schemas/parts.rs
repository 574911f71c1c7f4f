//! Parts that the schemas of several resources share. Surprise: `id` may be a positive integer as well as a name, and
//! label values may be any non-blank text.

use serde_json::{Map, Value, json};

/// An object's id.
pub fn id() -> Value {
    json!({
        "anyOf": [
            {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[a-zA-Z0-9-_.]+$"},
            {"type": "integer", "minimum": 1}
        ]
    })
}

/// An absolute URI of a server.
pub fn uri() -> Value {
    json!({"type": "string", "pattern": r"^[^\/]+:\/\/([\da-zA-Z.-]+|\[[\da-fA-F:]+\])(:\d+)?"})
}

pub(super) const HOST_PATTERN: &str = r"^\*$|^\*?[0-9a-zA-Z-._\[\]:]+$";

pub(super) fn host() -> Value {
    json!({"type": "string", "pattern": HOST_PATTERN})
}

pub(super) fn hosts() -> Value {
    json!({"type": "array", "items": host(), "minItems": 1, "uniqueItems": true})
}

pub(super) fn name() -> Value {
    json!({"type": "string", "maxLength": 256, "minLength": 1})
}

pub(super) fn desc() -> Value {
    json!({"type": "string", "maxLength": 256})
}

pub(super) fn labels() -> Value {
    json!({
        "description": "key/value pairs to specify attributes",
        "type": "object",
        "patternProperties": {
            ".*": {
                "description": "value of label",
                "type": "string",
                "pattern": r"^\S+$",
                "maxLength": 256,
                "minLength": 1
            }
        }
    })
}

pub(super) fn timestamp() -> Value {
    json!({"type": "integer"})
}

/// Seconds.
pub(super) fn timeout() -> Value {
    json!({
        "type": "object",
        "properties": {
            "connect": {"type": "number", "exclusiveMinimum": 0},
            "send": {"type": "number", "exclusiveMinimum": 0},
            "read": {"type": "number", "exclusiveMinimum": 0},
            "request": {
                "description": "seconds from the request's head to the response's, all attempts and waits included",
                "type": "number", "exclusiveMinimum": 0
            }
        },
        "required": ["connect", "send", "read"]
    })
}

pub(super) fn method() -> Value {
    json!({"description": "HTTP method", "type": "string", "enum": methods()})
}

pub(super) fn methods() -> Value {
    json!(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"])
}

/// An address or a network, as `description` says whose.
pub(super) fn address(description: &str) -> Value {
    let byte = "([0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])";
    let ipv4 = [byte; 4].join(r"\.");
    let ipv6 = "([a-fA-F0-9]{0,4}:){1,8}(:[a-fA-F0-9]{0,4}){0,8}([a-fA-F0-9]{0,4})?";
    json!({
        "description": description,
        "type": "string",
        "anyOf": [
            {"title": "IPv4", "type": "string", "format": "ipv4"},
            {"title": "IPv4/CIDR", "type": "string", "pattern": format!("^{ipv4}/([12]?[0-9]|3[0-2])$")},
            {"title": "IPv6", "type": "string", "format": "ipv6"},
            {"title": "IPv6/CIDR", "type": "string", "pattern": format!("^{ipv6}/[0-9]{{1,3}}$")}
        ]
    })
}

pub(super) fn plugins() -> Value {
    json!({"type": "object"})
}

pub(super) fn script() -> Value {
    json!({"type": "string", "minLength": 10, "maxLength": 102_400})
}

pub(super) fn enable_websocket() -> Value {
    json!({"description": "enable websocket for request", "type": "boolean"})
}

pub(super) fn certificate() -> Value {
    json!({"type": "string", "minLength": 128, "maxLength": 65_536})
}

pub(super) fn private_key() -> Value {
    json!({"type": "string", "minLength": 64, "maxLength": 65_536})
}

pub(super) fn status(what: &str) -> Value {
    json!({
        "description": format!("{what} status, 1 to enable, 0 to disable"),
        "type": "integer",
        "enum": [1, 0],
        "default": 1
    })
}

/// `id`, `create_time` and `update_time`, which every resource has.
pub(super) fn stamped() -> Map<String, Value> {
    object([("id", id()), ("create_time", timestamp()), ("update_time", timestamp())])
}

/// [`stamped`], `desc` and `labels`.
pub(super) fn described() -> Map<String, Value> {
    let mut properties = stamped();
    properties.extend(object([("desc", desc()), ("labels", labels())]));
    properties
}

/// [`described`] and `name`.
pub(super) fn named() -> Map<String, Value> {
    let mut properties = described();
    properties.extend(object([("name", name())]));
    properties
}

pub(super) fn object<const N: usize>(entries: [(&str, Value); N]) -> Map<String, Value> {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(super) fn with<const N: usize>(mut properties: Map<String, Value>, more: [(&str, Value); N]) -> Value {
    properties.extend(object(more));
    Value::Object(properties)
}
