//! `POST /apisix/admin/transactions`: several writes, all or none. The surprises: operations may be given in any order, as
//! one that needs another's outcome is tried again after it; and no object may occur twice.
use crate::admin::Admin;
use crate::message::{Reply, Request};
use crate::server::query;
use crate::staging::{Staged, Write};
use crate::{body, writes};
use serde_json::{Value, json};
use sluice_store::{Note, StoreError, Transaction};
use std::collections::HashSet;

/// How often it is tried again when others write at the same time.
const TRIES: usize = 8;

pub(crate) async fn answer(admin: &Admin, request: &Request, author: &str) -> Reply {
    match run(admin, request, author).await {
        Ok(reply) | Err(reply) => reply,
    }
}

async fn run(admin: &Admin, request: &Request, author: &str) -> Result<Reply, Reply> {
    let writes = parse(admin, request)?;
    let note = Note { author: author.to_owned(), message: request.header("x-message").unwrap_or_default().to_owned() };
    for _ in 0..TRIES {
        // Nobody of this process writes between check and commit; somebody else's write to the same objects is a conflict.
        let _alone = admin.writing.write().await;
        admin.store.catch_up().await.map_err(|error| Reply::error(503, error.to_string()))?;
        let staged = Staged::of(admin);
        let results = stage(&staged, &writes).await?;
        if request.arg("dry_run") == Some("true") {
            let mut told = writes::told(admin, &staged);
            told["results"] = results.into();
            return Ok(Reply::json(200, &told));
        }
        let transaction = Transaction { ops: staged.ops(), note: note.clone() };
        let done = match admin.store.commit(transaction).await {
            Ok(done) => done,
            Err(StoreError::Conflict { .. }) => continue,
            Err(error) => return Err(Reply::error(503, error.to_string())),
        };
        drop(_alone);
        if request.arg("wait") == Some("true") {
            admin.in_force(done.revision).await;
        }
        return Ok(Reply::json(200, &json!({"revision": done.revision, "results": results})));
    }
    Err(Reply::error(503, "the objects were changed by somebody else again and again; nothing was written"))
}

/// Runs every write on the copy; the answers in the order of the operations.
async fn stage(staged: &Staged, writes: &[Write]) -> Result<Vec<Value>, Reply> {
    let mut results = vec![Value::Null; writes.len()];
    let mut pending: Vec<usize> = (0..writes.len()).collect();
    while !pending.is_empty() {
        let mut refused: Vec<(usize, Reply)> = Vec::new();
        for &index in &pending {
            let Some(write) = writes.get(index) else { continue };
            let reply = staged.write(write).await;
            if reply.status >= 300 {
                refused.push((index, reply));
            } else if let Some(result) = results.get_mut(index) {
                *result = json!({"status": reply.status, "body": parsed(&reply)});
            }
        }
        if refused.len() == pending.len() {
            return Err(refused
                .into_iter()
                .next()
                .map_or_else(|| Reply::empty(500), |(index, reply)| refusal(index, &reply)));
        }
        pending = refused.into_iter().map(|(index, _)| index).collect();
    }
    Ok(results)
}

fn parsed(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_default()
}

/// 400 that names the operation; 412 where its `if_match` does not hold.
fn refusal(index: usize, reply: &Reply) -> Reply {
    let answer = parsed(reply);
    let why = answer["error_msg"].as_str().or_else(|| answer["message"].as_str()).unwrap_or("refused").to_owned();
    let status = match reply.status {
        status @ (412 | 503) => status,
        _ => 400,
    };
    let message = format!("operation {index}: {why}; nothing was written");
    Reply::json(status, &json!({"error_msg": message, "operation": index, "status": reply.status, "answer": answer}))
}

fn parse(admin: &Admin, request: &Request) -> Result<Vec<Write>, Reply> {
    let body = body::parse(request, admin.settings.max_whole_body)?;
    let Some(Value::Array(list)) = body else { return Err(Reply::error(400, "a list of operations is expected")) };
    if list.len() > admin.settings.max_operations {
        let limit = admin.settings.max_operations;
        return Err(Reply::error(400, format!("{} operations are more than the limit of {limit}", list.len())));
    }
    let mut seen = HashSet::new();
    let mut writes = Vec::with_capacity(list.len());
    for (index, item) in list.into_iter().enumerate() {
        let refuse = |why: String| {
            Reply::json(
                400,
                &json!({"error_msg": format!("operation {index}: {why}; nothing was written"), "operation": index}),
            )
        };
        let write = operation(item).map_err(refuse)?;
        if write.method != "POST" && !seen.insert(write.path.join("/")) {
            return Err(refuse(format!("{} occurs twice", write.path.join("/"))));
        }
        writes.push(write);
    }
    Ok(writes)
}

/// `{method, path}` or `{method, kind, id}`, with `body` and `if_match`.
fn operation(item: Value) -> Result<Write, String> {
    let Value::Object(mut fields) = item else { return Err("an object is expected".into()) };
    let text = |value: Value| match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("a text is expected, not {other}")),
    };
    let mut take = |name: &str| fields.shift_remove(name).map(text).transpose().map_err(|why| format!("{name}: {why}"));
    let method = take("method")?.unwrap_or_else(|| "PUT".into());
    let (path, kind, id, if_match) = (take("path")?, take("kind")?, take("id")?, take("if_match")?);
    let body = fields.shift_remove("body").filter(|body| !body.is_null());
    if let Some(unknown) = fields.keys().next() {
        return Err(format!("unknown field {unknown:?}"));
    }
    if !matches!(method.as_str(), "PUT" | "POST" | "PATCH" | "DELETE") {
        return Err(format!("method {method:?} does not write"));
    }
    let target = match (path, kind) {
        (Some(path), None) => path,
        (None, Some(kind)) => id.map_or_else(|| kind.clone(), |id| format!("{kind}/{id}")),
        _ => return Err("either path or kind is expected".into()),
    };
    let (path, args) = target.split_once('?').unwrap_or((&target, ""));
    let path = path.trim_start_matches("/apisix/admin").trim_matches('/');
    let path = path.split('/').map(str::to_owned).collect();
    Ok(Write { method, path, query: query(args), if_match, body })
}

#[cfg(test)]
mod tests;
