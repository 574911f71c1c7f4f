//! What GraphQL cost decorations need beyond their schema (apisix/admin/graphql_cost_decorations.lua): they belong to the
//! service of their path, and a field is decorated once.
use crate::message::Reply;
use crate::resource::Target;
use serde_json::Value;
use sluice_model::{Kind, id};
use sluice_store::{Key, State};

/// Before the check of a body that is put or posted: sets its service. Other kinds pass.
pub(crate) fn bind(target: &Target, state: &State, own: Option<&str>, body: &mut Value) -> Result<(), Reply> {
    if target.kind != Kind::GraphqlCostDecoration {
        return Ok(());
    }
    let service = service(target)?;
    let Value::Object(fields) = body else { return Err(Reply::error(400, "invalid configuration")) };
    let named = fields.get("service_id").filter(|id| !id.is_null());
    if named.is_some_and(|named| id::text(named).as_deref() != Some(service)) {
        return Err(Reply::error(400, "wrong service_id, it is taken from the path"));
    }
    if state.get(&Key::of(Kind::Service, service)).is_none() {
        return Err(Reply::error(404, "service not found"));
    }
    check_once(target, state, own, fields.get("field_path"))?;
    fields.insert(String::from("service_id"), service.into());
    Ok(())
}

/// Before a change is merged.
pub(crate) fn patchable(target: &Target, state: &State, own: &str, change: &Value) -> Result<(), Reply> {
    if target.kind != Kind::GraphqlCostDecoration {
        return Ok(());
    }
    service(target)?;
    if change.get("service_id").is_some() {
        return Err(Reply::error(400, "service_id can not be patched"));
    }
    check_once(target, state, Some(own), change.get("field_path"))
}

fn service(target: &Target) -> Result<&str, Reply> {
    target.parent.as_deref().filter(|id| !id.is_empty()).ok_or_else(|| Reply::error(400, "missing service id"))
}

fn check_once(target: &Target, state: &State, own: Option<&str>, path: Option<&Value>) -> Result<(), Reply> {
    let Some(path) = path.and_then(Value::as_str) else { return Ok(()) };
    let directory = format!("{}/", target.directory());
    for entry in state.below(&directory) {
        let body = entry.body.value();
        let other = id::field(&body, "id");
        if body["field_path"] == path && other.as_deref() != own {
            let other = other.unwrap_or_default();
            let message = format!("field_path {path} is already decorated on this service by [{other}]");
            return Err(Reply::error(400, message));
        }
    }
    Ok(())
}
