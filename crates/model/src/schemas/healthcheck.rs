//! Schema of an upstream's `checks`. Surprise: an upstream with only passive checks is refused, as in APISIX, unless they say
//! when a node comes back (`ejection_time`, ours).

use super::{parts, resilience};
use serde_json::{Value, json};

pub(super) fn checks() -> Value {
    json!({
        "type": "object",
        "properties": {
            "active": active(),
            "passive": passive(),
            "all_unhealthy": {
                "description": "without a healthy node: use all, or answer 503",
                "type": "string",
                "enum": ["use_all", "fail"]
            }
        },
        // the last branch is ours; within `allOf` it stays out of the message
        "anyOf": [
            {"required": ["active"]},
            {"required": ["active", "passive"]},
            {"allOf": [
                {"required": ["passive"]},
                {"properties": {"passive": {
                    "required": ["unhealthy"],
                    "properties": {"unhealthy": {"required": ["ejection_time"]}}
                }}}
            ]}
        ]
    })
}

fn kind() -> Value {
    json!({"type": "string", "enum": ["http", "https", "tcp"], "default": "http"})
}

/// `redis` and `grpc` are ours.
fn probe_kind() -> Value {
    json!({"type": "string", "enum": ["http", "https", "tcp", "redis", "grpc"], "default": "http"})
}

/// Another name of `http_statuses`, without a default.
fn codes() -> Value {
    json!({
        "description": "stands before http_statuses",
        "type": "array",
        "minItems": 1,
        "items": {"type": "integer", "minimum": 200, "maximum": 599},
        "uniqueItems": true
    })
}

fn statuses(default: Value) -> Value {
    json!({
        "type": "array",
        "minItems": 1,
        "items": {"type": "integer", "minimum": 200, "maximum": 599},
        "uniqueItems": true,
        "default": default
    })
}

fn count(minimum: u8, default: u8) -> Value {
    json!({"type": "integer", "minimum": minimum, "maximum": 254, "default": default})
}

fn interval() -> Value {
    json!({"type": "integer", "minimum": 1, "default": 1})
}

fn active() -> Value {
    json!({
        "type": "object",
        "properties": {
            "type": probe_kind(),
            "interval": {
                "description": "seconds between probes, of healthy and unhealthy nodes alike; their own intervals stand before it",
                "type": "number",
                "minimum": 0
            },
            "redis_username": {"type": "string"},
            "redis_password": {"type": "string"},
            "redis_role": {
                "description": "the role that a Redis node must have",
                "type": "string",
                "enum": ["master", "slave"]
            },
            "grpc_service": {
                "description": "the service that grpc.health.v1 is asked for; without it the server itself",
                "type": "string"
            },
            "timeout": {"type": "number", "default": 1},
            "concurrency": {"type": "integer", "default": 10},
            "host": parts::host(),
            "port": {"type": "integer", "minimum": 1, "maximum": 65535},
            "http_method": {"type": "string", "enum": parts::methods(), "default": "GET"},
            "http_path": {"type": "string", "default": "/"},
            "http_req_body": {"type": "string", "default": ""},
            "https_verify_certificate": {"type": "boolean", "default": true},
            "healthy": {
                "type": "object",
                "properties": {
                    "interval": interval(),
                    "http_codes": codes(),
                    "http_statuses": statuses(json!([200, 302])),
                    "successes": count(1, 2)
                }
            },
            "unhealthy": {
                "type": "object",
                "properties": {
                    "interval": interval(),
                    "http_codes": codes(),
                    "http_statuses": statuses(json!([429, 404, 500, 501, 502, 503, 504, 505])),
                    "http_failures": count(1, 5),
                    "tcp_failures": count(1, 2),
                    "timeouts": count(1, 3)
                }
            },
            "req_headers": {"type": "array", "minItems": 1, "items": {"type": "string", "uniqueItems": true}}
        }
    })
}

fn passive() -> Value {
    json!({
        "type": "object",
        "properties": {
            "type": kind(),
            "healthy": {
                "type": "object",
                "properties": {
                    "http_codes": codes(),
                    "http_statuses": statuses(json!([
                        200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308
                    ])),
                    "successes": count(0, 5)
                }
            },
            "unhealthy": {
                "type": "object",
                "properties": {
                    "http_codes": codes(),
                    "http_statuses": statuses(json!([429, 500, 503])),
                    "tcp_failures": count(0, 2),
                    "timeouts": count(0, 7),
                    "http_failures": count(0, 5),
                    "interval": {
                        "description": "seconds within which failures are counted; without it they count in a row",
                        "type": "number",
                        "minimum": 0
                    },
                    "grpc_statuses": resilience::grpc_statuses("calls of gRPC that ended so are failures; ours"),
                    "ejection_time": {
                        "description": "seconds for which a failing node is out, whatever probes say",
                        "type": "number",
                        "exclusiveMinimum": 0
                    },
                    "max_ejection_percent": {
                        "description": "share of the nodes that may be out so at a time; above 0 one always may",
                        "type": "integer",
                        "minimum": 0,
                        "maximum": 100
                    }
                }
            }
        }
    })
}
