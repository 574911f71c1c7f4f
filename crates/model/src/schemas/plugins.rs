//! Schemas of the resources that only hold plugins. Surprise: a plugin config's name, unlike all others, may be empty or
//! of any length.

use super::parts;
use serde_json::{Value, json};

pub(super) fn plugin_config() -> Value {
    json!({
        "type": "object",
        "properties": parts::with(parts::described(), [
            ("name", json!({"type": "string"})),
            ("plugins", parts::plugins()),
        ]),
        "required": ["id", "plugins"],
        "additionalProperties": false
    })
}

pub(super) fn global_rule() -> Value {
    json!({
        "type": "object",
        "properties": parts::with(parts::stamped(), [("plugins", parts::plugins())]),
        "required": ["id", "plugins"],
        "additionalProperties": false
    })
}
