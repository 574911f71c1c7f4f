//! Schemas of an upstream's `circuit_breaker` and `concurrency_limit`, both ours. Surprise: unlike APISIX's own parts they
//! refuse fields that they do not know, so that a slip of the pen does not switch a protection off.

use super::parts;
use serde_json::{Value, json};

fn count(default: u32, maximum: u32) -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": maximum, "default": default})
}

fn statuses(description: &str) -> Value {
    json!({
        "description": description,
        "type": "array",
        "minItems": 1,
        "items": {"type": "integer", "minimum": 200, "maximum": 599},
        "uniqueItems": true
    })
}

/// Statuses of gRPC, by name.
pub(super) fn grpc_statuses(description: &str) -> Value {
    json!({
        "description": description,
        "type": "array",
        "items": {"type": "string", "enum": [
            "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists",
            "permission_denied", "resource_exhausted", "failed_precondition", "aborted", "out_of_range",
            "unimplemented", "internal", "unavailable", "data_loss", "unauthenticated"
        ]},
        "uniqueItems": true
    })
}

/// `fallback`: what an upstream that stands in it may be.
pub(super) fn circuit_breaker(fallback: Value) -> Value {
    json!({
        "description": "stops sending requests to what keeps failing",
        "type": "object",
        "properties": {
            "scope": {
                "description": "what is watched: each node, or the upstream as a whole",
                "type": "string",
                "enum": ["node", "upstream"],
                "default": "upstream"
            },
            "max_failures": {
                "description": "failures in a row that open it",
                "type": "integer",
                "minimum": 1,
                "maximum": 1_000_000
            },
            "failure_ratio": {
                "description": "share of failures within the window that opens it",
                "type": "number",
                "exclusiveMinimum": 0,
                "maximum": 1
            },
            "window": {
                "description": "seconds that failure_ratio looks back on",
                "type": "number",
                "minimum": 0.1,
                "maximum": 3600,
                "default": 10
            },
            "min_requests": {
                "description": "requests within the window below which failure_ratio says nothing",
                "type": "integer",
                "minimum": 1,
                "maximum": 1_000_000,
                "default": 20
            },
            "unhealthy": {
                "type": "object",
                "properties": {
                    "interval": {
                        "description": "the first cool-down, seconds",
                        "type": "number",
                        "exclusiveMinimum": 0,
                        "maximum": 86_400,
                        "default": 10
                    },
                    "growth": {
                        "description": "by which each further opening in a row lengthens the cool-down",
                        "type": "number",
                        "minimum": 1,
                        "maximum": 10,
                        "default": 2
                    },
                    "max_interval": {
                        "description": "the longest cool-down, seconds",
                        "type": "number",
                        "exclusiveMinimum": 0,
                        "maximum": 86_400,
                        "default": 300
                    },
                    "http_statuses": statuses("answers that are failures; without it 500 to 599"),
                    "http_codes": statuses("stands before http_statuses"),
                    "grpc_statuses": grpc_statuses("calls of gRPC that ended so are failures")
                },
                "additionalProperties": false
            },
            "healthy": {
                "type": "object",
                "properties": {"successes": count(2, 1_000_000)},
                "additionalProperties": false
            },
            "half_open_requests": count(1, 1_000_000),
            "break_response_code": {"type": "integer", "minimum": 200, "maximum": 599, "default": 503},
            "break_response_body": {"type": "string"},
            "break_response_headers": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "key": {"type": "string", "minLength": 1},
                        "value": {"type": "string", "minLength": 1}
                    },
                    "required": ["key", "value"]
                }
            },
            "fallback": {
                "description": "who serves instead: an upstream, or the id of one",
                "if": {"type": "object"},
                "then": fallback,
                "else": parts::id()
            }
        },
        "anyOf": [{"required": ["max_failures"]}, {"required": ["failure_ratio"]}],
        "additionalProperties": false
    })
}

pub(super) fn concurrency_limit() -> Value {
    json!({
        "description": "how many requests may be under way at a time",
        "type": "object",
        "properties": {
            "type": {
                "description": "fixed, or following latency",
                "type": "string",
                "enum": ["fixed", "gradient"],
                "default": "fixed"
            },
            "limit": {
                "description": "the limit; of type gradient the first one",
                "type": "integer",
                "minimum": 1,
                "maximum": 1_000_000
            },
            "min_limit": count(4, 1_000_000),
            "max_limit": count(1000, 1_000_000),
            "tolerance": {
                "description": "how many times its usual value latency may be before a gradient shrinks",
                "type": "number",
                "minimum": 1,
                "maximum": 100,
                "default": 1.5
            },
            "smoothing": {
                "description": "the part of the way to a new limit that a gradient goes at once",
                "type": "number",
                "exclusiveMinimum": 0,
                "maximum": 1,
                "default": 0.2
            },
            "headroom": {
                "description": "requests beyond what latency allows, by which a gradient grows",
                "type": "integer",
                "minimum": 1,
                "maximum": 1_000_000,
                "default": 4
            },
            "window": {
                "description": "seconds of answers that a gradient judges at once",
                "type": "number",
                "minimum": 0.01,
                "maximum": 60,
                "default": 0.1
            },
            "queue": {
                "description": "who is over the limit waits here; without it nobody waits",
                "type": "object",
                "properties": {
                    "size": {"type": "integer", "minimum": 0, "maximum": 100_000, "default": 100},
                    "timeout": {
                        "description": "seconds",
                        "type": "number",
                        "exclusiveMinimum": 0,
                        "maximum": 60,
                        "default": 0.5
                    }
                },
                "additionalProperties": false
            },
            "rejected_code": {"type": "integer", "minimum": 200, "maximum": 599, "default": 503},
            "retry_after": {
                "description": "Retry-After of a refusal, seconds; 0 for none",
                "type": "integer",
                "minimum": 0,
                "maximum": 86_400,
                "default": 1
            }
        },
        "additionalProperties": false
    })
}
