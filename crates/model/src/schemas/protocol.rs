//! Schemas of the protocols that stream routes may name (apisix/stream/xrpc/protocols). Surprise: they are checked only;
//! no protocol is spoken here.

use super::built_in;
use crate::schema::Schema;
use serde_json::json;
use std::sync::LazyLock;

static REDIS: LazyLock<Schema> = LazyLock::new(|| {
    built_in(json!({
        "type": "object",
        "properties": {
            "faults": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {
                        "commands": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                        "key": {"type": "string", "minLength": 1},
                        "delay": {"type": "number", "description": "additional delay in seconds"}
                    },
                    "required": ["commands", "delay"]
                }
            }
        }
    }))
});
static DUBBO: LazyLock<Schema> = LazyLock::new(|| built_in(json!({"type": "object"})));

/// The schema of a protocol's `conf`.
pub fn protocol(name: &str) -> Option<&'static Schema> {
    match name {
        "redis" => Some(&REDIS),
        "dubbo" => Some(&DUBBO),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_protocols_have_schemas() {
        let redis = protocol("redis").unwrap();
        assert!(redis.check(&mut json!({"faults": [{"commands": ["get"], "delay": 1}]})).is_ok());
        assert!(redis.check(&mut json!({"faults": [{"commands": ["get"]}]})).is_err());
        assert!(protocol("dubbo").unwrap().check(&mut json!({})).is_ok());
        assert!(protocol("mysql").is_none());
    }
}
