//! `GET` of one object and of a list.
use super::{Target, node, not_found, store_failed};
use crate::admin::Admin;
use crate::message::{Reply, Request};
use crate::preconditions::etag;
use crate::{encryption, listing, node_status};
use serde_json::{Value, json};
use sluice_model::Kind;
use sluice_store::{Entry, State};
use std::sync::PoisonError;

pub(super) async fn get(admin: &Admin, target: &Target, request: &Request) -> Result<Reply, Reply> {
    admin.store.catch_up().await.map_err(|error| store_failed(&error))?;
    match target.id.as_deref() {
        Some(id) if !target.is_folder() => one(admin, target, id, request),
        _ => list(admin, target, request),
    }
}

fn one(admin: &Admin, target: &Target, id: &str, request: &Request) -> Result<Reply, Reply> {
    let entry = {
        let state = admin.store.state().read().unwrap_or_else(PoisonError::into_inner);
        state.get(&target.key(id)).cloned().ok_or_else(not_found)?
    };
    let node = with_status(admin, &entry, node(admin, &entry, shown(admin, &entry)), request);
    let tag = etag(entry.modified);
    if admin.settings.v3 {
        return Ok(Reply::json(200, &node).with_header("ETag", tag));
    }
    let bare = json!({"key": node["key"], "value": node["value"]});
    Ok(Reply::json(200, &json!({"action": "get", "node": bare})).with_header("ETag", tag))
}

fn entries(state: &State, target: &Target) -> Vec<Entry> {
    let directory = format!("{}/", target.directory());
    let under_manager = target.id.as_deref().map(|manager| format!("{directory}{manager}/"));
    let below = state.below(under_manager.as_deref().unwrap_or(&directory));
    below.filter(|entry| entry.key.resource().is_some_and(|(kind, _)| kind == target.kind)).cloned().collect()
}

fn list(admin: &Admin, target: &Target, request: &Request) -> Result<Reply, Reply> {
    let entries = {
        let state = admin.store.state().read().unwrap_or_else(PoisonError::into_inner);
        entries(&state, target)
    };
    // Only the folders of the first kinds exist while they are empty (`init_dir` of apisix/cli/etcd.lua).
    if entries.is_empty() && target.kind.parent().is_some() {
        return Err(not_found());
    }
    let item = |entry: &Entry| with_status(admin, entry, node(admin, entry, shown(admin, entry)), request);
    let items: Vec<_> = entries.iter().map(item).collect();
    if !admin.settings.v3 {
        let key = format!("{}/{}", admin.settings.prefix, target.directory());
        return Ok(Reply::json(200, &json!({"action": "get", "node": {"key": key, "dir": true, "nodes": items}})));
    }
    let (items, total) = listing::select(items, target.kind, request)?;
    Ok(Reply::json(200, &json!({"list": items, "total": total})))
}

/// With `include=status`, beside the object the state of its nodes, where it is or has an upstream in force (ours).
fn with_status(admin: &Admin, entry: &Entry, mut node: Value, request: &Request) -> Value {
    if node_status::wanted(request)
        && let Some((kind, id)) = entry.key.resource()
        && let Some(nodes) = admin.gateway.nodes(kind, id)
    {
        node["status"] = node_status::shown(nodes);
    }
    node
}

/// What an answer shows of a stored body: plugins' fields in plain text, no private keys of certificates.
fn shown(admin: &Admin, entry: &Entry) -> Value {
    let mut value = entry.body.value();
    let Some((kind, id)) = entry.key.resource() else { return value };
    encryption::reveal(admin, kind, id, &mut value);
    if let (Kind::Ssl, Value::Object(fields)) = (kind, &mut value) {
        fields.shift_remove("key");
        fields.shift_remove("keys");
    }
    value
}
