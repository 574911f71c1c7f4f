//! What of an answer goes into the whole. The surprise: `select` and `rename` also work on each item of a list.
use serde_json::{Map, Value};

/// `pick`, `select` and `rename` of a call.
#[derive(Default)]
pub(super) struct Shape {
    /// A JSON Pointer.
    pub(super) pick: Option<String>,
    pub(super) select: Option<Vec<String>>,
    pub(super) rename: Map<String, Value>,
}

impl Shape {
    pub(super) fn apply(&self, mut value: Value) -> Value {
        if let Some(pointer) = &self.pick {
            value = value.pointer_mut(pointer).map(Value::take).unwrap_or_default();
        }
        match value {
            Value::Array(items) => items.into_iter().map(|item| self.fields(item)).collect(),
            other => self.fields(other),
        }
    }

    fn fields(&self, value: Value) -> Value {
        let Value::Object(mut fields) = value else { return value };
        if let Some(names) = &self.select {
            fields = names.iter().filter_map(|name| fields.remove_entry(name)).collect();
        }
        if self.rename.is_empty() {
            return Value::Object(fields);
        }
        let renamed = fields.into_iter().map(|(name, value)| match self.rename.get(&name).and_then(Value::as_str) {
            Some(new) => (new.to_owned(), value),
            None => (name, value),
        });
        Value::Object(renamed.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parts_fields_and_names() {
        let shape = Shape {
            pick: Some("/data".into()),
            select: Some(vec!["b".into(), "a".into(), "none".into()]),
            rename: json!({"a": "x"}).as_object().unwrap().clone(),
        };
        assert_eq!(shape.apply(json!({"data": {"a": 1, "b": 2, "c": 3}})), json!({"b": 2, "x": 1}));
        assert_eq!(shape.apply(json!({"data": [{"a": 1}, 5]})), json!([{"x": 1}, 5]));
        assert_eq!(shape.apply(json!({"other": 1})), Value::Null);
        assert_eq!(Shape::default().apply(json!("text")), json!("text"));
    }
}
