//! A global rule: plugins that run for every request. Surprise: it has neither name nor labels.

use crate::{id, lenient};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Deserialise it from a body that its schema has checked; unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct GlobalRule {
    #[serde(deserialize_with = "id::required")]
    pub id: String,
    #[serde(deserialize_with = "lenient::map")]
    pub plugins: Map<String, Value>,
}
