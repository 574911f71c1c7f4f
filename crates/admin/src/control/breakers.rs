//! `GET /v1/circuit_breakers[/{kind}/{id}]` and `GET /v1/concurrency_limits[/{kind}/{id}]`, both ours: what protects upstreams, and
//! what it has done so far. The surprise: upstreams that stand in a plugin, or as a fallback, are listed with a `#` in their name.
use super::table;
use crate::message::Reply;
use serde_json::{Value, json};

/// All, or the one whose name ends with what the path says.
pub(super) fn answer(all: Vec<Value>, path: &[&str]) -> Reply {
    if path.is_empty() {
        return Reply::json(200, &Value::Array(all)).with_header("Content-Type", "application/json");
    }
    let wanted = format!("/apisix/{}", path.join("/"));
    match all.into_iter().find(|own| own["name"] == wanted) {
        Some(found) => table(200, &found),
        None => table(404, &json!({"error_msg": format!("{} not found", path.join("/"))})),
    }
}
