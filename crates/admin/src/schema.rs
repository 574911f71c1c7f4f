//! Schemas of resources, and checks against them alone (apisix/admin/schema.lua, init.lua `schema_validate`).
use crate::admin::{Admin, Call};
use crate::message::Reply;
use serde_json::Value;
use sluice_model::{Kind, schemas};

/// `GET schema/{name}`, where the name is the singular (`route`, `plugin_config`) or a shared part's (`id_schema`).
pub(crate) fn get(name: &str) -> Reply {
    let document = by_name(name).map(|schema| schema.document().clone()).or_else(|| schemas::part(name));
    match document {
        Some(document) => Reply::json(200, &document),
        None => Reply::error(400, format!("not found schema: {name}")),
    }
}

fn by_name(name: &str) -> Option<&'static sluice_model::Schema> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name().replace(' ', "_") == name)?;
    // Plugins and secret managers have schemas of their own.
    (!matches!(kind, Kind::Secret | Kind::PluginMetadata)).then(|| schemas::schema(kind))
}

/// `POST schema/validate/{kind}`
pub(crate) fn validate(_admin: &Admin, dir: &str, call: &Call<'_>) -> Reply {
    let Some(kind) = Kind::from_dir(dir) else {
        return Reply::error(404, format!("Unsupported resource type: {dir}"));
    };
    let mut body = call.body.clone().unwrap_or(Value::Null);
    match schemas::schema(kind).check(&mut body) {
        Ok(()) => Reply::empty(200),
        Err(violation) => Reply::error(400, violation.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_have_the_names_of_apisix() {
        let names = ["route", "service", "upstream", "consumer", "credential", "consumer_group", "plugin_config"];
        let more = ["global_rule", "ssl", "proto", "stream_route", "graphql_cost_decoration", "plugins", "id_schema"];
        for name in names.into_iter().chain(more).chain(["upstream_hash_vars_schema", "upstream_hash_header_schema"]) {
            let reply = get(name);
            assert_eq!(reply.status, 200, "{name}");
            assert!(serde_json::from_slice::<Value>(&reply.body).unwrap().is_object(), "{name}");
        }
        for name in ["routes", "secret", "plugin_metadata", "nothing"] {
            assert_eq!(get(name), Reply::error(400, format!("not found schema: {name}")));
        }
    }
}
