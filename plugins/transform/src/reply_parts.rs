//! What a configured answer is made of, in `mocking` and `fault-injection`: a status, and headers as an object of names
//! and values, `{"X-A": "text with $variables", "X-B": 1}`. Only text is searched for variables.
use serde_json::{Map, Value, json};
use sluice_expr::{Template, write_number};
use sluice_plugin::BuildError;

/// The schemas have no upper bound (apisix/plugins/mocking.lua); a status line has three digits.
pub fn status(status: u32) -> Result<u16, BuildError> {
    let fits = u16::try_from(status).ok().filter(|s| *s <= 999);
    fits.ok_or_else(|| BuildError(format!("{status} is not an HTTP status")))
}

/// Turns the schema of a property into APISIX's of such an object.
pub fn describe_headers(schema: &mut Value) {
    schema["minProperties"] = json!(1);
    schema["patternProperties"] = json!({"^[^:]+$": {"oneOf": [{"type": "string"}, {"type": "number"}]}});
}

/// Compiles the values. The schema has seen to it that they are text or numbers; a name with `:` or an empty one is not
/// looked at by the schema, nor is it a header.
pub fn headers(headers: &Map<String, Value>) -> Vec<(Box<str>, Template)> {
    let compiled = headers.iter().filter_map(|(name, value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => {
                let mut text = Vec::new();
                write_number(number.as_f64()?, &mut text);
                String::from_utf8(text).ok()?
            }
            _ => return None,
        };
        let fits = !name.is_empty() && !name.contains(':');
        fits.then(|| (name.as_str().into(), Template::compile(&text)))
    });
    compiled.collect()
}
