//! The configuration as a whole: its check (`POST configs/validate`), and in API-driven standalone mode its exchange
//! (`GET`, `HEAD`, `PUT configs`; apisix/admin/standalone.lua, config_validate.lua). The surprises: in that mode no other
//! resource path exists, and an object with the `modifiedIndex` it had before stays as it was, whatever its text.
mod check;
mod declared;

use crate::admin::Admin;
use crate::message::{Reply, Request};
use serde_json::{Map, Value, json};
use sluice_config::document::{Document, Limits};
use sluice_model::Kind;
use sluice_store::{Note, Transaction};

pub(crate) use declared::Declared;

/// The sections of a configuration (apisix/constants.lua); `plugins` is the list of plugins.
pub(crate) const SECTIONS: [&str; 13] = [
    "routes",
    "services",
    "upstreams",
    "consumers",
    "consumer_groups",
    "plugin_configs",
    "global_rules",
    "plugin_metadata",
    "ssls",
    "protos",
    "secrets",
    "stream_routes",
    "plugins",
];

pub(crate) fn version_key(section: &str) -> String {
    format!("{section}_conf_version")
}

fn kind_of(section: &str) -> Option<Kind> {
    Kind::from_dir(section)
}

const LAST_MODIFIED: &str = "X-Last-Modified";
const DIGEST: &str = "X-Digest";

/// Everything below `configs`; None where the path is not one of these.
pub(crate) async fn answer(admin: &Admin, rest: &[&str], request: &Request, author: &str) -> Option<Reply> {
    match (request.method.as_str(), rest) {
        ("POST", ["validate"]) => Some(validate(admin, request)),
        (_, []) => {
            let declared = admin.declared.as_ref()?;
            match request.method.as_str() {
                "GET" => Some(get(&*declared.lock().await, request)),
                "HEAD" => Some(stamped(Reply::empty(200), &*declared.lock().await)),
                "PUT" => Some(put(admin, &mut *declared.lock().await, request, author).await.unwrap_or_else(|no| no)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn validate(admin: &Admin, request: &Request) -> Reply {
    let body = match body(request) {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let findings = check::all(admin, &body);
    if findings.is_empty() {
        return Reply::json(200, &json!({}));
    }
    let errors: Vec<Value> = findings.iter().map(check::Finding::shown).collect();
    Reply::json(400, &json!({"error_msg": "Configuration validation failed", "errors": errors}))
}

/// The body, JSON or by its content type YAML.
fn body(request: &Request) -> Result<Map<String, Value>, Reply> {
    let refuse = |why: String| Reply::error(400, format!("invalid request body: {why}"));
    if request.too_large {
        return Err(Reply::error(413, "invalid request body: it is larger than the maximum size limit"));
    }
    if request.body.is_empty() {
        return Err(refuse("empty request body".into()));
    }
    let yaml = request.header("content-type").is_some_and(|own| own.starts_with("application/yaml"));
    let value = if yaml {
        let parsed = Document::yaml(&"the body".into(), &request.body, Limits::default());
        parsed.map(|document| document.value).map_err(|_| refuse("invalid yaml request body".into()))?
    } else {
        serde_json::from_slice(&request.body).map_err(|error| refuse(error.to_string()))?
    };
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Array(list) if list.is_empty() => Ok(Map::new()),
        _ if yaml => Err(refuse("invalid yaml request body".into())),
        _ => Err(refuse("expected an object".into())),
    }
}

/// The answer with the headers that tell which configuration it is about.
fn stamped(reply: Reply, declared: &Declared) -> Reply {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    [LAST_MODIFIED, DIGEST].into_iter().fold(reply, |reply, name| match declared.config().get(name) {
        Some(value) => reply.with_header(name, text(value)),
        None => reply,
    })
}

fn get(declared: &Declared, request: &Request) -> Reply {
    let config = Value::Object(declared.shown());
    let wants_yaml = request.header("accept").is_some_and(|accept| accept.starts_with("application/yaml"));
    let reply = if wants_yaml {
        match serde_saphyr::to_string(&config) {
            Ok(text) => Reply::text(200, text).with_header("Content-Type", "application/yaml"),
            Err(_) => return Reply::error(500, "failed to encode yaml"),
        }
    } else {
        Reply::text(200, config.to_string()).with_header("Content-Type", "application/json")
    };
    stamped(reply, declared)
}

async fn put(admin: &Admin, declared: &mut Declared, request: &Request, author: &str) -> Result<Reply, Reply> {
    let Some(digest) = request.header("x-digest") else { return Err(Reply::error(400, "missing digest header")) };
    let body = body(request)?;
    if declared.config().get(DIGEST).and_then(Value::as_str) == Some(digest) {
        return Ok(Reply::empty(204));
    }
    if let Some(finding) = check::all(admin, &body).into_iter().next() {
        return Err(Reply::error(400, finding.first_message()));
    }
    let mut next = declared.next(body).map_err(|message| Reply::error(400, message))?;
    next.set(LAST_MODIFIED, crate::clock::seconds().into());
    next.set(DIGEST, digest.into());
    let ops = {
        let state = admin.store.state().read().unwrap_or_else(std::sync::PoisonError::into_inner);
        next.ops(declared, &state)
    };
    let message = request.header("x-message").unwrap_or_default().to_owned();
    let transaction = Transaction { ops, note: Note { author: author.to_owned(), message } };
    let done = admin.store.commit(transaction).await.map_err(|error| Reply::error(503, error.to_string()))?;
    *declared = next;
    admin.gateway.taken(done.revision);
    admin.in_force(done.revision).await;
    Ok(stamped(Reply::empty(202), declared))
}

#[cfg(test)]
mod tests;
