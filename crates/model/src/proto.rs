//! A protobuf definition, for the plugins that translate gRPC. Surprise: `content` may be a base64 descriptor set.

use crate::{id, lenient};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Deserialise it from a body that its schema has checked; unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Proto {
    #[serde(deserialize_with = "id::required")]
    pub id: String,
    pub name: Option<String>,
    pub desc: Option<String>,
    #[serde(deserialize_with = "lenient::map")]
    pub labels: Map<String, Value>,
    pub content: String,
}
