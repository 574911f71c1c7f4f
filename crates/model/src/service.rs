//! A service as it runs. Surprise: it has `hosts` only, no `host`.

use crate::upstream::Upstream;
use crate::{id, lenient};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Deserialise it from a body that its schema has checked; unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    #[serde(deserialize_with = "id::required")]
    pub id: String,
    pub name: Option<String>,
    pub desc: Option<String>,
    #[serde(deserialize_with = "lenient::map")]
    pub labels: Map<String, Value>,
    /// By name, in the order written.
    #[serde(deserialize_with = "lenient::map")]
    pub plugins: Map<String, Value>,
    pub upstream: Option<Upstream>,
    #[serde(deserialize_with = "id::optional")]
    pub upstream_id: Option<String>,
    pub script: Option<String>,
    pub enable_websocket: Option<bool>,
    /// Empty: every host.
    #[serde(deserialize_with = "lenient::list")]
    pub hosts: Vec<String>,
}
