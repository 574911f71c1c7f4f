//! Schemas of consumers, their credentials and consumer groups. Surprise: a credential's id may carry its consumer's name
//! (`jack/credentials/1`), which is how files without an Admin API name it.

use super::parts;
use serde_json::{Value, json};

pub(super) fn consumer() -> Value {
    json!({
        "type": "object",
        "properties": parts::with(parts::described(), [
            ("username", json!({
                "type": "string", "minLength": 1, "maxLength": 256, "pattern": r"^[a-zA-Z0-9_\-]+$"
            })),
            ("group_id", parts::id()),
            ("plugins", parts::plugins()),
        ]),
        "required": ["username"],
        "additionalProperties": false
    })
}

pub(super) fn credential() -> Value {
    json!({
        "type": "object",
        "properties": parts::with(parts::named(), [
            ("id", json!({
                "oneOf": [
                    parts::id(),
                    {
                        "type": "string",
                        "minLength": 15,
                        "maxLength": 128,
                        "pattern": "^[a-zA-Z0-9-_]+/credentials/[a-zA-Z0-9-_.]+$"
                    }
                ]
            })),
            ("plugins", json!({"type": "object", "maxProperties": 1})),
        ]),
        "additionalProperties": false
    })
}

pub(super) fn consumer_group() -> Value {
    json!({
        "type": "object",
        "properties": parts::with(parts::named(), [("plugins", parts::plugins())]),
        "required": ["id", "plugins"],
        "additionalProperties": false
    })
}
