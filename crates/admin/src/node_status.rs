//! `include=status`: the state of an upstream's nodes beside the object in which they stand (ours). Surprise: it stands beside
//! `value`, never in it, so what was read can be written back as it is.
use crate::message::Request;
use serde_json::{Value, json};
use sluice_upstream::NodeStatus;

/// Whether it was asked for; `include` may name several things.
pub(crate) fn wanted(request: &Request) -> bool {
    request.arg("include").is_some_and(|all| all.split(',').any(|one| one.trim() == "status"))
}

pub(crate) fn shown(nodes: Vec<NodeStatus>) -> Value {
    json!({ "nodes": nodes })
}
