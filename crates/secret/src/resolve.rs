//! References in a resource replaced by their values (apisix/secret.lua `fetch_secrets`). The surprise: one whose value is
//! not to be had stays as literal text, as in APISIX, so that it is compared and sent like any other text.

use serde_json::Value;
use std::sync::Arc;

/// What was found in a resource.
#[derive(Debug, Default)]
pub struct Resolution {
    /// Every reference with the value that took its place.
    pub used: Vec<(Arc<str>, Option<Value>)>,
    pub unresolved: Vec<Unresolved>,
}

/// A reference that stayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    pub reference: Arc<str>,
    /// The field that it stands in.
    pub field: String,
    /// `None`: the answer is still awaited.
    pub why: Option<Arc<str>>,
}

impl Resolution {
    /// A message about the resource without the values: each is written as its reference.
    pub fn redact(&self, message: &str) -> String {
        let mut message = message.to_owned();
        for (reference, value) in &self.used {
            let text = match value {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => continue,
            };
            if !text.is_empty() {
                message = message.replace(&text, reference);
            }
        }
        message
    }
}

/// Replaces references everywhere in a value. `lookup`: `None` for a text that is no reference.
pub fn resolve(value: &mut Value, lookup: &dyn Fn(&str) -> Option<crate::Found>, found: &mut Resolution) {
    walk(value, "", lookup, found);
}

fn walk(value: &mut Value, field: &str, lookup: &dyn Fn(&str) -> Option<crate::Found>, out: &mut Resolution) {
    match value {
        Value::String(text) if text.starts_with('$') => {
            let Some(found) = lookup(text) else { return };
            let reference: Arc<str> = text.as_str().into();
            let why = match found {
                crate::Found::Value(found) => {
                    out.used.push((reference, Some(found.clone())));
                    *value = found;
                    return;
                }
                crate::Found::Pending => None,
                crate::Found::Missing(why) => Some(why),
            };
            out.used.push((reference.clone(), None));
            out.unresolved.push(Unresolved { reference, field: field.to_owned(), why });
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                if may_hold(item) {
                    walk(item, &(i + 1).to_string(), lookup, out);
                }
            }
        }
        Value::Object(fields) => {
            for (name, item) in fields.iter_mut() {
                if may_hold(item) {
                    walk(item, name, lookup, out);
                }
            }
        }
        _ => {}
    }
}

fn may_hold(value: &Value) -> bool {
    match value {
        Value::String(text) => text.starts_with('$'),
        Value::Array(_) | Value::Object(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Found;
    use serde_json::json;

    #[test]
    fn references_are_replaced_wherever_they_stand() {
        let lookup = |text: &str| match text {
            "$secret://vault/1/a/key" => Some(Found::Value("sesame".into())),
            "$env://COUNT/n" => Some(Found::Value(5.into())),
            "$secret://vault/1/later" => Some(Found::Pending),
            "$env://NONE" => Some(Found::Missing("no value".into())),
            _ => None,
        };
        let mut body = json!({
            "key": "$secret://vault/1/a/key", "count": "$env://COUNT/n", "uri": "$uri", "n": 1,
            "nested": {"list": ["x", "$secret://vault/1/later", {"deep": "$env://NONE"}]}
        });
        let mut found = Resolution::default();
        resolve(&mut body, &lookup, &mut found);
        assert_eq!(
            body,
            json!({
                "key": "sesame", "count": 5, "uri": "$uri", "n": 1,
                "nested": {"list": ["x", "$secret://vault/1/later", {"deep": "$env://NONE"}]}
            })
        );
        assert_eq!(found.used.len(), 4);
        let unresolved = |reference: &str, field: &str, why: Option<&str>| Unresolved {
            reference: reference.into(),
            field: field.into(),
            why: why.map(Into::into),
        };
        assert_eq!(
            found.unresolved,
            [unresolved("$secret://vault/1/later", "2", None), unresolved("$env://NONE", "deep", Some("no value"))]
        );
        assert_eq!(
            found.redact("failed to match pattern \"^a\" with \"sesame\""),
            "failed to match pattern \"^a\" with \"$secret://vault/1/a/key\""
        );
    }
}
