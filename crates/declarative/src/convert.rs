//! Other gateways' and tools' descriptions as APISIX's resources. The surprise: what has no equivalent is never left out in
//! silence; each such part is a note with its place and the reason.
pub mod deck;
mod deck_plugins;
pub mod openapi;

use crate::object::{Key, Object};
use serde::Serialize;
use serde_json::{Map, Value};
use sluice_config::document::{Document, Limits};
use sluice_config::problem::ConfigError;
use sluice_model::Kind;
use sluice_plugin::{Registry, Scope};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Something that was not carried over, or not exactly.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Note {
    /// Where, in the words of the input: `paths./pets.get.security`.
    pub at: String,
    pub text: String,
}

/// The result of a conversion.
#[derive(Debug, Default)]
pub struct Converted {
    pub objects: Vec<Object>,
    pub notes: Vec<Note>,
    ids: HashSet<Key>,
}

impl Converted {
    fn note(&mut self, at: impl Into<String>, text: impl Into<String>) {
        self.notes.push(Note { at: at.into(), text: text.into() });
    }

    /// Adds an object under an id made of `name`; the id it got.
    fn add(&mut self, kind: Kind, name: &str, value: Value) -> String {
        let wanted = slug(name);
        let mut id = wanted.clone();
        let mut number = 2;
        while !self.ids.insert(Key::new(kind, id.clone())) {
            id = format!("{wanted}-{number}");
            number += 1;
        }
        self.objects.push(Object { key: Key::new(kind, id.clone()), value, place: None });
        id
    }

    /// Adds an object whose id is given by the input.
    fn add_as(&mut self, kind: Kind, id: &str, value: Value) {
        self.ids.insert(Key::new(kind, id));
        self.objects.push(Object { key: Key::new(kind, id), value, place: None });
    }
}

/// Puts a plugin into `plugins` if it is known here and takes the configuration; else a note says why not.
fn put_plugin(
    out: &mut Converted,
    plugins: &mut Map<String, Value>,
    (name, scope): (&str, Scope),
    config: Value,
    at: &str,
    registry: &Registry,
) {
    if plugins.contains_key(name) {
        out.note(at, format!("{name} is there already; this one is not carried over"));
        return;
    }
    match registry.check(name, scope, &mut config.clone()) {
        Ok(()) => drop(plugins.insert(name.to_owned(), config)),
        Err(error) => out.note(at, format!("not carried over: {name}: {}", error.0)),
    }
}

/// Reads a YAML or JSON file.
pub fn read(path: &Path) -> Result<Value, Vec<ConfigError>> {
    let file: Arc<str> = path.to_string_lossy().into();
    let bytes =
        std::fs::read(path).map_err(|error| vec![ConfigError::of_file(&file, format!("cannot be read: {error}"))])?;
    let json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let document = if json {
        Document::json(&file, &bytes, Limits::default())
    } else {
        Document::yaml(&file, &bytes, Limits::default())
    };
    document.map(|document| document.value)
}

/// An id of at most 64 characters, as APISIX allows them: letters, digits, `-`, `_`, `.`.
fn slug(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        let c = if c.is_ascii_alphanumeric() || "_.".contains(c) { c } else { '-' };
        if !(c == '-' && (out.is_empty() || out.ends_with('-'))) {
            out.push(c);
        }
    }
    out.truncate(56);
    let out = out.trim_end_matches('-');
    if out.is_empty() { "unnamed".to_owned() } else { out.to_owned() }
}

/// Tags as labels: `{"tag-billing": "true"}`; a tag `team:pay` or `team=pay` as `{"team": "pay"}`.
fn labels(tags: &Value) -> Option<Value> {
    let tags = tags.as_array()?.iter().filter_map(Value::as_str);
    let labels: Map<String, Value> = tags
        .map(|tag| match tag.split_once([':', '=']) {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => (slug(name), slug(value).into()),
            _ => (format!("tag-{}", slug(tag)), "true".into()),
        })
        .collect();
    (!labels.is_empty()).then_some(Value::Object(labels))
}

/// Escapes what regular expressions take for something else.
fn quote(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if !(c.is_alphanumeric() || "/-_ ".contains(c)) {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

#[cfg(test)]
mod tests;
