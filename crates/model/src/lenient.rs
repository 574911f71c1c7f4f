//! Deserialising what Lua cannot tell apart: `{}` where a list is meant, `[]` where a map is meant, and `null` for
//! either. The schemas let all of them pass, so the typed forms must too.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// A list, or an empty map, or `null`.
pub fn list<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(optional_list(deserializer)?.unwrap_or_default())
}

/// Like [`list`], telling an absent list from an empty one.
pub fn optional_list<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Object(fields) if fields.is_empty() => Ok(Some(Vec::new())),
        value => serde_json::from_value(value).map(Some).map_err(Error::custom),
    }
}

/// A map, or an empty list, or `null`.
pub fn map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(Map::new()),
        Value::Array(items) if items.is_empty() => Ok(Map::new()),
        value => serde_json::from_value(value).map_err(Error::custom),
    }
}
