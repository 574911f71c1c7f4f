//! The attributes of a JSON Schema as a Markdown table: one row per property, nested ones as `a.b`, items of lists as
//! `a[]`. The surprise: `_meta` is left out, as every plugin has it.

use serde_json::Value;
use std::fmt::Write as _;

/// Nesting that is shown; schemas here are not recursive, but a page must end.
const DEEPEST: usize = 6;

/// The table, or a sentence where there is nothing to configure.
pub fn attributes(schema: &Value) -> String {
    let mut rows = String::new();
    walk(schema, "", 0, &mut rows);
    if rows.is_empty() {
        return "No attributes.\n".to_owned();
    }
    let mut out =
        "| attribute | type | required | default | valid | description |\n|---|---|---|---|---|---|\n".to_owned();
    out.push_str(&rows);
    for (keyword, says) in [
        ("oneOf", "Exactly one of these must hold"),
        ("anyOf", "At least one of these must hold"),
        ("allOf", "All of these must hold"),
        ("not", "Must not hold"),
    ] {
        if let Some(rule) = schema.get(keyword) {
            let _ = write!(out, "\n{says}:\n\n```json\n{}\n```\n", serde_json::to_string(rule).unwrap_or_default());
        }
    }
    if let Some(rule) = schema.get("if") {
        let rule = serde_json::json!({"if": rule, "then": schema.get("then"), "else": schema.get("else")});
        let _ = write!(
            out,
            "\nDepending on a condition:\n\n```json\n{}\n```\n",
            serde_json::to_string(&rule).unwrap_or_default()
        );
    }
    out
}

fn walk(schema: &Value, prefix: &str, depth: usize, rows: &mut String) {
    if depth > DEEPEST {
        return;
    }
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if prefix.is_empty() && name == "_meta" {
            continue;
        }
        let path = format!("{prefix}{name}");
        row(&path, property, required.contains(&name.as_str()), rows);
        below(property, &path, depth, rows);
    }
    for (pattern, property) in schema["patternProperties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}/{pattern}/");
        row(&path, property, false, rows);
        below(property, &path, depth, rows);
    }
}

fn below(property: &Value, path: &str, depth: usize, rows: &mut String) {
    walk(property, &format!("{path}."), depth + 1, rows);
    if property["items"].is_object() {
        walk(&property["items"], &format!("{path}[]."), depth + 1, rows);
    }
}

fn row(path: &str, property: &Value, required: bool, rows: &mut String) {
    let default = property.get("default").map(|d| code(&d.to_string())).unwrap_or_default();
    let about = property["description"].as_str().unwrap_or_default();
    let _ = writeln!(
        rows,
        "| {} | {} | {} | {default} | {} | {} |",
        code(path),
        kind(property),
        if required { "yes" } else { "" },
        valid(property),
        cell(about)
    );
}

fn kind(property: &Value) -> String {
    match &property["type"] {
        Value::String(one) if one == "array" => match kind(&property["items"]).as_str() {
            "" => "array".to_owned(),
            of => format!("array of {of}"),
        },
        Value::String(one) => one.clone(),
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => {
            let choices = ["oneOf", "anyOf"].iter().filter_map(|k| property.get(k)?.as_array()).flatten();
            let mut kinds: Vec<String> = choices.map(kind).filter(|k| !k.is_empty()).collect();
            kinds.dedup();
            kinds.join(" or ")
        }
    }
}

/// What the keywords allow, in words.
fn valid(property: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(values) = property["enum"].as_array() {
        parts.push(values.iter().map(|v| code(&v.to_string())).collect::<Vec<_>>().join(", "));
    }
    if let Some(value) = property.get("const") {
        parts.push(code(&value.to_string()));
    }
    let bounds = [
        ("minimum", "≥ "),
        ("exclusiveMinimum", "> "),
        ("maximum", "≤ "),
        ("exclusiveMaximum", "< "),
        ("minLength", "length ≥ "),
        ("maxLength", "length ≤ "),
        ("minItems", "items ≥ "),
        ("maxItems", "items ≤ "),
        ("minProperties", "keys ≥ "),
        ("maxProperties", "keys ≤ "),
    ];
    for (keyword, sign) in bounds {
        if let Some(bound) = property.get(keyword).filter(|b| b.is_number()) {
            parts.push(format!("{sign}{bound}"));
        }
    }
    if property["uniqueItems"] == true {
        parts.push("no item twice".to_owned());
    }
    if let Some(pattern) = property["pattern"].as_str() {
        parts.push(format!("pattern {}", code(pattern)));
    }
    if let Some(values) = property["items"]["enum"].as_array() {
        parts.push(format!("items: {}", values.iter().map(|v| code(&v.to_string())).collect::<Vec<_>>().join(", ")));
    }
    parts.join("; ")
}

/// Text within a cell.
pub fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// Code within a cell. A backtick in it needs a longer fence.
pub fn code(text: &str) -> String {
    let text = text.replace('|', "\\|").replace(['\n', '\r'], " ");
    if text.contains('`') { format!("`` {text} ``") } else { format!("`{text}`") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_carry_what_the_schema_says() {
        let table = attributes(&json!({
            "properties": {
                "_meta": {"type": "object"},
                "count": {"type": "integer", "minimum": 1, "default": 5, "description": "How\nmany | a\nwindow"},
                "rules": {"type": "array", "items": {"type": "object", "required": ["key"],
                    "properties": {"key": {"type": "string", "pattern": "^a|b$"}}}},
                "policy": {"enum": ["local", "redis"], "type": "string"},
                "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]}
            },
            "required": ["count"],
            "oneOf": [{"required": ["count"]}, {"required": ["rules"]}]
        }));
        for line in [
            "| `count` | integer | yes | `5` | ≥ 1 | How many \\| a window |",
            "| `rules` | array of object |  |  |  |  |",
            "| `rules[].key` | string | yes |  | pattern `^a\\|b$` |  |",
            "| `policy` | string |  |  | `\"local\"`, `\"redis\"` |  |",
            "| `either` | string or integer |  |  |  |  |",
            "Exactly one of these must hold:",
        ] {
            assert!(table.contains(line), "{line}\n{table}");
        }
        assert!(!table.contains("_meta"));
        assert_eq!(attributes(&json!({"type": "object"})), "No attributes.\n");
    }
}
