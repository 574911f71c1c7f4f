//! Schema of a certificate. Surprise: a client certificate (`type: client`, used towards upstreams) needs no SNI.

use super::parts;
use serde_json::{Value, json};

pub(super) fn document() -> Value {
    let sni = json!({"type": "string", "pattern": parts::HOST_PATTERN});
    json!({
        "type": "object",
        "properties": parts::with(parts::described(), [
            ("type", json!({
                "description": "ssl certificate type, server to server certificate, client to client certificate for upstream",
                "type": "string",
                "default": "server",
                "enum": ["server", "client"]
            })),
            ("cert", parts::certificate()),
            ("key", parts::private_key()),
            ("sni", sni.clone()),
            ("snis", json!({"type": "array", "items": sni, "minItems": 1})),
            ("certs", json!({"type": "array", "items": parts::certificate()})),
            ("keys", json!({"type": "array", "items": parts::private_key()})),
            ("client", json!({
                "type": "object",
                "properties": {
                    "ca": parts::certificate(),
                    "depth": {"type": "integer", "minimum": 0, "default": 1},
                    "skip_mtls_uri_regex": {
                        "type": "array",
                        "minItems": 1,
                        "uniqueItems": true,
                        "items": {"description": "uri regular expression to skip mtls", "type": "string"}
                    }
                },
                "required": ["ca"]
            })),
            ("status", parts::status("ssl")),
            // APISIX's ocsp-stapling plugin adds this when it is enabled
            ("ocsp_stapling", json!({
                "type": "object",
                "properties": {
                    "enabled": {"type": "boolean", "default": false},
                    "skip_verify": {"type": "boolean", "default": false},
                    "cache_ttl": {"type": "integer", "minimum": 60, "default": 3600}
                }
            })),
            ("ssl_protocols", json!({
                "description": "set ssl protocols",
                "type": "array",
                "maxItems": 3,
                "uniqueItems": true,
                "items": {"enum": ["TLSv1.1", "TLSv1.2", "TLSv1.3"]}
            })),
        ]),
        "if": {"properties": {"type": {"enum": ["server"]}}},
        "then": {"oneOf": [{"required": ["sni", "key", "cert"]}, {"required": ["snis", "key", "cert"]}]},
        "else": {"required": ["key", "cert"]},
        "additionalProperties": false
    })
}
