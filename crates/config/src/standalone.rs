//! apisix.yaml and apisix.json: resources as written, each with its place in the file (apisix/core/config_yaml.lua).
//! The surprise: the YAML file is complete only with `#END` in its last ten bytes, and of two objects with one id the
//! later takes the earlier's place.

mod difference;
mod index;
mod source;

pub use source::{Changes, StandaloneSource, Update};

use crate::document::{Document, Limits, Outline};
use crate::environment::Environment;
use crate::position::{Node, Position, readable_path};
use crate::problem::{ConfigError, Notice};
use crate::suggestion::nearest;
use serde::Serialize;
use serde_json::Value;
use sluice_model::Kind;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Kinds that are keys of the file. Credentials stand among `consumers`, with ids `<username>/credentials/<id>`.
const FILE_KINDS: [Kind; 12] = [
    Kind::Route,
    Kind::Service,
    Kind::Upstream,
    Kind::PluginConfig,
    Kind::Consumer,
    Kind::ConsumerGroup,
    Kind::GlobalRule,
    Kind::PluginMetadata,
    Kind::Ssl,
    Kind::Proto,
    Kind::Secret,
    Kind::StreamRoute,
];

/// One resource as written, with its id filled in.
#[derive(Clone, Debug)]
pub struct RawObject {
    pub kind: Kind,
    /// `id`, else `username`, else `arr_<n>` with n from 1; of a credential `<username>/credentials/<id>`.
    pub id: String,
    /// The object; `id` in it is the string above.
    pub value: Value,
    /// `routes[0]`.
    pub path: String,
    /// Places of everything in the object.
    pub node: Node,
    pub file: Arc<str>,
}

impl RawObject {
    pub fn position(&self) -> Position {
        self.node.position
    }

    /// An error about the value at a JSON pointer within the object ("" for the object itself).
    pub fn error(&self, pointer: &str, message: impl Into<String>) -> ConfigError {
        let path = readable_path(&self.path, pointer, Some(&self.value));
        ConfigError::at(&self.file, self.node.position_of(pointer), path, message)
    }
}

/// A plugin named in the file's own `plugins` list, which overrides that of config.yaml.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PluginEntry {
    pub name: String,
    pub stream: bool,
}

/// A whole file.
#[derive(Clone, Debug)]
pub struct RawConfig {
    pub file: Arc<str>,
    /// In the order of the file, by kind.
    pub objects: Vec<RawObject>,
    /// None: config.yaml's list holds.
    pub plugins: Option<Vec<PluginEntry>>,
    pub notices: Vec<Notice>,
    /// Objects that are no objects: left out, the rest holds.
    pub errors: Vec<ConfigError>,
}

impl RawConfig {
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &RawObject> {
        self.objects.iter().filter(move |object| object.kind == kind)
    }
}

/// Reads apisix.yaml, or apisix.json by its extension.
pub struct StandaloneFile;

impl StandaloneFile {
    pub fn load(path: &Path, environment: &Environment) -> Result<RawConfig, Vec<ConfigError>> {
        let file: Arc<str> = path.to_string_lossy().into();
        let bytes = std::fs::read(path)
            .map_err(|error| vec![ConfigError::of_file(&file, format!("cannot be read: {error}"))])?;
        Self::parse(&file, &bytes, is_json(path), environment)
    }

    /// Reads a text; `file` is its name in messages. An error means that the file as a whole is not to be used.
    pub fn parse(
        file: &Arc<str>,
        bytes: &[u8],
        json: bool,
        environment: &Environment,
    ) -> Result<RawConfig, Vec<ConfigError>> {
        Self::parse_outlined(file, bytes, json, environment).map(|(config, _)| config)
    }

