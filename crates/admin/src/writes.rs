//! What Sluice adds to every write of a resource: dry runs, conditions, warnings. APISIX's answers stay as they are where
//! nothing of that is asked for.
use crate::admin::{Admin, Call};
use crate::message::Reply;
use crate::staging::{Staged, Write};
use crate::{affected, resource, warnings};
use serde_json::{Value, json};
use std::sync::PoisonError;

pub(crate) async fn answer(admin: &Admin, rest: &[&str], call: Call<'_>) -> Reply {
    let request = call.request;
    if request.method == "GET" {
        return resource::answer(admin, rest, call).await;
    }
    if request.arg("dry_run") == Some("true") {
        return dry_run(admin, rest, &call).await;
    }
    let warn = request.arg("warnings") == Some("true");
    let conditions = call.conditions;
    let reply = conditions.finish(resource::answer(admin, rest, call).await);
    if warn && reply.status < 300 { with_warnings(admin, reply) } else { reply }
}

/// `?warnings=true`: the route that was written, in the light of the others.
fn with_warnings(admin: &Admin, reply: Reply) -> Reply {
    let Ok(mut body) = serde_json::from_slice::<Value>(&reply.body) else { return reply };
    let node = if body.get("node").is_some() { &body["node"] } else { &body };
    let id = node["key"].as_str().and_then(|key| key.rsplit_once("/routes/")).map(|(_, id)| id.to_owned());
    let Some(id) = id else { return reply };
    let found = {
        let state = admin.store.state().read().unwrap_or_else(PoisonError::into_inner);
        warnings::of_route(admin, &state, &id)
    };
    body["warnings"] = found.into();
    Reply { body: format!("{body}\n").into_bytes(), ..reply }
}

/// What a write would do.
async fn dry_run(admin: &Admin, rest: &[&str], call: &Call<'_>) -> Reply {
    if let Err(error) = admin.store.catch_up().await {
        return Reply::error(503, error.to_string());
    }
    let request = call.request;
    let staged = Staged::of(admin);
    let write = Write {
        method: request.method.clone(),
        path: rest.iter().map(|segment| (*segment).to_owned()).collect(),
        query: request.query.clone(),
        if_match: request.header("if-match").map(str::to_owned),
        body: call.body.clone(),
    };
    let reply = staged.write(&write).await;
    if reply.status >= 300 {
        return reply;
    }
    let mut told = told(admin, &staged);
    told["status"] = reply.status.into();
    Reply::json(200, &told)
}

/// `{dry_run, revision, changes, affected, warnings}` of what was written to a copy.
pub(crate) fn told(admin: &Admin, staged: &Staged) -> Value {
    let after = staged.after();
    let changes = staged.changes();
    json!({
        "dry_run": true,
        "revision": staged.before().revision,
        "changes": changes.iter().map(|change| change.shown(admin)).collect::<Vec<_>>(),
        "affected": affected::routes(staged.before(), &after, &changes),
        "warnings": warnings::of_changes(admin, &after, &changes),
    })
}

#[cfg(test)]
mod tests;
