//! `GET /v1/healthcheck[/{kind}/{id}]` (apisix/control/v1.lua): the state of checked nodes, as JSON, or as a page for who
//! asks for `text/html`. The surprise: objects with checks are listed even where no node was checked yet.
use super::resources::{key, value};
use super::{Resource, Running, table};
use crate::message::{Reply, Request};
use serde_json::{Value, json};
use sluice_model::Kind;
use std::fmt::Write;

const KINDS: [Kind; 4] = [Kind::Route, Kind::StreamRoute, Kind::Service, Kind::Upstream];

pub(super) fn all(running: &dyn Running, request: &Request) -> Reply {
    let mut infos = Vec::new();
    for kind in KINDS {
        // The texts without `checks` need not be looked into.
        let checked = running.resources(kind).into_iter().filter(|own| own.body.as_str().contains("\"checks\""));
        infos.extend(checked.filter_map(|own| info(running, kind, &own).flatten()));
    }
    answer(request, infos, Value::Array)
}

pub(super) fn one(running: &dyn Running, request: &Request, rest: &[&str]) -> Reply {
    let dir = rest.first().copied().unwrap_or_default();
    let Some(id) = rest.get(1).filter(|id| !id.is_empty()) else {
        return table(404, &json!({"error_msg": format!("missing src id for src type {dir}")}));
    };
    let Some(kind) = KINDS.into_iter().find(|kind| kind.dir() == dir) else {
        return table(400, &json!({"error_msg": format!("invalid src type {dir}")}));
    };
    let found = running.resource(kind, id).and_then(|own| info(running, kind, &own));
    match found {
        None => table(404, &json!({"error_msg": format!("{dir}[{id}] not found")})),
        Some(None) => table(404, &json!({"error_msg": format!("no checker for {dir}[{id}]")})),
        Some(Some(info)) => answer(request, vec![info], |infos| infos.into_iter().next().unwrap_or_default()),
    }
}

/// None: the resource is not in force; Some(None): it has no checks.
fn info(running: &dyn Running, kind: Kind, resource: &Resource) -> Option<Option<Value>> {
    let value = value(running, kind, resource)?;
    let Some(checks) = value.get("checks").or_else(|| value.pointer("/upstream/checks")) else { return Some(None) };
    let mut info = json!({
        "name": key(running, kind, &resource.id),
        "nodes": running.health(kind, &resource.id),
    });
    if info["nodes"].as_array().is_some_and(Vec::is_empty) {
        info["nodes"] = json!({});
    }
    if let Some(word) = checks.pointer("/active/type").or_else(|| checks.pointer("/passive/type")) {
        info["type"] = word.clone();
    }
    Some(Some(info))
}

fn answer(request: &Request, infos: Vec<Value>, json: impl FnOnce(Vec<Value>) -> Value) -> Reply {
    if request.header("accept").is_some_and(|accept| accept.contains("text/html")) {
        return Reply::text(200, page(&infos)).with_header("Content-Type", "text/html");
    }
    table(200, &json(infos))
}

fn page(infos: &[Value]) -> String {
    let mut rows = String::new();
    let nodes = infos.iter().flat_map(|info| info["nodes"].as_array().into_iter().flatten().map(move |n| (info, n)));
    for (index, (info, node)) in nodes.enumerate() {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), escape);
        let fine = matches!(node["status"].as_str(), Some("healthy" | "mostly_healthy"));
        let counter = &node["counter"];
        let cells = [
            (index + 1).to_string(),
            text(&info["name"]),
            text(&info["type"]),
            format!("{}:{}", text(&node["ip"]), node["port"]),
            text(&node["status"]),
            text(&counter["success"]),
            text(&counter["tcp_failure"]),
            text(&counter["http_failure"]),
            text(&counter["timeout_failure"]),
        ];
        // Writing to a String cannot fail.
        let _ = writeln!(rows, "<tr{}>", if fine { "" } else { " bgcolor=\"#FF0000\"" });
        for cell in cells {
            let _ = writeln!(rows, "<td>{cell}</td>");
        }
        rows.push_str("</tr>\n");
    }
    let heads = [
        "Index",
        "Upstream",
        "Check type",
        "Host",
        "Status",
        "Success counts",
        "TCP Failures",
        "HTTP Failures",
        "TIMEOUT Failures",
    ];
    let heads: String = heads.iter().map(|head| format!("<th>{head}</th>\n")).collect();
    format!(
        "<html xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n<title>APISIX upstream check status</title>\n</head>\n\
         <body>\n<h1>APISIX upstream check status</h1>\n<table border=\"1\" cellspacing=\"0\" cellpadding=\"3\">\n\
         <tr bgcolor=\"#C0C0C0\">\n{heads}</tr>\n{rows}</table>\n</body>\n</html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
