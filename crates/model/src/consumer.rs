//! Consumers, their credentials and consumer groups as they run. Surprise: a consumer's id is its `username`.

use crate::{id, lenient};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A user of the gateway.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Consumer {
    pub username: String,
    pub desc: Option<String>,
    #[serde(deserialize_with = "lenient::map")]
    pub labels: Map<String, Value>,
    #[serde(deserialize_with = "id::optional")]
    pub group_id: Option<String>,
    /// By name, in the order written.
    #[serde(deserialize_with = "lenient::map")]
    pub plugins: Map<String, Value>,
}

/// A way for a consumer to authenticate: at most one plugin, of type "auth".
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Credential {
    /// `<id>`, or `<username>/credentials/<id>` in files.
    #[serde(deserialize_with = "id::required")]
    pub id: String,
    pub name: Option<String>,
    pub desc: Option<String>,
    #[serde(deserialize_with = "lenient::map")]
    pub labels: Map<String, Value>,
    #[serde(deserialize_with = "lenient::map")]
    pub plugins: Map<String, Value>,
}

impl Credential {
    /// Consumer and credential of an id in the long form.
    pub fn split_id(id: &str) -> Option<(&str, &str)> {
        id.split_once("/credentials/")
    }
}

/// Plugins that several consumers share.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct ConsumerGroup {
    #[serde(deserialize_with = "id::required")]
    pub id: String,
    pub name: Option<String>,
    pub desc: Option<String>,
    #[serde(deserialize_with = "lenient::map")]
    pub labels: Map<String, Value>,
    #[serde(deserialize_with = "lenient::map")]
    pub plugins: Map<String, Value>,
}
