//! `$env://NAME` and `$env://NAME/key` in strings of resources (apisix/core/env.lua, apisix/secret.lua). The prefix is
//! taken in any case; a variable that is not set leaves the text as it is, as in APISIX.
use serde_json::Value;

const PREFIX: &str = "$env://";

/// Replaces references everywhere in a resource.
pub fn resolve(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(found) = lookup(text) {
                *text = found;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(resolve),
        Value::Object(fields) => fields.values_mut().for_each(resolve),
        _ => {}
    }
}

fn lookup(text: &str) -> Option<String> {
    let prefix = text.get(..PREFIX.len())?;
    if !prefix.eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    let reference = text.get(PREFIX.len()..)?;
    let (name, key) = match reference.split_once('/') {
        Some((name, key)) => (name, Some(key)),
        None => (reference, None),
    };
    let variable = std::env::var(name).ok()?;
    match key {
        None => Some(variable),
        Some(key) => match serde_json::from_str::<Value>(&variable).ok()?.get(key)? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_references_are_replaced() {
        let path = std::env::var("PATH").unwrap();
        let mut value = json!({"a": "$ENV://PATH", "b": ["$env://NO_SUCH_VARIABLE_HERE", "PATH"], "c": 1});
        resolve(&mut value);
        assert_eq!(value, json!({"a": path, "b": ["$env://NO_SUCH_VARIABLE_HERE", "PATH"], "c": 1}));
    }
}
