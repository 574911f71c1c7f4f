//! An object as XML as xml2lua (`toXml`) lays it out, which APISIX answers with: one element per line, an array repeats
//! its own name. The surprises are that library's: text is not escaped, an empty object holds an empty line, and every
//! object or array indents its own content, and that of those after it, one level further.
use serde_json::{Map, Value};

/// The whole document, with `data` as its root.
pub fn document(object: &Map<String, Value>) -> String {
    let mut out = String::from("<data>");
    members(object, 1, &mut out);
    out.push_str("\n</data>\n");
    out
}

fn line(level: usize, out: &mut String) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', level * 2));
}

fn members(object: &Map<String, Value>, level: usize, out: &mut String) {
    let mut deeper = level;
    for (name, value) in object {
        match value {
            Value::Array(items) if !items.is_empty() => {
                deeper += 1;
                items.iter().for_each(|item| element(name, item, deeper, deeper + 1, out));
            }
            Value::Object(_) | Value::Array(_) => {
                deeper += 1;
                element(name, value, level, deeper + 1, out);
            }
            _ => element(name, value, level, level, out),
        }
    }
}

/// `inner` is the level of what stands inside of it.
fn element(name: &str, value: &Value, level: usize, inner: usize, out: &mut String) {
    line(level, out);
    match value {
        Value::Object(object) if !object.is_empty() => {
            out.push_str(&format!("<{name}>"));
            members(object, inner, out);
            line(level, out);
        }
        Value::Object(_) | Value::Array(_) => {
            out.push_str(&format!("<{name}>\n"));
            line(level, out);
        }
        Value::String(text) => out.push_str(&format!("<{name}>{text}")),
        other => out.push_str(&format!("<{name}>{other}")),
    }
    out.push_str(&format!("</{name}>"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn layout() {
        let value = json!({"a": "x", "b": {"c": 1, "z": {}}, "d": [true, {"e": 2.5}]});
        let text = "<data>\n  <a>x</a>\n  <b>\n      <c>1</c>\n      <z>\n\n      </z>\n  </b>\n      <d>true</d>\n      <d>\n        <e>2.5</e>\n      </d>\n</data>\n";
        assert_eq!(document(value.as_object().unwrap()), text);
    }
}
