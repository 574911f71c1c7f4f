//! `DELETE`, and what keeps an object from being deleted.
use super::write::commit_all;
use super::{Target, not_found, store_failed};
use crate::admin::{Admin, Call};
use crate::message::Reply;
use crate::references;
use serde_json::json;
use sluice_model::Kind;
use sluice_store::{Expect, Op};
use std::sync::PoisonError;

pub(super) async fn delete(admin: &Admin, target: &Target, call: &Call<'_>) -> Result<Reply, Reply> {
    let Some(id) = target.id.as_deref() else {
        return Err(Reply::error(400, format!("missing {} id", target.kind.name())));
    };
    admin.store.catch_up().await.map_err(|error| store_failed(&error))?;
    let key = target.key(id);
    let mut ops = vec![Op::Delete { key: key.clone(), expect: Expect::Any }];
    {
        let state = admin.store.state().read().unwrap_or_else(PoisonError::into_inner);
        if call.request.arg("force") != Some("true")
            && let Some(message) = references::user_of(&state, target.kind, id)
        {
            return Err(Reply::error(400, message));
        }
        if target.kind == Kind::Consumer {
            let credentials = format!("consumers/{id}/credentials/");
            let below = state.below(&credentials);
            ops.extend(below.map(|entry| Op::Delete { key: entry.key.clone(), expect: Expect::Any }));
        }
    }
    let done = commit_all(admin, call, ops).await.map_err(|error| store_failed(&error))?;
    if !done.deleted.iter().any(|entry| entry.key == key) {
        return Err(not_found());
    }
    let key = format!("{}/{key}", admin.settings.prefix);
    if admin.settings.v3 {
        return Ok(Reply::json(200, &json!({"deleted": "1", "key": key})));
    }
    Ok(Reply::json(200, &json!({"action": "delete", "deleted": "1", "key": key, "node": {}})))
}
