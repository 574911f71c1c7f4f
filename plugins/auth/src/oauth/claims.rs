//! Claims by their paths: `roles`, `realm_access.roles`. A claim whose own name has dots (`https://shop.test/roles`) is found first.
use serde_json::{Map, Value};

/// A path of names.
#[derive(Debug)]
pub struct Path {
    whole: String,
    names: Vec<String>,
}

impl Path {
    pub fn new(text: &str) -> Path {
        Path { whole: text.to_owned(), names: text.split('.').map(str::to_owned).collect() }
    }

    fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        if let Some(value) = claims.get(&self.whole) {
            return Some(value);
        }
        let (first, rest) = self.names.split_first()?;
        rest.iter().try_fold(claims.get(first)?, |value, name| value.get(name))
    }

    /// Whether a text of words, or a list, holds this one.
    pub fn holds(&self, claims: &Map<String, Value>, wanted: &str) -> bool {
        match self.find(claims) {
            Some(Value::String(words)) => words.split_ascii_whitespace().any(|word| word == wanted),
            Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(wanted)),
            _ => false,
        }
    }

    /// Whether it is this value, or a list that has it.
    pub fn is(&self, claims: &Map<String, Value>, wanted: &Value) -> bool {
        match self.find(claims) {
            Some(Value::Array(all)) if !wanted.is_array() => all.contains(wanted),
            Some(value) => value == wanted,
            None => false,
        }
    }

    /// As a field's value: a list of plain values with commas between them, anything deeper as JSON.
    pub fn text(&self, claims: &Map<String, Value>) -> Option<String> {
        let plain = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
            _ => None,
        };
        match self.find(claims)? {
            Value::Null => None,
            Value::Array(all) => {
                let parts: Option<Vec<String>> = all.iter().map(plain).collect();
                Some(parts.map_or_else(|| Value::Array(all.clone()).to_string(), |parts| parts.join(",")))
            }
            value => plain(value).or_else(|| Some(value.to_string())),
        }
    }
}
