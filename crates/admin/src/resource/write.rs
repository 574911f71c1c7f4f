//! `POST`, `PUT` and `PATCH`. The surprise: a write is checked against the state as it is, and committed on the condition
//! that what it refers to is still there; if not, it is checked again.
use super::{Target, not_found, object, store_failed, written};
use crate::admin::{Admin, Call};
use crate::message::Reply;
use crate::parsers::{GatewayParsers, KnownPlugins};
use crate::references::Stored;
use crate::{decoration, encryption, patch};
use serde_json::Value;
use sluice_model::{Body, Checks, Kind, Write, id, validate};
use sluice_store::{Committed, Entry, Expect, Key, Note, Op, State, StoreError, Transaction};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often a write is tried again when others write at the same time.
const TRIES: usize = 8;

/// A checked write.
struct Planned {
    key: Key,
    /// As it is stored.
    body: Value,
    expect: Expect,
    /// Conditions, and what else goes with it.
    also: Vec<Op>,
}

pub(super) async fn post(admin: &Admin, target: &Target, call: &Call<'_>) -> Result<Reply, Reply> {
    let given = required(call)?;
    let plan = |state: &State| {
        let mut body = given.clone();
        decoration::bind(target, state, target.id.as_deref(), &mut body)?;
        let mut also = check(admin, state, Write::Post, target, target.id.as_deref(), &body)?;
        also.extend(parent_op(target, state)?);
        stamp(&mut body, None);
        let new_id = format!("{:020}", next_id(admin, state.revision));
        encryption::conceal(admin, target.kind, &new_id, &mut body);
        set_id(&mut body, &new_id);
        Ok(Planned { key: target.key(&new_id), body, expect: Expect::Absent, also })
    };
    let (_, planned) = write(admin, target, call, plan).await?;
    Ok(written(admin, 201, &planned.key, planned.body, "create"))
}

pub(super) async fn put(admin: &Admin, target: &Target, call: &Call<'_>) -> Result<Reply, Reply> {
    let given = required(call)?;
    let plan = |state: &State| {
        let mut body = given.clone();
        decoration::bind(target, state, target.id.as_deref(), &mut body)?;
        let way = Write::Put { parent: target.parent.as_deref() };
        let mut also = check(admin, state, way, target, target.id.as_deref(), &body)?;
        let own = match target.kind {
            Kind::Consumer => body.get("username").and_then(Value::as_str).map(str::to_owned),
            _ => target.id.clone().or_else(|| id::field(&body, "id")),
        };
        let Some(own) = own else { return Err(Reply::error(400, format!("missing {} id", target.kind.name()))) };
        if let (false, Some(id)) = (target.kind == Kind::Consumer, &target.id) {
            set_id(&mut body, id);
        }
        also.extend(parent_op(target, state)?);
        let key = target.key(&own);
        let previous = state.get(&key);
        if previous.is_none() && target.kind == Kind::Service {
            // What an earlier service of this name left behind is not inherited (apisix/admin/services.lua).
            also.extend(below(state, target.kind, &own));
        }
        if target.kind != Kind::PluginMetadata {
            stamp(&mut body, previous);
        }
        encryption::conceal(admin, target.kind, &own, &mut body);
        Ok(Planned { key, body, expect: Expect::Any, also })
    };
    let (done, planned) = write(admin, target, call, plan).await?;
    let created = done.written.first().is_some_and(|entry| entry.created == entry.modified);
    Ok(written(admin, if created { 201 } else { 200 }, &planned.key, planned.body, "set"))
}

pub(super) async fn patch(admin: &Admin, target: &Target, call: &Call<'_>) -> Result<Reply, Reply> {
    let own = match target.id.as_deref() {
        Some(id) if target.kind == Kind::Secret && !id.contains('/') => return Err(Reply::error(400, "no secret id")),
        Some(id) => id,
        None => return Err(Reply::error(400, format!("missing {} id", target.kind.name()))),
    };
    let Some(change) = &call.body else { return Err(Reply::error(400, "missing new configuration")) };
    let whole = target.sub_path.is_empty();
    if whole && !change.is_object() && !change.is_array() {
        return Err(Reply::error(400, "invalid configuration"));
    }
    let plan = |state: &State| {
        decoration::patchable(target, state, own, change)?;
        let key = target.key(own);
        let old = state.get(&key).ok_or_else(not_found)?;
        let mut body = old.body.value();
        encryption::reveal(admin, target.kind, own, &mut body);
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
        let also = check(admin, state, Write::Patch, target, Some(own), &body)?;
        encryption::conceal(admin, target.kind, own, &mut body);
        set_id(&mut body, own);
        Ok(Planned { key, body, expect: Expect::Revision(old.modified), also })
    };
    let (_, planned) = write(admin, target, call, plan).await?;
    Ok(written(admin, 200, &planned.key, planned.body, "compareAndSwap"))
}

/// Plans on the newest state and commits, until no condition was broken meanwhile.
async fn write(
    admin: &Admin,
    target: &Target,
    call: &Call<'_>,
    plan: impl Fn(&State) -> Result<Planned, Reply>,
) -> Result<(Committed, Planned), Reply> {
    let ttl = time_to_live(call)?;
    let outcome = {
        let (_shared, _alone) = match is_unique(target.kind) {
            true => (None, Some(admin.writing.write().await)),
            false => (Some(admin.writing.read().await), None),
        };
        attempt(admin, call, ttl, plan).await?
    };
    wait(admin, call, outcome.0.revision).await;
    Ok(outcome)
}

