//! Schema of a route. Surprise: `allOf`, `anyOf` and `not` together say which of `uri`/`uris`, `host`/`hosts` … go together.

use super::{parts, upstream};
use serde_json::{Value, json};

pub(super) fn document() -> Value {
    json!({
        "type": "object",
        "properties": parts::with(parts::named(), [
            ("uri", json!({"type": "string", "minLength": 1, "maxLength": 4096})),
            ("uris", json!({
                "type": "array",
                "items": {"description": "HTTP uri", "type": "string"},
                "minItems": 1,
                "uniqueItems": true
            })),
            ("priority", json!({"type": "integer", "default": 0})),
            ("methods", json!({"type": "array", "items": parts::method(), "uniqueItems": true})),
            ("host", parts::host()),
            ("hosts", parts::hosts()),
            ("remote_addr", parts::address("client IP")),
            ("remote_addrs", json!({
                "type": "array",
                "items": parts::address("client IP"),
                "minItems": 1,
                "uniqueItems": true
            })),
            ("timeout", parts::timeout()),
            ("vars", json!({"type": "array"})),
            ("filter_func", json!({"type": "string", "minLength": 10, "pattern": "^function"})),
            ("script", parts::script()),
            ("script_id", parts::id()),
            ("plugins", parts::plugins()),
            ("plugin_config_id", parts::id()),
            ("upstream", upstream::document()),
            ("service_id", parts::id()),
            ("upstream_id", parts::id()),
            ("enable_websocket", parts::enable_websocket()),
            ("status", parts::status("route")),
        ]),
        "allOf": [
            {"oneOf": [{"required": ["uri"]}, {"required": ["uris"]}]},
            at_most_one("host", "hosts"),
            at_most_one("remote_addr", "remote_addrs"),
        ],
        "anyOf": [
            {"required": ["plugins", "uri"]},
            {"required": ["upstream", "uri"]},
            {"required": ["upstream_id", "uri"]},
            {"required": ["service_id", "uri"]},
            {"required": ["plugins", "uris"]},
            {"required": ["upstream", "uris"]},
            {"required": ["upstream_id", "uris"]},
            {"required": ["service_id", "uris"]},
            {"required": ["script", "uri"]},
            {"required": ["script", "uris"]}
        ],
        "not": {"anyOf": [{"required": ["script", "plugins"]}, {"required": ["script", "plugin_config_id"]}]},
        "additionalProperties": false
    })
}

fn at_most_one(one: &str, other: &str) -> Value {
    json!({
        "oneOf": [
            {"not": {"anyOf": [{"required": [one]}, {"required": [other]}]}},
            {"required": [one]},
            {"required": [other]}
        ]
    })
}
