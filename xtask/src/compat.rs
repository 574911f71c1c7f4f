//! `cargo xtask compat`: compares the schemas of Sluice with the dump of a running APISIX (`GET /v1/schema`).
//!
//! Differences that mean nothing are removed first: descriptions, `$ref` against inlined text, order of lists that are
//! sets, integer formats, an empty Lua table that is printed as `[]` or `{}`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::reference;

/// Compare the schema of every resource and plugin with those of a running APISIX.
#[derive(clap::Args)]
#[command(
    after_help = "Example: curl -s localhost:9090/v1/schema > apisix.json && cargo xtask compat --reference apisix.json"
)]
pub struct Args {
    /// What APISIX answers to `GET /v1/schema` on its control port
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
    /// Only this resource or plugin
    #[arg(long)]
    only: Option<String>,
}

pub fn run(args: &Args) -> Result<()> {
    let text = std::fs::read(&args.reference).with_context(|| args.reference.display().to_string())?;
    let theirs: Value = serde_json::from_slice(&text).with_context(|| args.reference.display().to_string())?;
    let ours: Value = serde_json::from_slice(&reference::ask("schema")?).context("sluice-reference schema")?;
    let (mut differences, mut compared, mut missing) = (Vec::new(), 0, Vec::new());
    for group in ["main", "plugins", "stream_plugins"] {
        for (name, want) in theirs[group].as_object().into_iter().flatten() {
            if args.only.as_ref().is_some_and(|only| only != name) {
                continue;
            }
            let label = format!("{group}.{name}");
            match ours[group].get(name) {
                None => missing.push(label),
                Some(got) => {
                    compared += 1;
                    compare(&label, &normal(want, want), &normal(got, got), &mut differences);
                }
            }
        }
    }
    for line in &differences {
        println!("{line}");
    }
    println!(
        "{compared} compared, {} differences, {} not in Sluice: {}",
        differences.len(),
        missing.len(),
        missing.join(" ")
    );
    if !differences.is_empty() {
        bail!("{} differences", differences.len());
    }
    Ok(())
}

/// Keywords that change nothing about what is valid.
const SILENT: &[&str] = &["description", "title", "$comment", "examples", "$schema", "$defs", "definitions"];
/// Lists whose order means nothing.
const SETS: &[&str] = &["required", "enum", "type", "encrypt_fields"];

/// The schema in one form; `root` is where `$ref` points into.
fn normal(schema: &Value, root: &Value) -> Value {
    normal_within(schema, root, 0)
}

fn normal_within(schema: &Value, root: &Value, depth: usize) -> Value {
    // Deeper than any schema here: a `$ref` that leads back to itself.
    if depth > 64 {
        return Value::Null;
    }
    match schema {
        Value::Object(map) => {
            if let Some(target) =
                map.get("$ref").and_then(Value::as_str).and_then(|r| root.pointer(r.trim_start_matches('#')))
            {
                let mut merged = normal_within(target, root, depth + 1);
                for (key, value) in map.iter().filter(|(key, _)| *key != "$ref") {
                    if let (Some(merged), false) = (merged.as_object_mut(), SILENT.contains(&key.as_str())) {
                        merged.insert(key.clone(), normal_within(value, root, depth + 1));
                    }
                }
                return merged;
            }
            let is_properties = |key: &str| key == "properties" || key == "patternProperties";
            let mut out = Map::new();
            for (key, value) in map {
                if SILENT.contains(&key.as_str()) && !value.is_object() {
                    continue;
                }
                if key == "$defs" || key == "definitions" {
                    continue;
                }
                if key == "format" && value.as_str().is_some_and(|f| f.contains("int") || f == "double" || f == "float")
                {
                    continue;
                }
                let mut value = if is_properties(key) {
                    let inner = value.as_object().map(|m| {
                        m.iter().map(|(k, v)| (k.clone(), normal_within(v, root, depth + 1))).collect::<Map<_, _>>()
                    });
                    Value::Object(inner.unwrap_or_default())
                } else {
                    normal_within(value, root, depth + 1)
                };
                if SETS.contains(&key.as_str())
                    && let Value::Array(all) = &mut value
                {
                    all.retain(|v| key != "type" || v != "null");
                    all.sort_by_key(Value::to_string);
                    if let ("type", [one]) = (key.as_str(), all.as_slice()) {
                        value = one.clone();
                    }
                }
                let nothing = value == empty() && (is_properties(key) || key == "required");
                if !(nothing || key == "default" && value.is_null()) {
                    out.insert(key.clone(), value);
                }
            }
            Value::Object(out)
        }
        Value::Array(all) if all.is_empty() => empty(),
        Value::Array(all) => Value::Array(all.iter().map(|v| normal_within(v, root, depth + 1)).collect()),
        // 1 and 1.0 are one number to JSON Schema.
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 9e15 => Value::from(float as i64),
            _ => schema.clone(),
        },
        other => other.clone(),
    }
}

fn empty() -> Value {
    Value::Object(Map::new())
}

fn compare(path: &str, want: &Value, got: &Value, differences: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            for (key, value) in want {
                match got.get(key) {
                    Some(there) => compare(&format!("{path}.{key}"), value, there, differences),
                    None => differences.push(format!("{path}.{key}: APISIX has {}, Sluice nothing", short(value))),
                }
            }
            for (key, value) in got.iter().filter(|(key, _)| !want.contains_key(*key)) {
                differences.push(format!("{path}.{key}: Sluice has {}, APISIX nothing", short(value)));
            }
        }
        (Value::Array(want), Value::Array(got)) if want.len() == got.len() => {
            for (index, (want, got)) in want.iter().zip(got).enumerate() {
                compare(&format!("{path}[{index}]"), want, got, differences);
            }
        }
        _ if want == got => {}
        _ => differences.push(format!("{path}: APISIX has {}, Sluice {}", short(want), short(got))),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(&text)),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn differences(want: &Value, got: &Value) -> Vec<String> {
        let mut all = Vec::new();
        compare("x", &normal(want, want), &normal(got, got), &mut all);
        all
    }

    #[test]
    fn what_means_the_same_is_no_difference() {
        let want = json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1, "description": "A"},
            "description": {"type": "string"}}, "required": ["a", "b"], "default": []});
        let got = json!({"type": ["object", "null"], "title": "T", "properties": {"a": {"$ref": "#/$defs/A"},
            "description": {"type": "string"}}, "required": ["b", "a"], "default": {},
            "$defs": {"A": {"type": "integer", "format": "uint32", "minimum": 1.0}}});
        assert_eq!(differences(&want, &got), Vec::<String>::new());
    }

    #[test]
    fn what_means_something_else_is_named() {
        let want = json!({"properties": {"a": {"minimum": 1, "default": 2}, "description": {"type": "string"}}, "enum": ["x", "y"]});
        let got = json!({"properties": {"a": {"minimum": 0, "maxLength": 3}}, "enum": ["x"]});
        let all = differences(&want, &got).join("\n");
        for part in [
            "x.properties.a.minimum: APISIX has 1, Sluice 0",
            "a.default",
            "a.maxLength",
            "properties.description",
            "x.enum",
        ] {
            assert!(all.contains(part), "{part} is missing in:\n{all}");
        }
    }
}
