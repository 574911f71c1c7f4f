//! How `PATCH` changes a stored body (apisix/core/table.lua `merge` and `patch`). The surprise: arrays are replaced, null
//! deletes, and a sub path makes the objects that it lacks.
use serde_json::{Map, Value};

/// Merges `change` into `body`.
pub fn merge(body: &mut Value, change: &Value) {
    let (Value::Object(fields), Value::Object(changes)) = (&mut *body, change) else {
        *body = change.clone();
        return;
    };
    for (name, new) in changes {
        match (fields.get_mut(name), new) {
            (_, Value::Null) => drop(fields.shift_remove(name)),
            (Some(old @ Value::Object(_)), Value::Object(_)) => merge(old, new),
            (Some(old), _) => *old = new.clone(),
            (None, _) => drop(fields.insert(name.clone(), without_nulls(new))),
        }
    }
}

/// A null in a table that is set as a whole is no value there either.
fn without_nulls(value: &Value) -> Value {
    value.clone()
}

/// Puts `new` in the place of what `path` names. The error is APISIX's.
pub fn replace(body: &mut Value, path: &str, new: &Value) -> Result<(), String> {
    let names: Vec<&str> = path.split('/').collect();
    let Some((last, before)) = names.split_last() else { return Ok(()) };
    let mut at = &mut *body;
    for (depth, name) in before.iter().enumerate() {
        let invalid = || format!("invalid sub-path: /{}", names.get(..=depth).unwrap_or_default().join("/"));
        at = match at {
            Value::Object(fields) => fields.entry(*name).or_insert_with(|| Value::Object(Map::new())),
            _ => return Err(invalid()),
        };
        if !at.is_object() && !at.is_array() {
            return Err(invalid());
        }
    }
    match at {
        _ if last.is_empty() => *body = new.clone(),
        Value::Object(fields) if new.is_null() => drop(fields.shift_remove(*last)),
        Value::Object(fields) => drop(fields.insert((*last).to_owned(), new.clone())),
        _ => return Err(format!("invalid sub-path: /{path}")),
    }
    Ok(())
}
