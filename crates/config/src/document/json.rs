//! JSON → value and positions: serde_json decides what is valid, then one pass over the valid text notes where each
//! value stands. The surprise: the pass may trust the text, yet never indexes it.

use super::{Document, Limits, Outline, Part, clamp};
use crate::position::{Children, Node, Position};
use crate::problem::{ConfigError, Notice};
use serde_json::Value;
use std::sync::Arc;

pub(super) fn parse(file: &Arc<str>, text: &str, limits: Limits) -> Result<Document, ConfigError> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let position = Position { line: clamp(error.line()).max(1), column: clamp(error.column()).max(1) };
        let message = error.to_string();
        let reason = message.split(" at line ").next().unwrap_or(&message);
        ConfigError::at(file, position, "", format!("not valid JSON: {reason}"))
    })?;
    let mut walker = Walker {
        text,
        offset: 0,
        line: 1,
        column: 1,
        file,
        notices: Vec::new(),
        nodes: 0,
        limits,
        outline: Outline::default(),
    };
    let root = walker.value("", 0)?;
    let outline = Outline { nodes: walker.nodes, ..walker.outline };
    Ok(Document { file: file.clone(), value, root, notices: walker.notices, outline })
}

struct Walker<'a> {
    text: &'a str,
    offset: usize,
    line: usize,
    column: usize,
    file: &'a Arc<str>,
    notices: Vec<Notice>,
    nodes: usize,
    limits: Limits,
    outline: Outline,
}

impl Walker<'_> {
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.as_bytes().get(self.offset).copied() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.step(),
                other => return other,
            }
        }
    }

    fn step(&mut self) {
        match self.text.as_bytes().get(self.offset) {
            Some(b'\n') => {
                self.line += 1;
                self.column = 1;
            }
            // Continuation bytes of a character do not count.
            Some(byte) if byte & 0xc0 == 0x80 => {}
            _ => self.column += 1,
        }
        self.offset += 1;
    }

    fn position(&self) -> Position {
        Position { line: clamp(self.line), column: clamp(self.column) }
    }

    fn value(&mut self, path: &str, depth: usize) -> Result<Node, ConfigError> {
        let first = self.peek();
        let position = self.position();
        self.nodes += 1;
        if depth > self.limits.depth {
            let message = format!("nested deeper than {} levels", self.limits.depth);
            return Err(ConfigError::at(self.file, position, path, message));
        }
        if self.nodes > self.limits.nodes {
            let message = format!("more than {} values in one file", self.limits.nodes);
            return Err(ConfigError::at(self.file, position, path, message));
        }
        let children = match first {
            Some(b'{') => self.object(path, depth)?,
            Some(b'[') => self.array(path, depth)?,
            Some(b'"') => {
                self.string();
                Children::None
            }
            _ => {
                while !matches!(
                    self.text.as_bytes().get(self.offset),
                    None | Some(b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t')
                ) {
                    self.step();
                }
                Children::None
            }
        };
        Ok(Node { position, children })
    }

    fn object(&mut self, path: &str, depth: usize) -> Result<Children, ConfigError> {
        let mut entries: Vec<(Box<str>, Node)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        self.step();
        while let Some(byte) = self.peek() {
            if byte != b'"' {
                self.step();
                if byte == b'}' {
                    break;
                }
                continue;
            }
            let position = self.position();
            let start = self.offset;
            self.string();
            let key: String =
                self.text.get(start..self.offset).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
            if depth == 0 {
                self.outline.parts.push(Part { key: key.as_str().into(), start, ..Part::default() });
            }
            self.peek();
            self.step(); // the colon
            let key_path = crate::position::join(path, &key);
            let mut node = self.value(&key_path, depth + 1)?;
            node.position = position;
            if !seen.insert(key.clone()) && self.notices.len() < 1000 {
                let text = "the key is given twice; the last value is used".to_owned();
                let file = self.file.clone();
                self.notices.push(Notice { file, position: Some(position), path: key_path, text, suggestion: None });
            }
            entries.push((key.into(), node));
        }
        Ok(Children::Entries(entries))
    }

    fn array(&mut self, path: &str, depth: usize) -> Result<Children, ConfigError> {
        let mut items = Vec::new();
        self.step();
        while let Some(byte) = self.peek() {
            match byte {
                b']' => {
                    if let (1, Some(part)) = (depth, self.outline.parts.last_mut()) {
                        part.end = Some(self.offset);
                    }
                    self.step();
                    break;
                }
                b',' => self.step(),
                _ => {
                    if depth <= 1 {
                        self.outline.item(self.offset);
                    }
                    let node = self.value(&format!("{path}[{}]", items.len()), depth + 1)?;
                    items.push(node);
                }
            }
        }
        Ok(Children::Items(items))
    }

    fn string(&mut self) {
        self.step();
        while let Some(byte) = self.text.as_bytes().get(self.offset).copied() {
            self.step();
            match byte {
                b'\\' => self.step(),
                b'"' => return,
                _ => {}
            }
        }
    }
}
