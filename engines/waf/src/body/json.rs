//! JSON: every scalar is an argument named by its path, `json.user.roles.0`, as Coraza names them.

use super::Body;
use serde_json::Value;

pub(crate) fn read(text: &[u8], depth: usize, limit: usize) -> Result<Body, String> {
    let value: Value = serde_json::from_slice(text).map_err(|e| format!("the JSON body is malformed: {e}"))?;
    let mut body = Body::default();
    walk(&value, "json".to_owned(), depth, limit, &mut body)?;
    Ok(body)
}

fn walk(value: &Value, path: String, depth: usize, limit: usize, body: &mut Body) -> Result<(), String> {
    if body.arguments.len() >= limit {
        return Err(format!("the JSON body has more than {limit} values"));
    }
    let deeper = || depth.checked_sub(1).ok_or_else(|| "the JSON body is too deep".to_owned());
    let text = match value {
        Value::Object(members) => {
            let depth = deeper()?;
            return members.iter().try_for_each(|(k, v)| walk(v, format!("{path}.{k}"), depth, limit, body));
        }
        Value::Array(items) => {
            let depth = deeper()?;
            return items.iter().enumerate().try_for_each(|(i, v)| walk(v, format!("{path}.{i}"), depth, limit, body));
        }
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    body.arguments.push((path.into_bytes(), text.into_bytes()));
    Ok(())
}
