//! Values as YAML that every reader takes the same way. The surprise: a text stands without quotes only where no reader of
//! YAML 1.1 or 1.2 could take it for anything else, so `on`, `1e3` and `010` are quoted.
use serde_json::Value;

/// A document: mappings and lists in block style, texts of several lines as blocks.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut out, map, 0),
        Value::Array(items) if !items.is_empty() => list(&mut out, items, 0),
        other => {
            scalar(&mut out, other, 0);
            out.push('\n');
        }
    }
    out
}

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

fn mapping(out: &mut String, map: &serde_json::Map<String, Value>, depth: usize) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 {
            indent(out, depth);
        }
        text(out, key);
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                indent(out, depth + 1);
                mapping(out, inner, depth + 1);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                indent(out, depth + 1);
                list(out, items, depth + 1);
            }
            other => {
                out.push(' ');
                scalar(out, other, depth + 1);
                out.push('\n');
            }
        }
    }
}

fn list(out: &mut String, items: &[Value], depth: usize) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            indent(out, depth);
        }
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => mapping(out, inner, depth + 1),
            Value::Array(inner) if !inner.is_empty() => list(out, inner, depth + 1),
            other => {
                scalar(out, other, depth + 1);
                out.push('\n');
            }
        }
    }
}

/// Without a line end behind it.
fn scalar(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::String(value) if is_block(value) => block(out, value, depth),
        Value::String(value) => text(out, value),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => out.push_str(&other.to_string()),
    }
}

fn text(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
    } else {
        // A JSON string is a double-quoted YAML scalar; DEL and C1 characters are not printable in YAML.
        let quoted = Value::String(text.to_owned()).to_string();
        for c in quoted.chars() {
            match c {
                '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                    out.push_str(&format!("\\u{:04x}", c as u32))
                }
                c => out.push(c),
            }
        }
    }
}

/// Whether a text is the same in every YAML without quotes.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 11] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"];
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'/' || b == b'_');
    let middle = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-.*+$".contains(&b));
    starts && middle && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn is_block(text: &str) -> bool {
    let lines = text.trim_end_matches('\n').split('\n');
    text.contains('\n')
        && !text.ends_with("\n\n")
        && text.chars().all(|c| c == '\n' || (c >= ' ' && !('\u{7f}'..='\u{a0}').contains(&c) && c < '\u{2000}'))
        && !text.starts_with([' ', '\n'])
        && lines.clone().all(|line| !line.ends_with(' '))
}

fn block(out: &mut String, text: &str, depth: usize) {
    out.push_str(if text.ends_with('\n') { "|" } else { "|-" });
    for line in text.trim_end_matches('\n').split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(out, depth);
            out.push_str(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use sluice_config::document::{Document, Limits};

    fn read(text: &str) -> Value {
        Document::yaml(&"t".into(), text.as_bytes(), Limits::default())
            .unwrap_or_else(|e| panic!("{e:?}\n{text}"))
            .value
    }

    #[test]
    fn documents_look_as_people_write_them() {
        let value = json!({"routes": [{"id": "1", "uri": "/a/*", "methods": ["GET"], "plugins": {"key-auth": {}},
            "upstream": {"nodes": {"127.0.0.1:80": 1}}, "on": "off", "cert": "-----\nab\n"}], "services": []});
        let text = "routes:\n  - id: \"1\"\n    uri: /a/*\n    methods:\n      - GET\n    plugins:\n      key-auth: {}\n    \
                    upstream:\n      nodes:\n        \"127.0.0.1:80\": 1\n    \"on\": \"off\"\n    cert: |\n      -----\n      ab\n\
                    services: []\n";
        assert_eq!(write(&value), text);
        assert_eq!(read(text), value);
    }

    fn values() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "[ -~]{0,12}",
            "[a-z\n #:|-]{0,20}",
            "\\PC{0,6}",
            Just("~".to_owned()),
            Just("1_0".to_owned()),
            Just("0x1f".to_owned()),
            Just("1:2".to_owned()),
            Just("---".to_owned()),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((text.clone(), inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn what_is_written_is_read_back(value in values()) {
            let text = write(&value);
            let back = read(&text);
            prop_assert_eq!(back, value, "{}", text);
        }
    }
}
