//! Typed reading of one mapping of config.yaml. The surprise: a wrong value is reported and its default is returned, so
//! that reading goes on and finds every other mistake; keys nobody asked for are reported when the section ends.

use crate::position::{Node, Position, join};
use crate::problem::{ConfigError, Notice};
use crate::settings::key::Key;
use crate::suggestion::nearest;
use crate::unit::{parse_size, parse_time};
use serde_json::Value;
use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Where problems gather while a file is read.
pub(crate) struct Report {
    pub file: Arc<str>,
    pub errors: RefCell<Vec<ConfigError>>,
    pub notices: RefCell<Vec<Notice>>,
    /// The keys that were asked for; none: nobody wants to know.
    pub keys: RefCell<Option<Vec<Key>>>,
}

impl Report {
    pub fn new(file: Arc<str>) -> Report {
        Report { file, errors: RefCell::default(), notices: RefCell::default(), keys: RefCell::default() }
    }

    /// One that records the keys that are asked for ([`crate::settings::key::keys`]).
    pub fn recording(file: Arc<str>) -> Report {
        Report { keys: RefCell::new(Some(Vec::new())), ..Report::new(file) }
    }

    pub fn error(&self, position: Position, path: &str, message: impl Into<String>, suggestion: Option<&str>) {
        let error = ConfigError::at(&self.file, position, path, message).suggest(suggestion);
        self.errors.borrow_mut().push(error);
    }

    pub fn notice(&self, position: Position, path: &str, text: impl Into<String>, suggestion: Option<&str>) {
        self.notices.borrow_mut().push(Notice {
            file: self.file.clone(),
            position: Some(position),
            path: path.to_owned(),
            text: text.into(),
            suggestion: suggestion.map(str::to_owned),
        });
    }
}

/// One value with its place and path.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    pub value: &'a Value,
    pub node: &'a Node,
    pub path: String,
    pub report: &'a Report,
}

impl<'a> Field<'a> {
    pub fn error(&self, message: impl Into<String>) {
        self.report.error(self.node.position, &self.path, message, None);
    }

    pub fn expected(&self, what: &str) {
        self.error(format!("expected {what}, got {}", describe(self.value)));
    }

    pub fn items(&self) -> Vec<Field<'a>> {
        let Value::Array(values) = self.value else { return Vec::new() };
        values
            .iter()
            .enumerate()
            .map(|(index, value)| Field {
                value,
                node: self.node.child(&index.to_string()).unwrap_or(self.node),
                path: format!("{}[{index}]", self.path),
                report: self.report,
            })
            .collect()
    }

    pub fn section(&self) -> Section<'a> {
        if !matches!(self.value, Value::Object(_) | Value::Null) {
            self.expected("a mapping");
        }
        Section { field: Some(self.clone()), report: self.report, path: self.path.clone(), seen: RefCell::default() }
    }

    pub fn strings(&self) -> Option<Vec<String>> {
        let Value::Array(values) = self.value else {
            self.expected("a list of strings");
            return None;
        };
        let mut out = Vec::with_capacity(values.len());
        for item in self.items() {
            match item.value.as_str() {
                Some(text) => out.push(text.to_owned()),
                None => item.expected("a string"),
            }
        }
        Some(out)
    }
}

