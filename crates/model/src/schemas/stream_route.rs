//! Schema of a stream (TCP, UDP) route. Surprise: nothing is required; a route without conditions takes every connection.

use super::{parts, upstream};
use serde_json::{Value, json};

pub(super) fn document() -> Value {
    json!({
        "type": "object",
        "properties": parts::with(parts::named(), [
            ("remote_addr", parts::address("client IP")),
            ("server_addr", parts::address("server IP")),
            ("server_port", json!({
                "description": "server port", "type": "integer", "minimum": 1, "maximum": 65535
            })),
            ("sni", json!({
                "description": "server name indication", "type": "string", "pattern": parts::HOST_PATTERN
            })),
            ("upstream", upstream::document()),
            ("upstream_id", parts::id()),
            ("service_id", parts::id()),
            ("plugins", parts::plugins()),
            ("protocol", protocol()),
        ]),
        "additionalProperties": false
    })
}

fn protocol() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "superior_id": parts::id(),
            "conf": {"description": "protocol-specific configuration", "type": "object"},
            "logger": {
                "type": "array",
                "items": {
                    "properties": {
                        "name": {"type": "string"},
                        "filter": {"description": "logger filter rules", "type": "array"},
                        "conf": {"description": "logger plugin configuration", "type": "object"}
                    },
                    "dependencies": {"name": ["conf"]},
                    "additionalProperties": false
                }
            }
        },
        "required": ["name"]
    })
}
