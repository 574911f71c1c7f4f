//! Plugins: their list, their schemas, their reload (apisix/admin/plugins.lua, init.lua).
use crate::admin::Admin;
use crate::message::{Reply, Request};
use serde_json::{Map, Value};

/// Plugins that APISIX has and that are not in its default list (apisix/cli/config.lua). Without a list in config.yaml
/// they may be configured here, but are not named as enabled.
const NOT_BY_DEFAULT: [&str; 9] = [
    "batch-requests",
    "brotli",
    "dubbo-proxy",
    "error-log-logger",
    "gm",
    "log-rotate",
    "node-status",
    "ocsp-stapling",
    "server-info",
];

/// `GET plugins/list`: the names of config.yaml's list that are there, by priority.
pub(crate) fn list(admin: &Admin, request: &Request) -> Reply {
    let registry = admin.gateway.registry();
    let listed = |name: &&str| admin.settings.plugins.is_some() || !NOT_BY_DEFAULT.contains(name);
    let names: Vec<&str> = match request.arg("subsystem").unwrap_or("http") {
        "http" => registry.list().iter().map(|definition| definition.info.name).filter(listed).collect(),
        "stream" => registry.list_stream().iter().map(|definition| definition.name).collect(),
        _ => return Reply::text(400, "invalid subsystem passed"),
    };
    Reply::json(200, &names.into())
}

/// `PUT plugins/reload`
pub(crate) async fn reload(admin: &Admin) -> Reply {
    match admin.gateway.reload_plugins().await {
        Ok(()) => Reply::text(200, "done"),
        Err(message) => Reply::error(503, message),
    }
}

/// `GET plugins/{name}` and `schema/plugins/{name}`: a schema; `?all=true`: everything of all.
pub(crate) fn get(admin: &Admin, name: Option<&str>, request: &Request) -> Reply {
    let subsystem = request.arg("subsystem").unwrap_or("http");
    if subsystem != "http" && subsystem != "stream" {
        return Reply::error(400, format!("unsupported subsystem: {subsystem}"));
    }
    let registry = admin.gateway.registry();
    if request.arg("all") == Some("true") {
        let all: Map<String, Value> = if subsystem == "stream" {
            let stream = registry.list_stream();
            stream.iter().filter_map(|d| Some((d.name.to_owned(), registry.stream_document(d.name)?))).collect()
        } else {
            let http = registry.list();
            http.iter().filter_map(|d| Some((d.info.name.to_owned(), registry.document(d.info.name)?))).collect()
        };
        return Reply::json(200, &Value::Object(all));
    }
    let name = name.unwrap_or_default();
    let document = match subsystem {
        "http" => registry.get(name).and_then(|_| registry.document(name)),
        _ => registry.get_stream(name).and_then(|_| registry.stream_document(name)),
    };
    let Some(document) = document else {
        return Reply::error(404, format!("plugin not found in subsystem {subsystem}"));
    };
    let field = if request.arg("schema_type") == Some("consumer") { "consumer_schema" } else { "schema" };
    match document.get(field) {
        Some(schema) => Reply::json(200, schema),
        None => Reply::error(400, "not found schema"),
    }
}
