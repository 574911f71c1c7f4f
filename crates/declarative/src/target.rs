//! What a server has. The surprise: credentials are asked for consumer by consumer, several at a time, because the Admin
//! API has no list of all of them; GraphQL cost decorations likewise, service by service.
use crate::client::{Client, ClientError, encode};
use crate::object::{Key, Object, Selection, WRITE_ORDER};
use reqwest::Method;
use serde_json::Value;
use sluice_model::{Kind, id};
use tokio::task::JoinSet;

/// Consumers whose credentials are asked for at the same time.
const AT_ONCE: usize = 8;

/// The objects of a server.
#[derive(Debug, Default)]
pub struct Current {
    /// Sorted by kind and id.
    pub objects: Vec<Object>,
    /// Kinds the server does not take now, and what it says (stream routes while stream proxying is off).
    pub unsupported: Vec<(Kind, String)>,
}

/// Reads the objects of a selection; `progress` is told what is read next.
pub async fn read(
    client: &Client,
    selection: &Selection,
    mut progress: impl FnMut(&str),
) -> Result<Current, ClientError> {
    let mut current = Current::default();
    for kind in WRITE_ORDER.into_iter().filter(|kind| kind.parent().is_none()) {
        let child = kind.child().filter(|child| selection.has_kind(*child));
        if !selection.has_kind(kind) && child.is_none() {
            continue;
        }
        progress(kind.dir());
        let mut parents = Vec::new();
        match list(client, kind.dir()).await? {
            Listed::Objects(found) => {
                for object in found.into_iter().filter_map(|item| object(kind, item)) {
                    if object.key.kind == kind {
                        parents.push(object.key.path());
                    }
                    current.objects.push(object);
                }
            }
            Listed::Unsupported(why) => current.unsupported.push((kind, why)),
        }
        if let Some(child) = child {
            progress(child.dir());
            read_children(client, child, parents, &mut current).await?;
        }
    }
    current.objects.retain(|object| selection.has(object));
    current.objects.sort_by(|a, b| a.key.cmp(&b.key));
    current.objects.dedup_by(|a, b| a.key == b.key);
    Ok(current)
}

/// The objects of a kind below each of these paths.
async fn read_children(
    client: &Client,
    kind: Kind,
    parents: Vec<String>,
    current: &mut Current,
) -> Result<(), ClientError> {
    let mut asking = JoinSet::new();
    let mut waiting = parents.into_iter();
    loop {
        while asking.len() < AT_ONCE
            && let Some(parent) = waiting.next()
        {
            let client = client.clone();
            asking.spawn(async move { list(&client, &format!("{}/{}", encode(&parent), kind.dir())).await });
        }
        let Some(done) = asking.join_next().await else { return Ok(()) };
        let listed = done.map_err(|error| ClientError::Settings(error.to_string()))?;
        match (listed, kind) {
            (Ok(Listed::Objects(items)), _) => {
                current.objects.extend(items.into_iter().filter_map(|item| object(kind, item)));
            }
            // A server before APISIX 3.18 has none and takes the path for something else.
            (
                Ok(Listed::Unsupported(_)) | Err(ClientError::Failed { .. } | ClientError::Refused { .. }),
                Kind::GraphqlCostDecoration,
            ) => {
                asking.abort_all();
                return Ok(());
            }
            (Err(error), _) => return Err(error),
            (Ok(Listed::Unsupported(_)), _) => {}
        }
    }
}

enum Listed {
    Objects(Vec<Value>),
    Unsupported(String),
}

async fn list(client: &Client, path: &str) -> Result<Listed, ClientError> {
    let answer = client.send(Method::GET, path, None, &[]).await?;
    match answer.status {
        200 => {}
        // An empty folder of credentials (apisix/admin/resource.lua), or a kind that an older server does not know.
        404 if path.contains('/') => return Ok(Listed::Objects(Vec::new())),
        404 if answer.message().contains("Unsupported resource type") => {
            return Ok(Listed::Unsupported(answer.message()));
        }
        404 if answer.message().contains("Key not found") => return Ok(Listed::Objects(Vec::new())),
        400 if answer.message().contains("disabled") => return Ok(Listed::Unsupported(answer.message())),
        _ => return Err(client.refused(&Method::GET, path, &answer)),
    }
    let mut body = answer.body;
    // `admin_api_version: v3` answers `{list, total}`, `default` `{node: {nodes}}`.
    let items = match body["list"].take() {
        Value::Null => body["node"]["nodes"].take(),
        list => list,
    };
    match items {
        Value::Array(items) => Ok(Listed::Objects(items)),
        // Lua writes an empty list as an object.
        Value::Object(empty) if empty.is_empty() => Ok(Listed::Objects(Vec::new())),
        Value::Null if body.get("node").is_some() || body.get("list").is_some() => Ok(Listed::Objects(Vec::new())),
        _ => Err(ClientError::Failed {
            method: "GET".into(),
            url: path.into(),
            cause: "the answer is not a list of the Admin API".into(),
        }),
    }
}

/// `{key: "/apisix/routes/1", value: {…}}`
fn object(kind: Kind, mut item: Value) -> Option<Object> {
    let stored = item["key"].as_str().map(str::to_owned);
    let mut value = item["value"].take();
    let fields = value.as_object_mut()?;
    let own = fields.shift_remove("id").as_ref().and_then(id::text);
    let dir = kind.parent().unwrap_or(kind).dir();
    let from_key = stored.as_deref().and_then(|key| key.split_once(&format!("/{dir}/"))).map(|(_, id)| id.to_owned());
    let id = from_key.or_else(|| fields.get("username").and_then(Value::as_str).map(str::to_owned)).or(own)?;
    let kind = kind.of_id(&id);
    Some(Object { key: Key::new(kind, id), value, place: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_come_from_the_store() {
        let key = |kind, item| object(kind, item).map(|object| object.key.path());
        let item = |key: &str| json!({"key": key, "value": {"id": "x", "uri": "/"}});
        assert_eq!(key(Kind::Route, item("/apisix/routes/1")).as_deref(), Some("routes/1"));
        assert_eq!(key(Kind::Secret, item("/apisix/secrets/vault/1")).as_deref(), Some("secrets/vault/1"));
        let credential = "/apisix/consumers/anna/credentials/one";
        assert_eq!(key(Kind::Credential, item(credential)).as_deref(), Some("consumers/anna/credentials/one"));
        assert_eq!(key(Kind::Consumer, item(credential)).as_deref(), Some("consumers/anna/credentials/one"));
        assert_eq!(key(Kind::Route, json!({"value": {"id": 7}})).as_deref(), Some("routes/7"));
        assert_eq!(key(Kind::Route, json!({"value": 7})), None);
    }
}
