//! Schemas of resources, and checks against them alone (apisix/admin/schema.lua, init.lua `schema_validate`).
use crate::admin::{Admin, Call};
use crate::message::Reply;
use serde_json::Value;
use sluice_model::{Kind, schemas};

/// `GET schema/{name}`, where the name is the singular: `route`, `plugin_config`.
pub(crate) fn get(name: &str) -> Reply {
    match by_name(name) {
        Some(schema) => Reply::json(200, schema.document()),
        None => Reply::error(400, format!("not found schema: {name}")),
    }
}

fn by_name(name: &str) -> Option<&'static sluice_model::Schema> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name().replace(' ', "_") == name)?;
    (kind != Kind::Secret).then(|| schemas::schema(kind))
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
