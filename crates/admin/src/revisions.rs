//! The configuration's history: its revisions, the difference between two of them, and the way back. The surprise: going back
//! is a write like any other, so it is a revision itself and can be taken back too.
use crate::admin::Admin;
use crate::changes::{self, Difference};
use crate::message::{Reply, Request};
use crate::parsers::{GatewayParsers, KnownPlugins};
use crate::references::Stored;
use serde_json::{Map, Value, json};
use sluice_model::{Checks, Kind, Write, validate};
use sluice_store::{Expect, Note, Op, Revision, State, StoreError, Transaction};
use std::sync::PoisonError;

/// Revisions of a page, by default and at most.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 500;

fn failed(error: &StoreError) -> Reply {
    let status = if matches!(error, StoreError::Compacted(_)) { 410 } else { 503 };
    Reply::error(status, error.to_string())
}

/// `GET revisions`: the newest first. `page_size`, and `before`, the `next` of the page before.
pub(crate) async fn list(admin: &Admin, request: &Request) -> Result<Reply, Reply> {
    let number = |name: &str| match request.arg(name).map(str::parse::<u64>) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => Err(Reply::error(400, format!("{name} should be a number"))),
    };
    let size = number("page_size")?.and_then(|size| usize::try_from(size).ok()).unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&size) {
        return Err(Reply::error(400, format!("page_size must be between 1 and {LARGEST_PAGE}")));
    }
    let found = admin.store.revisions(number("before")?, size).await.map_err(|error| failed(&error))?;
    let next = found.last().map(|last| last.revision).filter(|_| found.len() == size);
    let list: Vec<Value> = found.iter().map(|own| outline(own, own.changes.iter().map(short).collect())).collect();
    Ok(Reply::json(200, &json!({"list": list, "next": next})))
}

/// `GET revisions/{n}`
pub(crate) async fn get(admin: &Admin, text: &str) -> Result<Reply, Reply> {
    let number = parse(admin, text)?;
    let found = admin.store.revision(number).await.map_err(|error| failed(&error))?;
    let Some(found) = found else { return Err(Reply::error(404, format!("revision {number} is not there"))) };
    let shown = found.changes.iter().map(|change| difference(change).shown(admin)).collect();
    Ok(Reply::json(200, &outline(&found, shown)))
}

/// `GET revisions/{a}..{b}`
pub(crate) async fn diff(admin: &Admin, from: &str, to: &str) -> Result<Reply, Reply> {
    let (from, to) = (parse(admin, from)?, parse(admin, to)?);
    let before = admin.store.state_at(from).await.map_err(|error| failed(&error))?;
    let after = admin.store.state_at(to).await.map_err(|error| failed(&error))?;
    let shown: Vec<Value> = changes::between(&before, &after).iter().map(|change| change.shown(admin)).collect();
    Ok(Reply::json(200, &json!({"from": from, "to": to, "changes": shown})))
}

/// `POST revisions/{n}/rollback`: everything as it was after that revision.
pub(crate) async fn rollback(admin: &Admin, text: &str, request: &Request, author: &str) -> Result<Reply, Reply> {
    let number = parse(admin, text)?;
    let _alone = admin.writing.write().await;
    admin.store.catch_up().await.map_err(|error| failed(&error))?;
    let wanted = admin.store.state_at(number).await.map_err(|error| failed(&error))?;
    let now = admin.store.state().read().unwrap_or_else(PoisonError::into_inner).clone();
    let differences = changes::between(&now, &wanted);
    check(admin, &wanted, &differences)?;
    let shown: Vec<Value> = differences.iter().map(|change| change.shown(admin)).collect();
    if request.arg("dry_run") == Some("true") {
        return Ok(Reply::json(200, &json!({"dry_run": true, "revision": now.revision, "changes": shown})));
    }
    let ops = differences.into_iter().map(|change| {
        let expect = now.get(&change.key).map_or(Expect::Absent, |entry| Expect::Revision(entry.modified));
        match change.after {
            Some(body) => Op::Put { key: change.key, body, expect, ttl: None },
            None => Op::Delete { key: change.key, expect },
        }
    });
    let given = request.header("x-message").map(str::to_owned);
    let message = given.unwrap_or_else(|| format!("back to revision {number}"));
    let note = Note { author: author.to_owned(), message };
    let done = admin.store.commit(Transaction { ops: ops.collect(), note }).await.map_err(|error| match error {
        StoreError::Conflict { .. } => {
            Reply::error(503, "the objects were changed by somebody else; nothing was written")
        }
        error => failed(&error),
    })?;
    drop(_alone);
    if request.arg("wait") == Some("true") {
        admin.in_force(done.revision).await;
    }
    Ok(Reply::json(200, &json!({"revision": done.revision, "changes": shown})))
}

/// What comes back must be good by the checks of today.
fn check(admin: &Admin, wanted: &State, differences: &[Difference]) -> Result<(), Reply> {
    let registry = admin.gateway.registry();
    let stored = Stored::new(admin, wanted);
    let checks = Checks {
        plugins: &KnownPlugins(&registry),
        references: &stored,
        parsers: &GatewayParsers { gateway: admin.gateway.as_ref(), protocols: &admin.settings.protocols },
    };
    for change in differences {
        let (Some((kind, id)), Some(after)) = (change.key.resource(), &change.after) else { continue };
        let mut body = after.value();
        crate::encryption::reveal(admin, kind, id, &mut body);
        crate::encryption::reveal_keys(admin, kind, &mut body);
        let own = if kind == Kind::Secret { id } else { id.rsplit('/').next().unwrap_or(id) };
        validate(Write::Patch, kind, Some(own), &mut body, &checks).map_err(|invalid| {
            Reply::error(400, format!("{}: {}; nothing was written", change.key, invalid.message))
        })?;
    }
    Ok(())
}

fn parse(admin: &Admin, text: &str) -> Result<u64, Reply> {
    if text == "head" {
        return Ok(admin.store.state().read().unwrap_or_else(PoisonError::into_inner).revision);
    }
    text.parse().map_err(|_| Reply::error(400, format!("{text:?} is no revision: a number or head is expected")))
}

fn outline(own: &Revision, changes: Vec<Value>) -> Value {
    let mut shown = Map::new();
    shown.insert("revision".into(), own.revision.into());
    shown.insert("time".into(), own.time.into());
    shown.insert("author".into(), own.note.author.as_str().into());
    shown.insert("message".into(), own.note.message.as_str().into());
    shown.insert("changes".into(), changes.into());
    Value::Object(shown)
}

fn difference(change: &sluice_store::Change) -> Difference {
    let body = |text: &Option<String>| text.as_deref().map(Into::into);
    Difference { key: change.key.clone(), before: body(&change.before), after: body(&change.after) }
}

fn short(change: &sluice_store::Change) -> Value {
    json!({"key": change.key.as_str(), "action": difference(change).action()})
}

#[cfg(test)]
mod tests;
