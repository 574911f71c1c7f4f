//! `DELETE`, and what keeps an object from being deleted. The surprise: it holds back all other writes of this process
//! while it looks for users of the object, so that none comes up between the look and the deletion.
use super::write::{below, commit, wait};
use super::{Target, not_found, store_failed};
use crate::admin::{Admin, Call};
use crate::message::Reply;
use crate::references;
use serde_json::json;
use sluice_store::{Expect, Op};
use std::sync::PoisonError;

pub(super) async fn delete(admin: &Admin, target: &Target, call: &Call<'_>) -> Result<Reply, Reply> {
    let missing = || Reply::error(400, format!("missing {} id", target.kind.name()));
    let id = target.id.as_deref().filter(|_| !target.is_folder()).ok_or_else(missing)?;
    let key = target.key(id);
    let done = {
        let _alone = admin.writing.write().await;
        admin.store.catch_up().await.map_err(|error| store_failed(&error))?;
        let mut ops = vec![Op::Delete { key: key.clone(), expect: Expect::Any }];
        {
            let state = admin.store.state().read().unwrap_or_else(PoisonError::into_inner);
            if call.request.arg("force") != Some("true")
                && let Some(message) = references::user_of(&state, target.kind, id)
            {
                return Err(Reply::error(400, message));
            }
            ops.extend(below(&state, target.kind, id));
        }
        commit(admin, call, ops).await.map_err(|error| store_failed(&error))?
    };
    wait(admin, call, done.revision).await;
    if !done.deleted.iter().any(|entry| entry.key == key) {
        return Err(not_found());
    }
    let key = format!("{}/{key}", admin.settings.prefix);
    if admin.settings.v3 {
        return Ok(Reply::json(200, &json!({"deleted": "1", "key": key})));
    }
    Ok(Reply::json(200, &json!({"action": "delete", "deleted": "1", "key": key, "node": {}})))
}
