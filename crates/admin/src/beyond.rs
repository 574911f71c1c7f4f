//! Paths of the Admin API that APISIX does not have: history, transactions, explanations, the state of the whole. They are
//! there in every mode; what writes is not in API-driven standalone mode, where the configuration comes as a whole.
use crate::admin::Admin;
use crate::message::{Reply, Request};
use crate::{body, cache, openapi, revisions, transactions};
use serde_json::{Map, Value, json};
use sluice_config::explain::{Question, StreamQuestion, explain, explain_stream};
use sluice_store::Condition;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::PoisonError;
use std::time::UNIX_EPOCH;

/// None where the path is not one of these.
pub(crate) async fn answer(admin: &Admin, rest: &[&str], request: &Request, author: &str) -> Option<Reply> {
    let flat = |done: Result<Reply, Reply>| done.unwrap_or_else(|refused| refused);
    let may_write = admin.declared.is_none();
    Some(match (request.method.as_str(), rest) {
        ("GET", ["openapi.json"]) => Reply::json(200, &openapi::document(&admin.gateway.registry())),
        ("GET", ["status"]) => status(admin).await,
        ("POST", ["explain"]) => flat(explanation(admin, request)),
        ("GET", ["revisions"]) => flat(revisions::list(admin, request).await),
        ("GET", ["revisions", one]) => match one.split_once("..") {
            Some((from, to)) => flat(revisions::diff(admin, from, to).await),
            None => flat(revisions::get(admin, one).await),
        },
        ("POST", ["revisions", one, "rollback"]) if may_write => {
            flat(revisions::rollback(admin, one, request, author).await)
        }
        ("GET", ["cache"]) => cache::list(admin),
        ("DELETE", ["cache", zone]) => cache::purge(admin, zone, request).await,
        ("POST", ["transactions"]) if may_write => transactions::answer(admin, request, author).await,
        (_, ["openapi.json" | "status" | "explain" | "transactions"]) | (_, ["revisions" | "cache", ..]) => {
            Reply::error(405, format!("not supported `{}` method", request.method))
        }
        _ => return None,
    })
}

/// `GET status`
async fn status(admin: &Admin) -> Reply {
    let revision = admin.store.state().read().unwrap_or_else(PoisonError::into_inner).revision;
    let newest = admin.store.revisions(None, 1).await.ok().and_then(|list| list.into_iter().next());
    let age = newest.map(|newest| crate::clock::seconds().saturating_sub(newest.time));
    let condition = match admin.store.condition() {
        Condition::Fresh => json!({"state": "fresh"}),
        Condition::Stale { since, reason } => {
            let since = since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            json!({"state": "stale", "since": since, "reason": reason})
        }
    };
    let left_out: Vec<Value> = admin
        .gateway
        .problems()
        .iter()
        .map(|problem| {
            json!({"key": format!("{}/{}", problem.kind.dir(), problem.id), "path": problem.path,
                "message": problem.message, "kept": problem.kept})
        })
        .collect();
    Reply::json(
        200,
        &json!({
            "revision": revision,
            "applied_revision": *admin.gateway.in_force().borrow(),
            "age": age,
            "source": admin.store.source().as_str(),
            "condition": condition,
            "left_out": left_out,
            "certificates": certificates(&admin.gateway.certificates(), crate::clock::seconds()),
        }),
    )
}

/// How many certificates there are, and those that have ended or will within a month.
fn certificates(all: &[Value], now: u64) -> Value {
    const SOON: u64 = 30 * 86_400;
    let mut ending = Vec::new();
    for ssl in all {
        for certificate in ssl["certificates"].as_array().into_iter().flatten() {
            let Some(end) = certificate["not_after"].as_i64() else { continue };
            let left = end.saturating_sub_unsigned(now);
            if left < SOON.cast_signed() && ending.len() < 100 {
                ending.push(
                    json!({"id": ssl["id"], "snis": ssl["snis"], "not_after": end, "days": left.div_euclid(86_400)}),
                );
            }
        }
    }
    json!({"ssls": all.len(), "ending": ending})
}

/// `POST explain`
fn explanation(admin: &Admin, request: &Request) -> Result<Reply, Reply> {
    let Some(Value::Object(fields)) = body::parse(request, admin.settings.max_body)? else {
        return Err(Reply::error(400, "an object with method and url is expected"));
    };
    let Some(snapshot) = admin.gateway.snapshot() else {
        return Err(Reply::error(503, "no configuration is in force yet"));
    };
    if fields.contains_key("stream") {
        let question = stream_question(&fields).map_err(|why| Reply::error(400, why))?;
        return Ok(Reply::json(200, &explain_stream(&snapshot, &question)));
    }
    let question = question(&fields).map_err(|why| Reply::error(400, why))?;
    explain(&snapshot, &question).map(|told| Reply::json(200, &told)).map_err(|why| Reply::error(400, why))
}

fn text(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("{name} should be a text")),
    }
}

fn address<T: std::str::FromStr>(fields: &Map<String, Value>, name: &str) -> Result<Option<T>, String> {
    let Some(text) = text(fields, name)? else { return Ok(None) };
    text.parse().map(Some).map_err(|_| format!("{name}: {text:?} is no address"))
}

fn stream_question(fields: &Map<String, Value>) -> Result<StreamQuestion, String> {
    Ok(StreamQuestion {
        server: address(fields, "stream")?.ok_or("stream should be an address with its port")?,
        client: address(fields, "client")?.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        sni: text(fields, "sni")?,
    })
}

fn question(fields: &Map<String, Value>) -> Result<Question, String> {
    let text = |name: &str| text(fields, name);
    let url = text("url")?.ok_or("url is missing")?;
    let mut question = Question::new(text("method")?.as_deref().unwrap_or("GET"), &url);
    question.body = text("body")?.map(String::into_bytes);
    question.client = address(fields, "client")?.unwrap_or(question.client);
    match fields.get("headers") {
        None => {}
        Some(Value::Object(headers)) => {
            for (name, value) in headers {
                let value = value.as_str().ok_or_else(|| format!("headers: {name} should be a text"))?;
                question.headers.push((name.clone(), value.to_owned()));
            }
        }
        Some(_) => return Err("headers should be an object of texts".into()),
    }
    Ok(question)
}

#[cfg(test)]
mod tests;