    fn parse_outlined(
        file: &Arc<str>,
        bytes: &[u8],
        json: bool,
        environment: &Environment,
    ) -> Result<(RawConfig, Outline), Vec<ConfigError>> {
        let mut document = if json {
            let mut document = Document::json(file, bytes, Limits::default())?;
            document.resolve_environment(environment)?;
            document
        } else {
            if !is_complete(bytes) {
                let message = "the file does not end with #END: it is taken as not completely written, and not used";
                return Err(vec![ConfigError::of_file(file, message)]);
            }
            Document::yaml_with_environment(file, bytes, environment, Limits::default())?
        };
        let outline = std::mem::take(&mut document.outline);
        Ok((collect(document)?, outline))
    }
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

/// Whether `#END`, followed by white space alone, stands in the last ten bytes.
pub fn is_complete(bytes: &[u8]) -> bool {
    let tail = bytes.get(bytes.len().saturating_sub(10)..).unwrap_or(bytes);
    tail.trim_ascii_end().ends_with(b"#END")
}

fn collect(document: Document) -> Result<RawConfig, Vec<ConfigError>> {
    let Document { file, value, root, notices, outline: _ } = document;
    let mut out = RawConfig { file, objects: Vec::new(), plugins: None, notices, errors: Vec::new() };
    let mut map = match value {
        Value::Object(map) => map,
        Value::Null => return Ok(out),
        _ => return Err(vec![ConfigError::at(&out.file, root.position, "", "expected a mapping of resources")]),
    };
    let entries = match root.children {
        crate::position::Children::Entries(entries) => entries,
        _ => Vec::new(),
    };
    // The last of a repeated key is the one in the value.
    let mut nodes: HashMap<Box<str>, Node> = entries.into_iter().collect();
    for kind in FILE_KINDS {
        let node = nodes.remove(kind.dir()).unwrap_or_default();
        match map.shift_remove(kind.dir()) {
            None | Some(Value::Null) => {}
            Some(Value::Array(values)) => collect_kind(&mut out, kind, values, node),
            Some(Value::Object(empty)) if empty.is_empty() => {}
            Some(_) => {
                let error = ConfigError::at(&out.file, node.position, kind.dir(), "expected a list of objects");
                out.errors.push(error);
            }
        }
    }
    if let Some(plugins) = map.shift_remove("plugins") {
        let node = nodes.remove("plugins").unwrap_or_default();
        out.plugins = read_plugins(&mut out, plugins, &node);
    }
    for (key, _) in map {
        // Written by the API-driven mode beside each kind (apisix/admin/standalone.lua).
        if key.ends_with("_conf_version") {
            continue;
        }
        let known = FILE_KINDS.iter().map(|kind| kind.dir()).chain(["plugins"]);
        out.notices.push(Notice {
            file: out.file.clone(),
            position: nodes.get(key.as_str()).map(|node| node.position),
            suggestion: nearest(&key, known).map(str::to_owned),
            path: key,
            text: "ignored: unknown kind of resource".to_owned(),
        });
    }
    Ok(out)
}

fn collect_kind(out: &mut RawConfig, kind: Kind, values: Vec<Value>, node: Node) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (index, (mut value, node)) in values.into_iter().zip(node.into_items()).enumerate() {
        let path = format!("{}[{index}]", kind.dir());
        let (kind, id) = match identify(kind, index, &mut value) {
            Ok(identity) => identity,
            Err((field, message)) => {
                let path = if field.is_empty() { path } else { format!("{path}.{field}") };
                let position = node.position_of(&format!("/{field}"));
                out.errors.push(ConfigError::at(&out.file, position, path, message));
                continue;
            }
        };
        let object = RawObject { kind, id, value, path, node, file: out.file.clone() };
        match seen.get(&object.id).and_then(|index| out.objects.get_mut(*index)) {
            Some(earlier) => {
                out.notices.push(Notice {
                    file: object.file.clone(),
                    position: Some(object.node.position_of("/id")),
                    path: object.path.clone(),
                    text: format!(
                        "the id {:?} is used before, in {}; this object replaces it",
                        object.id, earlier.path
                    ),
                    suggestion: None,
                });
                *earlier = object;
            }
            None => {
                seen.insert(object.id.clone(), out.objects.len());
                out.objects.push(object);
            }
        }
    }
}

/// Kind and id of an item of a list, whose value gets the id. An error names the field that is wrong ("": the item).
fn identify(kind: Kind, index: usize, value: &mut Value) -> Result<(Kind, String), (&'static str, String)> {
    let Value::Object(map) = value else {
        return Err(("", format!("expected an object, got {}", crate::section::describe(value))));
    };
    let id = match map.get("id").or_else(|| map.get("username")) {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        None | Some(Value::Null | Value::Bool(false)) => format!("arr_{}", index + 1),
        Some(other) => {
            return Err((
                "id",
                format!("expected a string or a number as id, got {}", crate::section::describe(other)),
            ));
        }
    };
    map.insert("id".to_owned(), Value::String(id.clone()));
    let kind = kind.of_id(&id);
    Ok((kind, id))
}

/// `plugins: [{name: x}, {name: y, stream: true}]` (apisix/plugin.lua).
fn read_plugins(out: &mut RawConfig, value: Value, node: &Node) -> Option<Vec<PluginEntry>> {
    let items = match value {
        Value::Array(items) => items,
        // `plugins:` without a value is the empty list.
        Value::Null => return Some(Vec::new()),
        _ => {
            out.errors.push(ConfigError::at(&out.file, node.position, "plugins", "expected a list of {name, stream}"));
            return None;
        }
    };
    let mut plugins = Vec::new();
    let before = out.errors.len();
    for (index, item) in items.iter().enumerate() {
        let stream = match item.get("stream") {
            None => Some(false),
            Some(stream) => stream.as_bool(),
        };
        match (item.get("name").and_then(Value::as_str), stream) {
            (Some(name), Some(stream)) => plugins.push(PluginEntry { name: name.to_owned(), stream }),
            _ => {
                let position = node.position_of(&format!("/{index}"));
                let message = format!("expected {{name, stream}}, got {}", crate::section::describe(item));
                out.errors.push(ConfigError::at(&out.file, position, format!("plugins[{index}]"), message));
            }
        }
    }
    // One wrong entry and the list as a whole is not used: config.yaml's holds.
    (out.errors.len() == before).then_some(plugins)
}

#[cfg(test)]
mod tests;
