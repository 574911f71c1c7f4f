//! Schema of a service. Surprise: nothing is required, an empty service is valid.

use super::{parts, upstream};
use serde_json::{Value, json};

pub(super) fn document() -> Value {
    json!({
        "type": "object",
        "properties": parts::with(parts::named(), [
            ("plugins", parts::plugins()),
            ("upstream", upstream::document()),
            ("upstream_id", parts::id()),
            ("script", parts::script()),
            ("enable_websocket", parts::enable_websocket()),
            ("hosts", parts::hosts()),
        ]),
        "additionalProperties": false
    })
}
