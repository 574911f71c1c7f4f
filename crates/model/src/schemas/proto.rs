//! Schema of a protobuf definition. Surprise: `content` is either `.proto` source or a base64 descriptor set.

use super::parts;
use serde_json::{Value, json};

pub(super) fn document() -> Value {
    json!({
        "type": "object",
        "properties": parts::with(parts::named(), [
            ("content", json!({"type": "string", "minLength": 1, "maxLength": 1_048_576})),
        ]),
        "required": ["content"],
        "additionalProperties": false
    })
}
