//! `GET /v1/schema`: every schema of this gateway, in the form that `cargo xtask compat` compares (apisix/control/v1.lua).
use super::table;
use crate::message::Reply;
use serde_json::{Map, Value, json};
use sluice_model::{Kind, schemas};
use sluice_plugin::Registry;

/// Kinds that have a schema there, in Lua's names.
const KINDS: [Kind; 11] = [
    Kind::Consumer,
    Kind::ConsumerGroup,
    Kind::GlobalRule,
    Kind::GraphqlCostDecoration,
    Kind::PluginConfig,
    Kind::Proto,
    Kind::Route,
    Kind::Service,
    Kind::Ssl,
    Kind::StreamRoute,
    Kind::Upstream,
];

pub(super) fn all(registry: &Registry) -> Reply {
    let mut main: Map<String, Value> =
        KINDS.iter().map(|kind| (kind.name().replace(' ', "_"), schemas::document(*kind).clone())).collect();
    main.insert("plugins".into(), plugin_list());
    main.insert("upstream_hash_header_schema".into(), schemas::HASH_HEADER.document().clone());
    main.insert("upstream_hash_vars_schema".into(), schemas::HASH_VARS.document().clone());
    let http = registry.list();
    let plugins: Map<String, Value> =
        http.iter().filter_map(|d| Some((d.info.name.to_owned(), registry.document(d.info.name)?))).collect();
    let stream = registry.list_stream();
    let stream_plugins: Map<String, Value> =
        stream.iter().filter_map(|d| Some((d.name.to_owned(), registry.stream_document(d.name)?))).collect();
    table(200, &json!({"main": main, "plugins": plugins, "stream_plugins": stream_plugins}))
}

/// The stored list of plugins (apisix/schema_def.lua `plugins`).
fn plugin_list() -> Value {
    json!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1},
                "stream": {"type": "boolean"},
                "additionalProperties": false,
            },
            "required": ["name"],
        },
    })
}
