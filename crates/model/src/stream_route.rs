//! A stream (TCP, UDP) route as it runs. Surprise: `sni` may be a wildcard, and every condition may be absent.

use crate::upstream::Upstream;
use crate::{id, lenient};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Deserialise it from a body that its schema has checked; unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct StreamRoute {
    #[serde(deserialize_with = "id::required")]
    pub id: String,
    pub name: Option<String>,
    pub desc: Option<String>,
    #[serde(deserialize_with = "lenient::map")]
    pub labels: Map<String, Value>,
    pub remote_addr: Option<String>,
    pub server_addr: Option<String>,
    pub server_port: Option<u16>,
    pub sni: Option<String>,
    pub upstream: Option<Upstream>,
    #[serde(deserialize_with = "id::optional")]
    pub upstream_id: Option<String>,
    #[serde(deserialize_with = "id::optional")]
    pub service_id: Option<String>,
    #[serde(deserialize_with = "lenient::map")]
    pub plugins: Map<String, Value>,
    /// xRPC settings.
    pub protocol: Option<Value>,
}
