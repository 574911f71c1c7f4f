//! `POST`, `PUT` and `PATCH`.
use super::{Target, not_found, object, shown, store_failed, written};
use crate::admin::{Admin, Call};
use crate::message::Reply;
use crate::parsers::{GatewayParsers, KnownPlugins};
use crate::patch;
use crate::references::Stored;
use serde_json::Value;
use sluice_model::{Body, Checks, Kind, Write, id, validate};
use sluice_store::{Committed, Entry, Expect, Key, Note, Op, StoreError, Transaction};
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often a write is tried again when others write at the same time.
const TRIES: usize = 8;

pub(super) async fn post(admin: &Admin, target: &Target, call: &Call<'_>) -> Result<Reply, Reply> {
    let mut body = required(call)?;
    check(admin, Write::Post, target, target.id.as_deref(), &body)?;
    stamp(&mut body, None);
    let mut revision = admin.store.catch_up().await.map_err(|error| store_failed(&error))?;
    for _ in 0..TRIES {
        // As etcd's revision, which APISIX takes for an id (apisix/core/etcd.lua `push`).
        revision += 1;
        let new_id = format!("{revision:020}");
        set_id(&mut body, &new_id);
        let key = target.key(&new_id);
        match commit(admin, call, put_op(&key, &body, Expect::Absent, call)).await {
            Ok(_) => return Ok(written(admin, 201, &key, shown_after(target.kind, &body), "create")),
            Err(StoreError::Conflict { .. }) => continue,
            Err(error) => return Err(store_failed(&error)),
        }
    }
    Err(Reply::error(503, "too many writes at the same time"))
}

pub(super) async fn put(admin: &Admin, target: &Target, call: &Call<'_>) -> Result<Reply, Reply> {
    let mut body = required(call)?;
    admin.store.catch_up().await.map_err(|error| store_failed(&error))?;
    check(admin, Write::Put { parent: target.consumer.as_deref() }, target, target.id.as_deref(), &body)?;
    let own = match target.kind {
        Kind::Consumer => body.get("username").and_then(Value::as_str).map(str::to_owned),
        _ => target.id.clone().or_else(|| id::field(&body, "id")),
    };
    let Some(own) = own else { return Err(Reply::error(400, format!("missing {} id", target.kind.name()))) };
    match (target.kind, &target.id) {
        (Kind::Consumer, _) => {}
        (_, Some(id)) => set_id(&mut body, id),
        _ => {}
    }
    let key = target.key(&own);
    let mut ops = Vec::new();
    if let Some(consumer) = &target.consumer {
        let consumer = Key::of(Kind::Consumer, consumer);
        if stored(admin, &consumer).is_none() {
            return Err(Reply::error(404, "consumer not found"));
        }
        ops.push(Op::Check { key: consumer, expect: Expect::Present });
    }
    let previous = stored(admin, &key);
    if target.kind != Kind::PluginMetadata {
        stamp(&mut body, previous.as_ref());
    }
    ops.push(put_op(&key, &body, Expect::Any, call));
    let done = commit_all(admin, call, ops).await.map_err(|error| store_failed(&error))?;
    let created = done.written.first().is_some_and(|entry| entry.created == entry.modified);
    let status = if created { 201 } else { 200 };
    Ok(written(admin, status, &key, shown_after(target.kind, &body), "set"))
}