/// The kind of a value and, where it is short, the value.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("boolean {value}"),
        Value::Number(value) => format!("number {value}"),
        Value::String(text) if text.chars().count() <= 40 => format!("string {text:?}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// A mapping, present or not.
pub(crate) struct Section<'a> {
    field: Option<Field<'a>>,
    pub report: &'a Report,
    path: String,
    seen: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    pub fn root(value: &'a Value, node: &'a Node, report: &'a Report) -> Section<'a> {
        Field { value, node, path: String::new(), report }.section()
    }

    /// Adds to what is recorded of a key.
    fn note(&self, key: &str, change: impl FnOnce(&mut Key)) {
        let mut keys = self.report.keys.borrow_mut();
        let Some(keys) = keys.as_mut() else { return };
        let path = join(&self.path, key);
        match keys.iter_mut().find(|known| known.path == path) {
            Some(known) => change(known),
            None => {
                let mut known = Key::new(path);
                change(&mut known);
                keys.push(known);
            }
        }
    }

    fn note_kind(&self, key: &str, kind: &'static str, default: impl FnOnce() -> Option<String>) {
        self.note(key, |known| {
            known.kind = kind;
            if let Some(default) = default() {
                known.default = Some(default);
            }
        });
    }

    /// The value under a key; `null` counts as absent (it removes the default in APISIX).
    pub fn field(&self, key: &'static str) -> Option<Field<'a>> {
        self.seen.borrow_mut().push(key);
        self.note(key, |_| {});
        let field = self.field.as_ref()?;
        let value = field.value.get(key).filter(|value| !value.is_null())?;
        let node = field.node.child(key).unwrap_or(field.node);
        Some(Field { value, node, path: join(&self.path, key), report: self.report })
    }

    pub fn section(&self, key: &'static str) -> Section<'a> {
        self.note_kind(key, "mapping", || None);
        match self.field(key) {
            Some(field) => field.section(),
            None => Section { field: None, report: self.report, path: join(&self.path, key), seen: RefCell::default() },
        }
    }

    pub fn is_present(&self) -> bool {
        self.field.as_ref().is_some_and(|field| field.value.is_object())
    }

    /// Whether the key is there with the value `null`.
    pub fn is_removed(&self, key: &str) -> bool {
        self.field.as_ref().is_some_and(|field| matches!(field.value.get(key), Some(Value::Null)))
    }

    pub fn boolean(&self, key: &'static str, default: bool) -> bool {
        self.note_kind(key, "boolean", || Some(default.to_string()));
        let Some(field) = self.field(key) else { return default };
        field.value.as_bool().unwrap_or_else(|| {
            field.expected("true or false");
            default
        })
    }

    /// nginx's "on" and "off" (unquoted they are booleans in YAML).
    pub fn switch(&self, key: &'static str, default: bool) -> bool {
        self.note_kind(key, "on or off", || Some(if default { "on" } else { "off" }.to_owned()));
        let Some(field) = self.field(key) else { return default };
        match field.value {
            Value::Bool(value) => *value,
            Value::String(text) if text == "on" => true,
            Value::String(text) if text == "off" => false,
            _ => {
                field.expected("on or off");
                default
            }
        }
    }

    pub fn integer(&self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> u64 {
        self.note_kind(key, "integer", || Some(default.to_string()));
        self.optional_integer(key, range).unwrap_or(default)
    }

    pub fn optional_integer(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        self.note_kind(key, "integer", || None);
        let field = self.field(key)?;
        let value = field.value.as_u64().filter(|value| range.contains(value));
        if value.is_none() {
            let what = match range.end() {
                &u64::MAX => format!("an integer of at least {}", range.start()),
                end => format!("an integer from {} to {end}", range.start()),
            };
            field.expected(&what);
        }
        value
    }

    pub fn port(&self, key: &'static str) -> Option<u16> {
        self.optional_integer(key, 1..=65535).and_then(|port| u16::try_from(port).ok())
    }

    pub fn optional_string(&self, key: &'static str) -> Option<String> {
        self.note_kind(key, "string", || None);
        let field = self.field(key)?;
        let text = field.value.as_str().map(str::to_owned);
        if text.is_none() {
            field.expected("a string");
        }
        text
    }

    pub fn string(&self, key: &'static str, default: &str) -> String {
        self.note_kind(key, "string", || Some(default.to_owned()));
        self.optional_string(key).unwrap_or_else(|| default.to_owned())
    }

    /// One of a few words.
    pub fn choice<T: Copy + PartialEq>(&self, key: &'static str, words: &[(&'static str, T)], default: T) -> T {
        self.note(key, |known| {
            known.kind = "string";
            known.words = words.iter().map(|(word, _)| *word).collect();
            known.default = words.iter().find(|(_, value)| *value == default).map(|(word, _)| (*word).to_owned());
        });
        let Some(field) = self.field(key) else { return default };
        let text = field.value.as_str().unwrap_or_default();
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => *value,
            None => {
                let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                let message = format!("expected {}, got {}", names.join(" or "), describe(field.value));
                self.report.error(field.node.position, &field.path, message, nearest(text, names.iter().copied()));
                default
            }
        }
    }

    /// An nginx time; a bare number counts seconds.
    pub fn time(&self, key: &'static str, default: Duration) -> Duration {
        self.note_kind(key, "time", || Some(format!("{}s", default.as_secs())));
        let Some(field) = self.field(key) else { return default };
        let parsed = match field.value {
            Value::Number(number) => number.as_u64().map(Duration::from_secs),
            Value::String(text) => parse_time(text),
            _ => None,
        };
        parsed.unwrap_or_else(|| {
            field.expected("a time such as 60s, 1h30m or 500ms");
            default
        })
    }

    /// An nginx size in bytes.
    pub fn size(&self, key: &'static str, default: u64) -> u64 {
        self.note_kind(key, "size", || Some(default.to_string()));
        let Some(field) = self.field(key) else { return default };
        let parsed = match field.value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => parse_size(text),
            _ => None,
        };
        parsed.unwrap_or_else(|| {
            field.expected("a size such as 0, 16k or 10m");
            default
        })
    }

    pub fn raw(&self, key: &'static str) -> Value {
        self.field(key).map_or(Value::Null, |field| field.value.clone())
    }

    pub fn items(&self, key: &'static str) -> Option<Vec<Field<'a>>> {
        self.note_kind(key, "list", || None);
        let field = self.field(key)?;
        if !field.value.is_array() {
            field.expected("a list");
            return None;
        }
        Some(field.items())
    }

    /// Keys that are valid in APISIX and mean nothing here.
    pub fn ignore(&self, keys: &[&'static str], why: &str) {
        for key in keys {
            self.note(key, |known| known.ignored = Some(why.to_owned()));
            let Some(field) = self.field(key) else { continue };
            let empty = match field.value {
                Value::String(text) => text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#')),
                _ => false,
            };
            if !empty {
                self.report.notice(field.node.position, &field.path, format!("ignored: {why}"), None);
            }
        }
    }

    /// Reports the keys nobody asked for.
    pub fn finish(&self) {
        let Some(Field { value: Value::Object(map), node, .. }) = &self.field else { return };
        let seen = self.seen.borrow();
        for key in map.keys().filter(|key| !seen.contains(&key.as_str())) {
            let position = node.child(key).unwrap_or(node).position;
            let path = join(&self.path, key);
            self.report.notice(position, &path, "ignored: unknown key", nearest(key, seen.iter().copied()));
        }
    }
}
