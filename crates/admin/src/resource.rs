//! The verbs on stored resources (apisix/admin/resource.lua). The surprise: what is checked is a copy with defaults, what
//! is stored is the body as it was sent, plus its id and its timestamps.
mod delete;
mod read;
#[cfg(test)]
mod tests;
mod write;

use crate::admin::{Admin, Call};
use crate::message::Reply;
use serde_json::{Map, Value, json};
use sluice_model::Kind;
use sluice_store::{Entry, Key, StoreError};

/// What a path names.
pub(crate) struct Target {
    pub kind: Kind,
    /// None: the collection. Of a secret `<manager>/<id>`, of what stands below something its own.
    pub id: Option<String>,
    /// The id of what it stands below: the consumer of a credential.
    pub parent: Option<String>,
    /// The part of a resource that `PATCH` changes.
    pub sub_path: String,
}

impl Target {
    /// The key of an object of this kind.
    pub fn key(&self, id: &str) -> Key {
        match &self.parent {
            Some(parent) => Key::of(self.kind, &format!("{parent}/{}/{id}", self.kind.dir())),
            None => Key::of(self.kind, id),
        }
    }

    /// The beginning of all keys of the collection, without the last slash.
    pub fn directory(&self) -> String {
        match (self.kind.parent(), &self.parent) {
            (Some(above), Some(parent)) => format!("{}/{parent}/{}", above.dir(), self.kind.dir()),
            _ => self.kind.dir().to_owned(),
        }
    }

    /// A secret manager without an id, such as `secrets/vault`.
    pub fn is_folder(&self) -> bool {
        self.kind == Kind::Secret && self.id.as_deref().is_some_and(|id| !id.contains('/'))
    }
}

/// `routes/1/upstream/nodes` to a target.
fn target(segments: &[&str]) -> Option<Target> {
    let (first, rest) = segments.split_first()?;
    let kind = Kind::from_dir(first)?;
    if let ([parent, below, rest @ ..], Some(child)) = (rest, kind.child())
        && *below == child.dir()
    {
        let id = rest.first().filter(|id| !id.is_empty()).map(|id| (*id).to_owned());
        return Some(Target { kind: child, id, parent: Some((*parent).to_owned()), sub_path: String::new() });
    }
    let taken = if kind == Kind::Secret { 2 } else { 1 };
    let own = rest.get(..taken.min(rest.len())).unwrap_or_default().join("/");
    let own = own.trim_end_matches('/');
    let sub_path = rest.get(taken..).unwrap_or_default().join("/");
    Some(Target { kind, id: Some(own.to_owned()).filter(|id| !id.is_empty()), parent: None, sub_path })
}

/// Methods that a kind does not have (`unsupported_methods` of apisix/admin/*.lua).
pub(crate) fn unsupported(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Consumer | Kind::Credential | Kind::PluginMetadata => &["POST", "PATCH"],
        Kind::ConsumerGroup | Kind::PluginConfig | Kind::GlobalRule | Kind::Secret => &["POST"],
        Kind::Proto | Kind::StreamRoute => &["PATCH"],
        Kind::Route | Kind::Service | Kind::Upstream | Kind::Ssl | Kind::GraphqlCostDecoration => &[],
    }
}

pub(crate) async fn answer(admin: &Admin, segments: &[&str], call: Call<'_>) -> Reply {
    let name = segments.first().copied().unwrap_or_default();
    if name == "stream_routes" && !admin.settings.stream {
        return Reply::error(400, "stream mode is disabled, can not add stream routes");
    }
    let Some(target) = target(segments) else {
        return Reply::error(404, format!("Unsupported resource type: {name}"));
    };
    let method = call.request.method.as_str();
    if target.kind.parent().is_some() && target.parent.is_none() {
        // The flat path, which names no parent.
        let above = target.kind.parent().map(Kind::name).unwrap_or_default();
        return Reply::error(400, format!("missing {above} id"));
    }
    if let Err(refused) = write::time_to_live(&call) {
        return refused;
    }
    if unsupported(target.kind).contains(&method) {
        return Reply::error(405, format!("not supported `{method}` method for {}", target.kind.name()));
    }
    let done = match method {
        "GET" => read::get(admin, &target, call.request).await,
        "POST" => write::post(admin, &target, &call).await,
        "PUT" => write::put(admin, &target, &call).await,
        "PATCH" => write::patch(admin, &target, &call).await,
        _ => delete::delete(admin, &target, &call).await,
    };
    let version = if admin.settings.v3 { "v3" } else { "v2" };
    done.unwrap_or_else(|refused| refused).with_header("X-API-VERSION", version)
}

/// 503 with what the store says.
fn store_failed(error: &StoreError) -> Reply {
    tracing::error!(%error, "the store did not do it");
    Reply::error(503, error.to_string())
}

fn not_found() -> Reply {
    Reply::json(404, &json!({"message": "Key not found"}))
}

/// A stored object as answers show it: `{key, value, createdIndex, modifiedIndex}`.
fn node(admin: &Admin, entry: &Entry, value: Value) -> Value {
    json!({
        "key": format!("{}/{}", admin.settings.prefix, entry.key),
        "value": value,
        "createdIndex": entry.created,
        "modifiedIndex": entry.modified,
    })
}

/// The answer to a write: the node alone, or wrapped with the action (`admin_api_version: default`).
fn written(admin: &Admin, status: u16, key: &Key, value: Value, action: &str) -> Reply {
    let node = json!({"key": format!("{}/{key}", admin.settings.prefix), "value": value});
    if admin.settings.v3 {
        return Reply::json(status, &node);
    }
    Reply::json(status, &json!({"action": action, "node": node}))
}

fn object(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.as_object_mut()
}
