//! Schemas of the secret managers (apisix/secret/*.lua). Surprise: the manager is the first half of a secret's id
//! (`vault/1`), and fields unknown to it are let through. `file` is Sluice's own manager.

use super::parts;
use crate::schema::Schema;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// The schema of a secret manager, by its name.
pub fn manager(name: &str) -> Option<&'static Schema> {
    match name {
        "vault" => Some(&VAULT),
        "aws" => Some(&AWS),
        "gcp" => Some(&GCP),
        "file" => Some(&FILE),
        _ => None,
    }
}

static VAULT: LazyLock<Schema> = LazyLock::new(|| super::built_in(vault()));
static AWS: LazyLock<Schema> = LazyLock::new(|| super::built_in(aws()));
static GCP: LazyLock<Schema> = LazyLock::new(|| super::built_in(gcp()));
static FILE: LazyLock<Schema> = LazyLock::new(|| super::built_in(file()));

fn file() -> Value {
    json!({
        "type": "object",
        "properties": {"directory": {"type": "string", "minLength": 1}},
        "required": ["directory"]
    })
}

fn vault() -> Value {
    json!({
        "type": "object",
        "properties": {
            "uri": parts::uri(),
            "prefix": {"type": "string"},
            "token": {"type": "string"},
            "namespace": {"type": "string"}
        },
        "required": ["uri", "prefix", "token"]
    })
}

fn aws() -> Value {
    json!({
        "type": "object",
        "properties": {
            "access_key_id": {"type": "string"},
            "secret_access_key": {"type": "string"},
            "session_token": {"type": "string"},
            "region": {"type": "string", "default": "us-east-1"},
            "endpoint_url": parts::uri()
        },
        "required": ["access_key_id", "secret_access_key"]
    })
}

fn gcp() -> Value {
    json!({
        "type": "object",
        "properties": {
            "auth_config": {
                "type": "object",
                "properties": {
                    "client_email": {"type": "string"},
                    "private_key": {"type": "string"},
                    "project_id": {"type": "string"},
                    "token_uri": {"type": "string", "default": "https://oauth2.googleapis.com/token"},
                    "scope": {
                        "type": "array",
                        "items": {"type": "string"},
                        "default": ["https://www.googleapis.com/auth/cloud-platform"]
                    },
                    "entries_uri": {"type": "string", "default": "https://secretmanager.googleapis.com/v1"}
                },
                "required": ["client_email", "private_key", "project_id"]
            },
            "ssl_verify": {"type": "boolean", "default": true},
            "auth_file": {"type": "string"}
        },
        "oneOf": [{"required": ["auth_config"]}, {"required": ["auth_file"]}]
    })
}
