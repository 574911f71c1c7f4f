//! Dumps of resources as they are in force (apisix/control/v1.lua `dump_*`). The surprise: `nodes` written as a mapping come
//! back as a list, since APISIX rewrites them when it loads an object.
use super::{Resource, Running, table};
use crate::message::{Reply, Request};
use crate::node_status;
use serde_json::{Map, Value, json};
use sluice_model::Kind;
use std::net::IpAddr;

pub(super) fn all(running: &dyn Running, kind: Kind, request: &Request) -> Reply {
    let resources = running.resources(kind);
    let items: Vec<Value> = resources.iter().filter_map(|own| shown(running, kind, own, request)).collect();
    table(200, &items.into())
}

pub(super) fn one(running: &dyn Running, kind: Kind, rest: &[&str], request: &Request) -> Reply {
    let id = rest.first().copied().unwrap_or_default();
    match running.resource(kind, id).and_then(|own| shown(running, kind, &own, request)) {
        Some(item) => table(200, &item),
        None => error(format!("{}[{id}] not found", kind.name())),
    }
}

pub(super) fn metadata(running: &dyn Running) -> Reply {
    // In the order of the plugins, of those that are there.
    let registry = running.registry();
    let plugins = registry.list();
    let stored = plugins.iter().filter_map(|plugin| running.resource(Kind::PluginMetadata, plugin.info.name));
    let items: Vec<Value> = stored.filter_map(|own| value(running, Kind::PluginMetadata, &own)).collect();
    table(200, &items.into())
}

pub(super) fn metadata_of(running: &dyn Running, rest: &[&str]) -> Reply {
    let name = rest.first().copied().unwrap_or_default();
    let found = running.resource(Kind::PluginMetadata, name);
    match found.and_then(|own| value(running, Kind::PluginMetadata, &own)) {
        Some(value) => table(200, &value),
        None => error(format!("plugin metadata[{name}] not found")),
    }
}

/// With `include=status`, the state of its nodes too (ours).
fn shown(running: &dyn Running, kind: Kind, resource: &Resource, request: &Request) -> Option<Value> {
    let mut item = item(running, kind, resource)?;
    if node_status::wanted(request)
        && let Some(nodes) = running.nodes(kind, &resource.id)
    {
        item["status"] = node_status::shown(nodes);
    }
    Some(item)
}

fn error(message: String) -> Reply {
    table(404, &json!({"error_msg": message}))
}

/// The resource with its defaults; None for what is not in force because it is wrong.
pub(super) fn value(running: &dyn Running, kind: Kind, resource: &Resource) -> Option<Value> {
    let mut value = resource.body.parse().ok()?;
    running.reveal(kind, &resource.id, &mut value);
    let mut value = sluice_config::accepted(&running.registry(), kind, &resource.id, value)?;
    list_nodes(&mut value);
    // APISIX puts an empty `_meta` beside plugins that have none, when it takes them in.
    for plugin in value.get_mut("plugins").and_then(Value::as_object_mut).into_iter().flat_map(|all| all.values_mut()) {
        if let Some(fields) = plugin.as_object_mut() {
            fields.entry("_meta").or_insert_with(|| json!({}));
        }
    }
    if let Some(upstream) = value.get_mut("upstream") {
        list_nodes(upstream);
    }
    Some(value)
}

/// A resource's key as APISIX names it.
pub(super) fn key(running: &dyn Running, kind: Kind, id: &str) -> String {
    format!("{}/{}", running.prefix(), sluice_store::Key::of(kind, id))
}

fn item(running: &dyn Running, kind: Kind, resource: &Resource) -> Option<Value> {
    let value = value(running, kind, resource)?;
    let upstream = if kind == Kind::Upstream { Some(&value) } else { value.get("upstream") };
    let has_domain = upstream.is_some_and(has_domain);
    let mut item = Map::new();
    item.insert("key".into(), key(running, kind, &resource.id).into());
    item.insert("has_domain".into(), has_domain.into());
    if resource.created > 0 {
        item.insert("createdIndex".into(), resource.created.into());
    }
    item.insert("modifiedIndex".into(), resource.modified.into());
    item.insert("orig_modifiedIndex".into(), resource.modified.into());
    item.insert("update_count".into(), 0.into());
    item.insert("clean_handlers".into(), json!({}));
    item.insert("value".into(), value);
    Some(Value::Object(item))
}

fn has_domain(upstream: &Value) -> bool {
    let nodes = upstream["nodes"].as_array().into_iter().flatten();
    nodes.filter_map(|node| node["host"].as_str()).any(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().is_err())
}

fn list_nodes(upstream: &mut Value) {
    let Some(Value::Object(nodes)) = upstream.get("nodes") else { return };
    let list: Vec<Value> = nodes.iter().map(|(address, weight)| node(address, weight)).collect();
    upstream["nodes"] = list.into();
}

fn node(address: &str, weight: &Value) -> Value {
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse::<u16>().ok()),
        _ => (address, None),
    };
    match port {
        Some(port) => json!({"host": host, "port": port, "weight": weight}),
        None => json!({"host": address, "weight": weight}),
    }
}
