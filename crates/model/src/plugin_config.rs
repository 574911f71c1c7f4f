//! A plugin config: plugins that routes share by id. Surprise: on the route, the route's own plugin wins.

use crate::{id, lenient};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Deserialise it from a body that its schema has checked; unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct PluginConfig {
    #[serde(deserialize_with = "id::required")]
    pub id: String,
    pub name: Option<String>,
    pub desc: Option<String>,
    #[serde(deserialize_with = "lenient::map")]
    pub labels: Map<String, Value>,
    #[serde(deserialize_with = "lenient::map")]
    pub plugins: Map<String, Value>,
}
