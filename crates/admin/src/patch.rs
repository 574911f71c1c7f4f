//! How `PATCH` changes a stored body (apisix/core/table.lua `merge` and `patch`). The surprise: arrays are replaced, null
//! deletes (but stays in objects that are new as a whole, for the schema to refuse), and a sub path makes the objects that it lacks.
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
            (None, _) => drop(fields.insert(name.clone(), new.clone())),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_merged_arrays_replaced_nulls_delete() {
        let mut body = json!({"a": {"b": 1, "c": 2}, "list": [1, 2], "gone": 1, "text": "x"});
        merge(&mut body, &json!({"a": {"c": null, "d": {"e": null}}, "list": [3], "gone": null, "text": {"n": 1}}));
        assert_eq!(body, json!({"a": {"b": 1, "d": {"e": null}}, "list": [3], "text": {"n": 1}}));
    }

    #[test]
    fn a_sub_path_makes_what_it_lacks() {
        let mut body = json!({"uri": "/a", "upstream": {"nodes": {"a:80": 1}}});
        replace(&mut body, "upstream/nodes", &json!({"b:80": 1})).unwrap();
        replace(&mut body, "labels/team", &json!("x")).unwrap();
        assert_eq!(body, json!({"uri": "/a", "upstream": {"nodes": {"b:80": 1}}, "labels": {"team": "x"}}));
        replace(&mut body, "labels/team", &Value::Null).unwrap();
        assert_eq!(body["labels"], json!({}));
        assert_eq!(replace(&mut body, "uri/x/y", &json!(1)), Err("invalid sub-path: /uri".to_owned()));
    }
}
