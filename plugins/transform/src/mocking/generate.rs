//! Random values from a JSON Schema, as far as `mocking` understands one: `type`, `properties`, `items`, `example`.
use rand::Rng;
use serde_json::{Map, Number, Value};

/// Values in one response; arrays within arrays multiply.
const MAX_VALUES: usize = 10_000;

/// A value for each of the schema's `properties`.
pub fn object(schema: &Value) -> Map<String, Value> {
    members(schema, &mut MAX_VALUES.clone())
}

fn members(schema: &Value, left: &mut usize) -> Map<String, Value> {
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    properties.filter_map(|(name, property)| Some((name.clone(), value(property, left)?))).collect()
}

fn value(property: &Value, left: &mut usize) -> Option<Value> {
    *left = left.checked_sub(1)?;
    let random = &mut rand::rng();
    let example = property.get("example");
    let number = example.and_then(Value::as_f64);
    Some(match property.get("type")?.as_str()?.to_ascii_lowercase().as_str() {
        "string" => match example.and_then(Value::as_str) {
            Some(text) => text.into(),
            None => {
                let letters = random.random_range(1..=10);
                (0..letters).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect::<String>().into()
            }
        },
        "number" => plain(number.unwrap_or_else(|| random.random_range(0.0..10_000.0)))?,
        "integer" => match number {
            Some(number) => plain(number.floor())?,
            None => random.random_range(1..=10_000).into(),
        },
        "boolean" => example.and_then(Value::as_bool).unwrap_or_else(|| random.random()).into(),
        "array" => {
            let items = property.get("items")?;
            let count = random.random_range(1..=3);
            Value::Array((0..count).filter_map(|_| value(items, left)).collect())
        }
        "object" => members(property, left).into(),
        _ => return None,
    })
}

/// A number as lua-cjson writes it: 14 digits, whole ones without a fraction.
fn plain(number: f64) -> Option<Value> {
    let mut text = Vec::new();
    sluice_expr::write_number(number, &mut text);
    let text = std::str::from_utf8(&text).ok()?;
    text.parse::<i64>()
        .map(Value::from)
        .ok()
        .or_else(|| text.parse().ok().and_then(Number::from_f64).map(Value::Number))
}

/// The object as JSON. An empty array is `{}`, which is all that Lua knows.
pub fn json_text(object: &Map<String, Value>) -> String {
    fn luaize(value: &mut Value) {
        match value {
            Value::Array(items) if items.is_empty() => *value = Map::new().into(),
            Value::Array(items) => items.iter_mut().for_each(luaize),
            Value::Object(members) => members.values_mut().for_each(luaize),
            _ => {}
        }
    }
    let mut value = Value::Object(object.clone());
    luaize(&mut value);
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn examples_stand() {
        let schema = json!({"properties": {
            "s": {"type": "string", "example": "hello"}, "i": {"type": "Integer", "example": 4.7},
            "n": {"type": "number", "example": 5.5}, "b": {"type": "boolean", "example": false},
            "o": {"type": "object"}, "untyped": {}, "unknown": {"type": "null"}, "no-items": {"type": "array"}
        }});
        assert_eq!(json_text(&object(&schema)), r#"{"s":"hello","i":4,"n":5.5,"b":false,"o":{}}"#);
        assert_eq!(json_text(&object(&json!({"type": "string"}))), "{}");
    }

    #[test]
    fn random_values_are_in_their_ranges() {
        let property = |kind: &str| json!({"properties": {"x": {"type": kind, "example": {}}}});
        for _ in 0..200 {
            let text = object(&property("string"))["x"].as_str().unwrap().to_string();
            assert!((1..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase()));
            assert!((1..=10_000).contains(&object(&property("integer"))["x"].as_i64().unwrap()));
            assert!((0.0..=10_000.0).contains(&object(&property("number"))["x"].as_f64().unwrap()));
            assert!(object(&property("boolean"))["x"].is_boolean());
        }
        let list = json!({"properties": {"x": {"type": "array", "items": {"type": "string"}}}});
        assert!((1..=3).contains(&object(&list)["x"].as_array().unwrap().len()));
        let empty = json!({"properties": {"x": {"type": "array", "items": {"type": "?"}}}});
        assert_eq!(json_text(&object(&empty)), r#"{"x":{}}"#);
    }

    fn count(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
            Value::Object(members) => 1 + members.values().map(count).sum::<usize>(),
            _ => 1,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn never_more_than_the_bound(depth in 1usize..40) {
            let mut schema = json!({"type": "string"});
            for _ in 0..depth {
                schema = json!({"type": "array", "items": schema});
            }
            let made = object(&json!({"properties": {"x": schema}}));
            prop_assert!(count(&Value::Object(made)) <= MAX_VALUES + 1);
        }
    }
}
