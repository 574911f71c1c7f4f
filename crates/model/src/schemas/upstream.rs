//! Schema of an upstream, alone or embedded in a route, service or stream route. Surprise: `nodes` is either a map of
//! address to weight or a list of objects, and `type` is free text here (the balancer refuses what it does not know).

use super::{balancing, healthcheck, parts, resilience};
use serde_json::{Value, json};

/// `retry_on`. gRPC's statuses by their names, `-` as in Envoy or `_` as the others.
const RETRY_ON: &str = "^(timeout|connection_error|non_idempotent|http_5xx|http_[45][0-9][0-9]|grpc[-_](cancelled|unknown|invalid[-_]argument|deadline[-_]exceeded|not[-_]found|already[-_]exists|permission[-_]denied|resource[-_]exhausted|failed[-_]precondition|aborted|out[-_]of[-_]range|unimplemented|internal|unavailable|data[-_]loss|unauthenticated))$";

pub(super) fn document() -> Value {
    let mut document = plain();
    // what stands in for a broken upstream has no breaker of its own
    if let Some(properties) = document.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("circuit_breaker".to_owned(), resilience::circuit_breaker(plain()));
    }
    document
}

/// Without `circuit_breaker`.
pub(super) fn plain() -> Value {
    json!({
        "type": "object",
        "properties": parts::with(parts::named(), [
            ("nodes", nodes()),
            ("retries", json!({"type": "integer", "minimum": 0})),
            ("retry_timeout", json!({"type": "number", "minimum": 0})),
            ("retry_on", json!({
                "description": "what is retried: errors and time-outs where not given",
                "type": "array",
                "items": {
                    "type": "string",
                    "pattern": RETRY_ON
                },
                "uniqueItems": true
            })),
            ("retry_backoff", json!({
                "description": "waits before a retry, drawn from zero up to a bound that doubles; none where not given",
                "type": "object",
                "properties": {
                    "base_interval": {
                        "description": "bound of the first wait, seconds",
                        "type": "number", "exclusiveMinimum": 0, "maximum": 60
                    },
                    "max_interval": {
                        "description": "largest bound, seconds; ten times the first where not given",
                        "type": "number", "exclusiveMinimum": 0, "maximum": 600
                    }
                },
                "required": ["base_interval"],
                "additionalProperties": false
            })),
            ("retry_budget", json!({
                "description": "bound of all retries, within ten seconds: the larger of a share of the requests and a floor",
                "type": "object",
                "properties": {
                    "percent": {
                        "description": "share of the requests", "type": "number", "default": 20, "minimum": 0, "maximum": 100
                    },
                    "min_retries_per_second": {
                        "description": "retries that are always allowed",
                        "type": "integer", "default": 10, "minimum": 0, "maximum": 100000
                    }
                },
                "additionalProperties": false
            })),
            ("retry_body_limit", json!({
                "description": "bytes of a request's body that is still coming which are kept to be sent again; 65536 where not given",
                "type": "integer", "minimum": 0, "maximum": 1073741824
            })),
            ("timeout", parts::timeout()),
            ("tls", tls()),
            ("keepalive_pool", json!({
                "type": "object",
                "properties": {
                    "size": {"type": "integer", "default": 320, "minimum": 1},
                    "idle_timeout": {"type": "number", "default": 60, "minimum": 0},
                    "requests": {"type": "integer", "default": 1000, "minimum": 1}
                }
            })),
            ("type", json!({
                "description": "algorithms of load balancing", "type": "string", "default": "roundrobin"
            })),
            ("checks", healthcheck::checks()),
            ("concurrency_limit", resilience::concurrency_limit()),
            ("hash_on", json!({
                "type": "string",
                "default": "vars",
                // the last three are ours
                "enum": [
                    "vars", "header", "cookie", "consumer", "vars_combinations", "client_ip", "query_arg", "uri"
                ]
            })),
            ("slow_start", balancing::slow_start()),
            ("sticky", balancing::sticky()),
            ("zone_preference", balancing::zone_preference()),
            ("load_report", balancing::load_report()),
            ("key", json!({"description": "the key of chash for dynamic load balancing", "type": "string"})),
            ("scheme", json!({
                "default": "http",
                // h2 and h2c are ours
                "enum": ["grpc", "grpcs", "http", "https", "h2", "h2c", "tcp", "tls", "udp", "kafka"],
                "description": "The scheme of the upstream. For L7 proxy, it can be one of grpc/grpcs/http/https/h2/h2c. For L4 proxy, it can be one of tcp/tls/udp. For specific protocols, it can be kafka."
            })),
            ("discovery_type", json!({"description": "discovery type", "type": "string"})),
            ("discovery_args", json!({
                "type": "object",
                "properties": {
                    "namespace_id": {"description": "namespace id", "type": "string"},
                    "group_name": {"description": "group name", "type": "string"}
                }
            })),
            ("pass_host", json!({
                "description": "mod of host passing",
                "type": "string",
                "enum": ["pass", "node", "rewrite"],
                "default": "pass"
            })),
            ("upstream_host", parts::host()),
            ("service_name", parts::name()),
        ]),
        "oneOf": [{"required": ["nodes"]}, {"required": ["service_name", "discovery_type"]}],
        "additionalProperties": false
    })
}

fn weight() -> Value {
    json!({"description": "weight of node", "type": "integer", "minimum": 0})
}

fn nodes() -> Value {
    json!({
        "anyOf": [
            {"type": "object", "patternProperties": {".*": weight()}},
            {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "host": parts::host(),
                        "port": {"description": "port of node", "type": "integer", "minimum": 1, "maximum": 65535},
                        "weight": weight(),
                        "priority": {"description": "priority of node", "type": "integer", "default": 0},
                        "metadata": {"description": "metadata of node", "type": "object"}
                    },
                    "required": ["host", "weight"]
                }
            }
        ]
    })
}

fn tls() -> Value {
    json!({
        "type": "object",
        "properties": {
            "client_cert_id": parts::id(),
            "client_cert": parts::certificate(),
            "client_key": parts::private_key(),
            "verify": {
                "type": "boolean",
                "description": "Turn on server certificate verification, currently only kafka upstream is supported",
                "default": false
            }
        },
        "dependencies": {
            "client_cert": {"required": ["client_key"]},
            "client_key": {"required": ["client_cert"]},
            "client_cert_id": {"not": {"required": ["client_cert", "client_key"]}}
        }
    })
}

pub(super) fn hash_vars() -> Value {
    json!({
        "type": "string",
        "pattern": "^((uri|server_name|server_addr|request_uri|remote_port|remote_addr|query_string|host|hostname|mqtt_client_id)|arg_[0-9a-zA-z_-]+)$"
    })
}

pub(super) fn hash_header() -> Value {
    json!({"type": "string", "pattern": "^[a-zA-Z0-9-_]+$"})
}
