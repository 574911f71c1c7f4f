//! Schema of a GraphQL cost decoration: what a field, a type or a chain of fields costs. Surprise: `service_id` is never
//! required, since it is taken from the path.

use super::parts;
use serde_json::{Value, json};

pub(super) fn document() -> Value {
    let arguments = || json!({"type": "array", "items": {"type": "string", "minLength": 1}});
    json!({
        "type": "object",
        "properties": parts::with(parts::named(), [
            ("service_id", parts::id()),
            ("field_path", json!({
                "type": "string",
                "pattern": r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
            })),
            ("add_value", json!({"type": "number", "minimum": 0, "default": 1})),
            ("add_arguments", arguments()),
            ("mul_value", json!({"type": "number", "minimum": 0, "default": 1})),
            ("mul_arguments", arguments()),
        ]),
        "required": ["field_path"],
        "additionalProperties": false
    })
}
