//! A YAML or JSON file as a value plus the position of everything in it. Values are typed as APISIX's YAML reader
//! (lyaml, YAML 1.1) types them, which is the surprise: a bare `on` is true, a bare `1:2` is 62, `010` is 8; of a key
//! given twice the last value counts (APISIX says nothing, here it is a notice).

mod json;
mod scalar;
#[cfg(test)]
mod tests;
mod yaml;

use crate::environment::{Environment, Substitution};
use crate::position::{Node, Position, readable_path};
use crate::problem::{ConfigError, Notice};
use serde_json::Value;
use std::sync::Arc;

/// Bounds on what one file may ask for; each is generous for configuration (100,000 routes take about 5 million nodes).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Size of the file in bytes.
    pub bytes: usize,
    /// Nesting of mappings and sequences; at most 120.
    pub depth: usize,
    /// Values in all.
    pub nodes: usize,
    /// Values that come into being by repeating an anchor (`*name`), against alias bombs.
    pub alias_nodes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 512 << 20, depth: 100, nodes: 50_000_000, alias_nodes: 500_000 }
    }
}

/// A parsed file.
#[derive(Clone, Debug)]
pub struct Document {
    pub file: Arc<str>,
    pub value: Value,
    pub root: Node,
    /// Keys given twice, documents after the first.
    pub notices: Vec<Notice>,
    pub(crate) outline: Outline,
}

/// Where the top level of a file and the items of its lists stand, for reading a later version in part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outline {
    /// In the order of the file. Of a file that is a list itself: one part without a key.
    pub parts: Vec<Part>,
    /// Values in all.
    pub nodes: usize,
    /// Anchors, aliases or a second document: parts of the file do not stand alone.
    pub linked: bool,
}

/// A key of the top level. Places are byte offsets into the text as written, without its byte order mark.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    pub key: Box<str>,
    pub start: usize,
    /// Where each item of its list begins; of a mapping that is its first key.
    pub items: Vec<usize>,
    /// Where the `]` of a JSON list stands.
    pub end: Option<usize>,
}

impl Outline {
    fn item(&mut self, offset: usize) {
        if self.parts.is_empty() {
            self.parts.push(Part::default());
        }
        if let Some(part) = self.parts.last_mut() {
            part.items.push(offset);
        }
    }
}

impl Document {
    /// Parses YAML as it stands.
    pub fn yaml(file: &Arc<str>, bytes: &[u8], limits: Limits) -> Result<Document, Vec<ConfigError>> {
        let text = text_of(file, bytes, limits)?;
        yaml::parse(file, text, None, limits).map_err(|error| vec![error])
    }

    /// Parses YAML after replacing `${{VAR}}` in its text, comments included (apisix/cli/file.lua
    /// `resolve_conf_var_in_text`). Positions are those of the text as written.
    pub fn yaml_with_environment(
        file: &Arc<str>,
        bytes: &[u8],
        environment: &Environment,
        limits: Limits,
    ) -> Result<Document, Vec<ConfigError>> {
        let text = text_of(file, bytes, limits)?;
        match environment.substitute(text) {
            Ok(None) => yaml::parse(file, text, None, limits).map_err(|error| vec![error]),
            Ok(Some(substitution)) => {
                yaml::parse(file, &substitution.text, Some((text, &substitution)), limits).map_err(|error| vec![error])
            }
            Err(missing) => Err(missing
                .into_iter()
                .map(|variable| {
                    let position = Lines::new(text).position(text, variable.offset);
                    ConfigError::at(file, position, "", variable.to_string())
                })
                .collect()),
        }
    }

    /// Parses JSON (strictly: RFC 8259).
    pub fn json(file: &Arc<str>, bytes: &[u8], limits: Limits) -> Result<Document, Vec<ConfigError>> {
        let text = text_of(file, bytes, limits)?;
        json::parse(file, text, limits).map_err(|error| vec![error])
    }

    /// Replaces variables in every string and key after parsing, as APISIX does in config.yaml and apisix.json.
    pub fn resolve_environment(&mut self, environment: &Environment) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        environment.resolve(&mut self.value, &mut self.root, "", &mut |position, path, message| {
            errors.push(ConfigError::at(&self.file, position, path, message));
        });
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// The position of a JSON pointer, or of its deepest existing ancestor.
    pub fn position_of(&self, pointer: &str) -> Position {
        self.root.position_of(pointer)
    }

    /// An error about the value at a JSON pointer.
    pub fn error(&self, pointer: &str, message: impl Into<String>) -> ConfigError {
        let path = readable_path("", pointer, Some(&self.value));
        ConfigError::at(&self.file, self.position_of(pointer), path, message)
    }
}

/// The text of a file without its byte order mark, if it is UTF-8 and not too large.
fn text_of<'a>(file: &Arc<str>, bytes: &'a [u8], limits: Limits) -> Result<&'a str, Vec<ConfigError>> {
    if bytes.len() > limits.bytes {
        let message = format!("the file has {} bytes, more than the {} allowed", bytes.len(), limits.bytes);
        return Err(vec![ConfigError::of_file(file, message)]);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default();
            let position = Lines::new(valid).position(valid, valid.len());
            Err(vec![ConfigError::at(file, position, "", "not UTF-8 text")])
        }
    }
}

/// Line starts of a text, to turn byte offsets into positions.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn new(text: &str) -> Lines {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset + 1);
        Lines { starts: std::iter::once(0).chain(ends).collect() }
    }

    fn position(&self, text: &str, offset: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|index| self.starts.get(index)).copied().unwrap_or(0);
        // Far to the right nobody counts characters, and counting them for each value of a one-line file is quadratic.
        let column = match text.get(start..offset) {
            Some(before) if before.len() <= 4096 => before.chars().count(),
            _ => offset.saturating_sub(start),
        };
        Position { line: clamp(line), column: clamp(column + 1) }
    }
}

fn clamp(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// How positions in the text that was parsed become positions in the file.
type Origin<'a> = Option<(&'a str, &'a Substitution)>;
