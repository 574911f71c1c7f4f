//! A resource's JSON as it is stored. The surprise: it stays text. A parsed tree takes five times the memory, and one
//! hundred thousand routes are kept; readers parse what they need and let it go.
use serde_json::Value;
use std::sync::Arc;

/// JSON text, cheap to clone. It may come from a store that others write to: it is JSON only once it was parsed.
#[derive(Clone, PartialEq, Eq)]
pub struct Body(Arc<str>);

impl Body {
    pub fn of(value: &Value) -> Body {
        Body(value.to_string().into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parsed text. Errors: it is not JSON.
    pub fn parse(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// The parsed text; null where it is not JSON, which no resource can be.
    pub fn value(&self) -> Value {
        self.parse().unwrap_or_default()
    }
}

impl From<&str> for Body {
    fn from(text: &str) -> Body {
        Body(text.into())
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Body(text.into())
    }
}

impl From<Value> for Body {
    fn from(value: Value) -> Body {
        Body::of(&value)
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keeps_the_text_and_parses_on_demand() {
        let body = Body::from("{ \"a\":1.0 }");
        assert_eq!(body.as_str(), "{ \"a\":1.0 }");
        assert_eq!(body.value(), json!({"a": 1.0}));
        assert!(Body::from("{").parse().is_err());
        assert_eq!(Body::from("{").value(), Value::Null);
    }
}