pub(super) async fn patch(admin: &Admin, target: &Target, call: &Call<'_>) -> Result<Reply, Reply> {
    let Some(id) = target.id.as_deref() else {
        return Err(Reply::error(400, format!("missing {} id", target.kind.name())));
    };
    let Some(change) = &call.body else { return Err(Reply::error(400, "missing new configuration")) };
    if target.sub_path.is_empty() && !change.is_object() && !change.is_array() {
        return Err(Reply::error(400, "invalid configuration"));
    }
    admin.store.catch_up().await.map_err(|error| store_failed(&error))?;
    let key = target.key(id);
    let old = stored(admin, &key).ok_or_else(not_found)?;
    let mut body = old.body.value();
    let whole = target.sub_path.is_empty();
    if whole {
        patch::merge(&mut body, change);
    } else {
        patch::replace(&mut body, &target.sub_path, change).map_err(|message| Reply::error(400, message))?;
    }
    let renewed = !whole || change.get("update_time").is_none();
    if let Some(fields) = object(&mut body) {
        if !fields.contains_key("create_time") {
            fields.insert(String::from("create_time"), now().into());
        }
        if renewed || !fields.contains_key("update_time") {
            fields.insert(String::from("update_time"), now().into());
        }
    }
    check(admin, Write::Patch, target, Some(id), &body)?;
    set_id(&mut body, id);
    match commit(admin, call, put_op(&key, &body, Expect::Revision(old.modified), call)).await {
        Ok(_) => Ok(written(admin, 200, &key, shown_after(target.kind, &body), "compareAndSwap")),
        Err(StoreError::Conflict { .. }) => Err(Reply::error(503, "value changed before overwritten")),
        Err(error) => Err(store_failed(&error)),
    }
}

fn required(call: &Call<'_>) -> Result<Value, Reply> {
    call.body.clone().ok_or_else(|| Reply::error(400, "missing configurations"))
}

/// All checks, on a copy.
fn check(admin: &Admin, write: Write<'_>, target: &Target, id: Option<&str>, body: &Value) -> Result<(), Reply> {
    let registry = admin.gateway.registry();
    let state = admin.store.state().read().unwrap_or_else(PoisonError::into_inner);
    let checks = Checks {
        plugins: &KnownPlugins(&registry),
        references: &Stored(&state),
        parsers: &GatewayParsers(admin.gateway.as_ref()),
    };
    let mut copy = body.clone();
    validate(write, target.kind, id, &mut copy, &checks).map_err(|invalid| Reply::error(400, invalid.message))
}

fn stored(admin: &Admin, key: &Key) -> Option<Entry> {
    admin.store.state().read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
}

fn set_id(body: &mut Value, id: &str) {
    // The id of a secret in its body is the last part of it, as in its path.
    let own = id.rsplit('/').next().unwrap_or(id);
    if let Some(fields) = object(body) {
        fields.insert(String::from("id"), own.into());
    }
}

/// apisix/admin/utils.lua `inject_timestamp`
fn stamp(body: &mut Value, previous: Option<&Entry>) {
    let before = previous.map(|entry| entry.body.value());
    let created = before.as_ref().and_then(|value| value.get("create_time")).cloned();
    if let Some(fields) = object(body) {
        fields.entry("create_time").or_insert_with(|| created.unwrap_or_else(|| now().into()));
        fields.entry("update_time").or_insert_with(|| now().into());
    }
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn put_op(key: &Key, body: &Value, expect: Expect, call: &Call<'_>) -> Op {
    let ttl = call.request.arg("ttl").and_then(|ttl| ttl.parse().ok());
    let ttl = ttl.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Op::Put { key: key.clone(), body: Body::of(body), expect, ttl }
}

async fn commit(admin: &Admin, call: &Call<'_>, op: Op) -> Result<Committed, StoreError> {
    commit_all(admin, call, vec![op]).await
}

/// Writes; with `?wait=true` it returns when the change is in force.
pub(super) async fn commit_all(admin: &Admin, call: &Call<'_>, ops: Vec<Op>) -> Result<Committed, StoreError> {
    let message = call.request.header("x-message").unwrap_or_default().to_owned();
    let note = Note { author: call.author.clone(), message };
    let done = admin.store.commit(Transaction { ops, note }).await?;
    if call.request.arg("wait") == Some("true") {
        let mut in_force = admin.gateway.in_force();
        let reached = in_force.wait_for(|revision| *revision >= done.revision);
        // A gateway that ends meanwhile is no reason to call the write failed.
        let _ = tokio::time::timeout(Duration::from_secs(10), reached).await;
    }
    Ok(done)
}

fn shown_after(kind: Kind, body: &Value) -> Value {
    shown(kind, body.clone())
}
