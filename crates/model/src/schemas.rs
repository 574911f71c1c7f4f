//! The JSON Schema of each resource, equal in meaning to APISIX 3.18's (apisix/schema_def.lua). Surprise: plugin metadata
//! and secrets have no schema of their own kind: the plugin, and the secret manager, decide (see `secret::manager`).

mod balancing;
mod consumer;
pub mod discovery;
mod graphql;
mod healthcheck;
mod parts;
mod plugins;
mod proto;
mod protocol;
mod resilience;
mod route;
pub mod secret;
mod service;
mod ssl;
mod stream_route;
#[cfg(test)]
mod tests;
mod upstream;

pub use parts::id as id_schema;
pub use parts::uri as uri_schema;
pub use protocol::protocol;

use crate::kind::Kind;
use crate::schema::Schema;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// The compiled schema of a kind. Plugin metadata and secrets: any object.
pub fn schema(kind: Kind) -> &'static Schema {
    match kind {
        Kind::Route => &ROUTE,
        Kind::Service => &SERVICE,
        Kind::Upstream => &UPSTREAM,
        Kind::Consumer => &CONSUMER,
        Kind::Credential => &CREDENTIAL,
        Kind::ConsumerGroup => &CONSUMER_GROUP,
        Kind::PluginConfig => &PLUGIN_CONFIG,
        Kind::GlobalRule => &GLOBAL_RULE,
        Kind::PluginMetadata | Kind::Secret => &ANY_OBJECT,
        Kind::Ssl => &SSL,
        Kind::Proto => &PROTO,
        Kind::StreamRoute => &STREAM_ROUTE,
        Kind::GraphqlCostDecoration => &GRAPHQL_COST_DECORATION,
    }
}

/// The document that [`schema`] was compiled from.
pub fn document(kind: Kind) -> &'static Value {
    schema(kind).document()
}

/// A schema that several resources share, by the name it has in apisix/schema_def.lua.
pub fn part(name: &str) -> Option<Value> {
    Some(match name {
        "id_schema" => parts::id(),
        "uri_def" => parts::uri(),
        "host_def" => parts::host(),
        "method_schema" => parts::method(),
        "upstream_hash_vars_schema" => HASH_VARS.document().clone(),
        "upstream_hash_header_schema" => HASH_HEADER.document().clone(),
        "upstream_hash_vars_combinations_schema" => HASH_VARS_COMBINATIONS.document().clone(),
        "plugins" => json!({
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "stream": {"type": "boolean"},
                    "additionalProperties": false
                },
                "required": ["name"]
            }
        }),
        _ => return None,
    })
}

/// Schema of an upstream that stands in another's `circuit_breaker.fallback`.
pub static FALLBACK: LazyLock<Schema> = LazyLock::new(|| built_in(upstream::plain()));
/// Schema of an upstream's `key` when it hashes variables.
pub static HASH_VARS: LazyLock<Schema> = LazyLock::new(|| built_in(upstream::hash_vars()));
/// Schema of an upstream's `key` when it hashes a header or a cookie.
pub static HASH_HEADER: LazyLock<Schema> = LazyLock::new(|| built_in(upstream::hash_header()));
/// Schema of an upstream's `key` when it hashes a combination of variables.
pub static HASH_VARS_COMBINATIONS: LazyLock<Schema> = LazyLock::new(|| built_in(json!({"type": "string"})));

static ROUTE: LazyLock<Schema> = LazyLock::new(|| built_in(route::document()));
static SERVICE: LazyLock<Schema> = LazyLock::new(|| built_in(service::document()));
static UPSTREAM: LazyLock<Schema> = LazyLock::new(|| built_in(upstream::document()));
static CONSUMER: LazyLock<Schema> = LazyLock::new(|| built_in(consumer::consumer()));
static CREDENTIAL: LazyLock<Schema> = LazyLock::new(|| built_in(consumer::credential()));
static CONSUMER_GROUP: LazyLock<Schema> = LazyLock::new(|| built_in(consumer::consumer_group()));
static PLUGIN_CONFIG: LazyLock<Schema> = LazyLock::new(|| built_in(plugins::plugin_config()));
static GLOBAL_RULE: LazyLock<Schema> = LazyLock::new(|| built_in(plugins::global_rule()));
static SSL: LazyLock<Schema> = LazyLock::new(|| built_in(ssl::document()));
static PROTO: LazyLock<Schema> = LazyLock::new(|| built_in(proto::document()));
static STREAM_ROUTE: LazyLock<Schema> = LazyLock::new(|| built_in(stream_route::document()));
static GRAPHQL_COST_DECORATION: LazyLock<Schema> = LazyLock::new(|| built_in(graphql::document()));
static ANY_OBJECT: LazyLock<Schema> = LazyLock::new(|| built_in(json!({"type": "object"})));

/// Documents written in this crate compile; a test compiles every one of them.
#[allow(clippy::expect_used, reason = "documents written here, each compiled by a test")]
fn built_in(document: Value) -> Schema {
    Schema::new(document).expect("a built-in schema compiles")
}
