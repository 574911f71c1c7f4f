//! Schemas of an upstream's balancing beyond APISIX: `slow_start`, `sticky`, `zone_preference`, `load_report`. Surprise: which
//! `type` they go with is checked elsewhere (`validate/balancing.rs`), because a schema's message would not say it.

use serde_json::{Value, json};

pub(super) fn slow_start() -> Value {
    json!({
        "description": "a node that is new, or well again, gets a growing share of its weight",
        "type": "object",
        "properties": {
            "window": {
                "description": "seconds until it has all of it",
                "type": "number",
                "exclusiveMinimum": 0,
                "maximum": 86400
            },
            "min_weight_percent": {
                "description": "the share that it begins with",
                "type": "integer",
                "minimum": 1,
                "maximum": 100,
                "default": 10
            },
            "aggression": {
                "description": "1: the share grows evenly; above, fast at first; below, slowly at first",
                "type": "number",
                "minimum": 0.1,
                "maximum": 10,
                "default": 1
            }
        },
        "required": ["window"],
        "additionalProperties": false
    })
}

pub(super) fn sticky() -> Value {
    // RFC 6265: a token
    let name = json!({
        "description": "name of the cookie; one of the upstream's own by default",
        "type": "string",
        "minLength": 1,
        "maxLength": 64,
        "pattern": "^[0-9A-Za-z!#$%&'*+.^_`|~-]+$"
    });
    json!({
        "description": "a cookie set by the gateway brings a client back to its node",
        "type": "object",
        "properties": {
            "cookie": name.clone(),
            "name": name,
            "path": {"type": "string", "default": "/", "maxLength": 256, "pattern": "^/[!-:<-~]*$"},
            "ttl": {
                "description": "seconds; until the browser closes by default",
                "type": "integer",
                "minimum": 1
            },
            "http_only": {"type": "boolean", "default": true},
            "secure": {"type": "boolean", "default": false},
            "same_site": {"type": "string", "enum": ["lax", "strict", "none", "Lax", "Strict", "None"]},
            "secret": {
                "description": "key of the hash that stands for a node; the same on all gateways",
                "type": "string",
                "minLength": 8,
                "maxLength": 256
            }
        },
        "additionalProperties": false
    })
}

pub(super) fn zone_preference() -> Value {
    json!({
        "description": "nodes in the gateway's zone (sluice.zone in config.yaml) are used first",
        "type": "object",
        "properties": {
            "metadata_key": {
                "description": "field of a node's metadata that names its zone",
                "type": "string",
                "minLength": 1,
                "maxLength": 128,
                "default": "zone"
            },
            "min_healthy_percent": {
                "description": "all zones share when less of the own one is healthy",
                "type": "integer",
                "minimum": 0,
                "maximum": 100,
                "default": 50
            }
        },
        "additionalProperties": false
    })
}

pub(super) fn load_report() -> Value {
    json!({
        "description": "a response header in which nodes tell their load, for type adaptive",
        "type": "object",
        "properties": {
            "header": {
                "type": "string",
                "minLength": 1,
                "maxLength": 100,
                "pattern": "^[0-9A-Za-z_-]+$",
                "default": "endpoint-load-metrics"
            },
            "metric": {
                "description": "which metric of an ORCA report; application_utilization or cpu_utilization by default",
                "type": "string",
                "minLength": 1,
                "maxLength": 128
            },
            "full": {
                "description": "the value that means that a node is full",
                "type": "number",
                "exclusiveMinimum": 0,
                "default": 1
            }
        },
        "additionalProperties": false
    })
}
