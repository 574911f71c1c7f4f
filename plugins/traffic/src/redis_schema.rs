//! The parts of the `limit-*` schemas that a Redis policy adds (apisix/utils/redis-schema.lua). Their values are read by
//! `redis_fields.rs`.
use serde_json::{Value, json};

fn integer(minimum: i64, default: i64) -> Value {
    json!({"type": "integer", "minimum": minimum, "default": default})
}

fn text(shortest: u64) -> Value {
    json!({"type": "string", "minLength": shortest})
}

fn off() -> Value {
    json!({"type": "boolean", "default": false})
}

/// Policy `redis`. `key_ttl`: `limit-conn` also takes the life of its keys.
pub fn redis(key_ttl: bool) -> Value {
    let schema = json!({
        "properties": {
            "redis_host": text(2),
            "redis_port": integer(1, 6379),
            "redis_username": text(1),
            "redis_password": text(0),
            "redis_database": integer(0, 0),
            "redis_timeout": integer(1, 1000),
            "redis_ssl": off(),
            "redis_ssl_verify": off(),
            "redis_keepalive_timeout": integer(1000, 10000),
            "redis_keepalive_pool": integer(1, 100),
        },
        "required": ["redis_host"],
    });
    with_ttl(schema, key_ttl)
}

/// Policy `redis-cluster`.
pub fn redis_cluster(key_ttl: bool) -> Value {
    let schema = json!({
        "properties": {
            "redis_cluster_nodes": {
                "type": "array",
                "minItems": 1,
                "items": {"type": "string", "minLength": 2, "maxLength": 100},
            },
            "redis_password": text(0),
            "redis_timeout": integer(1, 1000),
            "redis_cluster_name": {"type": "string"},
            "redis_cluster_ssl": off(),
            "redis_cluster_ssl_verify": off(),
            "redis_keepalive_timeout": integer(1000, 10000),
            "redis_keepalive_pool": integer(1, 100),
        },
        "required": ["redis_cluster_nodes", "redis_cluster_name"],
    });
    with_ttl(schema, key_ttl)
}

fn with_ttl(mut schema: Value, key_ttl: bool) -> Value {
    if key_ttl {
        schema["properties"]["key_ttl"] = json!({"type": "integer", "default": 3600});
    }
    schema
}

/// Policy `redis-sentinel` (apisix/plugins/limit-count/init.lua).
pub fn redis_sentinel() -> Value {
    json!({
        "properties": {
            "redis_sentinels": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {
                        "host": text(2),
                        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
                    },
                    "required": ["host", "port"],
                    "additionalProperties": false,
                },
            },
            "redis_master_name": text(1),
            "redis_role": {"type": "string", "enum": ["master", "slave"], "default": "master"},
            "redis_connect_timeout": integer(1, 1000),
            "redis_read_timeout": integer(1, 1000),
            "redis_keepalive_timeout": integer(1, 60000),
            "redis_database": integer(0, 0),
            "redis_username": text(1),
            "redis_password": text(0),
            "sentinel_username": text(1),
            "sentinel_password": text(0),
        },
        "required": ["redis_sentinels", "redis_master_name"],
    })
}

/// `if` of the schemas: the policy is this one. A configuration without `policy` passes too, as in APISIX, where the
/// default stands in before the condition is looked at.
pub fn policy_is(policy: &str) -> Value {
    json!({"properties": {"policy": {"enum": [policy]}}})
}
