//! Ids of resources. Surprise: users write them as names or as positive integers; inside they are always text.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The text of an id written as a string or a number; anything else is no id.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => (float as i64).to_string(),
            _ => number.to_string(),
        }),
        _ => None,
    }
}

/// The id in field `name` of `body`.
pub fn field(body: &Value, name: &str) -> Option<String> {
    body.get(name).and_then(text)
}

pub(crate) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Value>::deserialize(deserializer)?.as_ref().and_then(text))
}

pub(crate) fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(optional(deserializer)?.unwrap_or_default())
}
