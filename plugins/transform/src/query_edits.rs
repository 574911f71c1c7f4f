//! Edits of a query: arguments removed, set and added. The surprise: what is not edited stays as it was sent, byte by byte.
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_expr::Template;
use sluice_http::target::decode;
use sluice_plugin::Context;

use crate::proxy_rewrite::value_text;

/// As configured.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    clear: bool,
    #[serde(default)]
    remove: Vec<String>,
    #[serde(default)]
    set: Map<String, Value>,
    #[serde(default)]
    add: Map<String, Value>,
}

/// The schema of [`Config`].
pub(crate) fn schema() -> Value {
    let values = |text: &str| {
        json!({
            "description": text, "type": "object", "minProperties": 1,
            "additionalProperties": {"oneOf": [{"type": "string"}, {"type": "number"}]}
        })
    };
    json!({
        "description": "Changes of the query, in this order.",
        "type": "object", "minProperties": 1, "additionalProperties": false,
        "properties": {
            "clear": {"description": "Removes all arguments of the client.", "type": "boolean", "default": false},
            "remove": {
                "description": "Arguments that go.",
                "type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}
            },
            "set": values("Arguments that have this value alone; may hold variables."),
            "add": values("Arguments that come behind the others; may hold variables.")
        }
    })
}

/// Compiled edits.
pub(crate) struct QueryEdits {
    clear: bool,
    remove: Box<[Box<[u8]>]>,
    set: Box<[(Box<[u8]>, Template)]>,
    add: Box<[(Box<[u8]>, Template)]>,
}

impl QueryEdits {
    pub(crate) fn compile(config: &Config) -> QueryEdits {
        let fields = |map: &Map<String, Value>| {
            map.iter().map(|(name, value)| (name.as_bytes().into(), Template::compile(&value_text(value)))).collect()
        };
        QueryEdits {
            clear: config.clear,
            remove: config.remove.iter().map(|name| name.as_bytes().into()).collect(),
            set: fields(&config.set),
            add: fields(&config.add),
        }
    }

    /// The query with all edits, without `?`.
    pub(crate) fn apply(&self, query: Option<&[u8]>, cx: &Context) -> Vec<u8> {
        let mut out = Vec::with_capacity(query.map_or(0, <[u8]>::len) + 32);
        let mut set = vec![false; self.set.len()];
        let before = query.filter(|_| !self.clear).unwrap_or_default();
        for argument in before.split(|b| *b == b'&').filter(|a| !a.is_empty()) {
            let name = decode(argument.split(|b| *b == b'=').next().unwrap_or_default());
            if self.remove.iter().any(|n| **n == *name) {
                continue;
            }
            match self.set.iter().position(|(n, _)| **n == *name) {
                None => push(&mut out, argument),
                // The new value stands where the first old one stood.
                Some(at) => {
                    if let (Some(done @ false), Some((name, value))) = (set.get_mut(at), self.set.get(at)) {
                        *done = true;
                        push_pair(&mut out, name, value, cx);
                    }
                }
            }
        }
        for ((name, value), done) in self.set.iter().zip(set) {
            if !done {
                push_pair(&mut out, name, value, cx);
            }
        }
        for (name, value) in &self.add {
            push_pair(&mut out, name, value, cx);
        }
        out
    }
}

fn push(out: &mut Vec<u8>, argument: &[u8]) {
    if !out.is_empty() {
        out.push(b'&');
    }
    out.extend_from_slice(argument);
}

fn push_pair(out: &mut Vec<u8>, name: &[u8], value: &Template, cx: &Context) {
    push(out, b"");
    escape(name, out);
    out.push(b'=');
    let mut text = Vec::new();
    value.render_into(cx, "", &mut text);
    escape(&text, out);
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        match byte {
            b'-' | b'_' | b'.' | b'~' => out.push(*byte),
            b if b.is_ascii_alphanumeric() => out.push(*b),
            b => out.extend([b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edited(config: Value, query: Option<&str>) -> String {
        let cx = Context::for_tests("GET", "/?who=a%26b");
        let edits = QueryEdits::compile(&Config::deserialize(config).unwrap());
        String::from_utf8(edits.apply(query.map(str::as_bytes), &cx)).unwrap()
    }

    #[test]
    fn edits_come_in_order_and_the_rest_stays() {
        let all = json!({"remove": ["x"], "set": {"a": "1", "new": "$arg_who"}, "add": {"a": 2}});
        assert_eq!(edited(all.clone(), Some("a=0&b=%20c&x=1&a=9&b")), "a=1&b=%20c&b&new=a%26b&a=2");
        assert_eq!(edited(all, None), "a=1&new=a%26b&a=2");
        assert_eq!(edited(json!({"clear": true, "add": {"a b": "c=d"}}), Some("a=0")), "a%20b=c%3Dd");
        assert_eq!(edited(json!({"remove": ["a"]}), Some("%61=1&&b")), "b");
    }

    proptest! {
        #[test]
        fn no_value_breaks_out_of_its_argument(value in "\\PC{0,20}") {
            let value = value.replace('$', "");
            let query = edited(json!({"set": {"a": value.clone()}}), Some("a=1&b=2"));
            let (first, rest) = query.split_once('&').unwrap();
            prop_assert_eq!(rest, "b=2");
            prop_assert_eq!(decode(first.strip_prefix("a=").unwrap().as_bytes()).into_owned(), value.into_bytes());
        }
    }
}
