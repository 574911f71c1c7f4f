//! Schema of an upstream, alone or embedded in a route, service or stream route. Surprise: `nodes` is either a map of
//! address to weight or a list of objects, and `type` is free text here (the balancer refuses what it does not know).

use super::{balancing, healthcheck, parts};
use serde_json::{Value, json};

pub(super) fn document() -> Value {
    json!({
        "type": "object",
        "properties": parts::with(parts::named(), [
            ("nodes", nodes()),
            ("retries", json!({"type": "integer", "minimum": 0})),
            ("retry_timeout", json!({"type": "number", "minimum": 0})),
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
                "enum": ["grpc", "grpcs", "http", "https", "tcp", "tls", "udp", "kafka"],
                "description": "The scheme of the upstream. For L7 proxy, it can be one of grpc/grpcs/http/https. For L4 proxy, it can be one of tcp/tls/udp. For specific protocols, it can be kafka."
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