async fn attempt(
    admin: &Admin,
    call: &Call<'_>,
    ttl: Option<Duration>,
    plan: impl Fn(&State) -> Result<Planned, Reply>,
) -> Result<(Committed, Planned), Reply> {
    for _ in 0..TRIES {
        admin.store.catch_up().await.map_err(|error| store_failed(&error))?;
        let planned = {
            let state = admin.store.state().read().unwrap_or_else(PoisonError::into_inner);
            plan(&state)?
        };
        let (key, body) = (planned.key.clone(), Body::of(&planned.body));
        let mut ops = vec![Op::Put { key, body, expect: planned.expect, ttl }];
        ops.extend(planned.also.iter().cloned());
        match commit(admin, call, ops).await {
            Ok(done) => return Ok((done, planned)),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(store_failed(&error)),
        }
    }
    // apisix/core/etcd.lua `atomic_set`
    Err(Reply::error(503, "value changed before overwritten"))
}

/// Kinds whose check looks at all others of the kind: two of them must not be checked at the same time.
fn is_unique(kind: Kind) -> bool {
    matches!(kind, Kind::Consumer | Kind::Credential | Kind::GlobalRule | Kind::GraphqlCostDecoration)
}

fn required(call: &Call<'_>) -> Result<Value, Reply> {
    call.body.clone().ok_or_else(|| Reply::error(400, "missing configurations"))
}

/// All checks, on a copy. What was found by reference must still be there when the write is committed.
fn check(
    admin: &Admin,
    state: &State,
    write: Write<'_>,
    target: &Target,
    id: Option<&str>,
    body: &Value,
) -> Result<Vec<Op>, Reply> {
    let registry = admin.gateway.registry();
    let stored = Stored::new(admin, state);
    let checks = Checks {
        plugins: &KnownPlugins(&registry),
        references: &stored,
        parsers: &GatewayParsers { gateway: admin.gateway.as_ref(), protocols: &admin.settings.protocols },
    };
    let mut copy = body.clone();
    encryption::reveal_keys(admin, target.kind, &mut copy);
    validate(write, target.kind, id, &mut copy, &checks).map_err(|invalid| Reply::error(400, invalid.message))?;
    let built = admin.gateway.try_build(target.kind, id.unwrap_or_default(), &copy);
    built.map_err(|message| Reply::error(400, message))?;
    Ok(stored.found().into_iter().map(|key| Op::Check { key, expect: Expect::Present }).collect())
}

/// What stands below something needs it.
fn parent_op(target: &Target, state: &State) -> Result<Option<Op>, Reply> {
    let (Some(kind), Some(parent)) = (target.kind.parent(), &target.parent) else { return Ok(None) };
    let key = Key::of(kind, parent);
    if state.get(&key).is_none() {
        return Err(Reply::error(404, format!("{} not found", kind.name())));
    }
    Ok(Some(Op::Check { key, expect: Expect::Present }))
}

/// Deletes everything that stands below an object.
pub(super) fn below(state: &State, kind: Kind, id: &str) -> Vec<Op> {
    let Some(child) = kind.child() else { return Vec::new() };
    let prefix = format!("{}/{id}/{}/", kind.dir(), child.dir());
    let entries = state.below(&prefix);
    entries.map(|entry| Op::Delete { key: entry.key.clone(), expect: Expect::Any }).collect()
}

/// As etcd's revision, which APISIX takes for an id (apisix/core/etcd.lua `push`). No two of this process are the same.
fn next_id(admin: &Admin, revision: u64) -> u64 {
    let next = |last: u64| last.max(revision) + 1;
    let last = admin.last_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
    next(last.unwrap_or(revision))
}

fn set_id(body: &mut Value, id: &str) {
    if let Some(fields) = object(body) {
        fields.insert(String::from("id"), id.into());
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

/// `?ttl=` in seconds, which may have a fraction.
pub(super) fn time_to_live(call: &Call<'_>) -> Result<Option<Duration>, Reply> {
    let Some(text) = call.request.arg("ttl") else { return Ok(None) };
    let number = text.trim().parse::<f64>().ok().filter(|ttl| !ttl.is_nan());
    let Some(seconds) = number else { return Err(Reply::error(400, "invalid argument ttl: should be a number")) };
    let ttl = Duration::try_from_secs_f64(seconds).ok().filter(|ttl| !ttl.is_zero());
    ttl.map(Some).ok_or_else(|| Reply::error(400, "invalid argument ttl: should be a positive number of seconds"))
}

/// Writes all or nothing.
pub(super) async fn commit(admin: &Admin, call: &Call<'_>, mut ops: Vec<Op>) -> Result<Committed, StoreError> {
    {
        let state = admin.store.state().read().unwrap_or_else(PoisonError::into_inner);
        call.conditions.guard(&state, &mut ops)?;
    }
    let message = call.request.header("x-message").unwrap_or_default().to_owned();
    let note = Note { author: call.author.clone(), message };
    let done = admin.store.commit(Transaction { ops, note }).await?;
    call.conditions.done(&done);
    Ok(done)
}

/// With `?wait=true` it returns when the revision is in force.
pub(super) async fn wait(admin: &Admin, call: &Call<'_>, revision: u64) {
    if call.request.arg("wait") == Some("true") {
        admin.in_force(revision).await;
    }
}
