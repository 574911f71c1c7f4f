//! YAML events → value and positions. The surprise: what an alias repeats has the positions of its anchor, so an error
//! in it points at the text to be mended.

use super::{Document, Limits, Lines, Origin, Outline, Part, clamp, scalar};
use crate::position::{Children, Node, Position, join};
use crate::problem::{ConfigError, Notice};
use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;

pub(super) fn parse(file: &Arc<str>, text: &str, origin: Origin<'_>, limits: Limits) -> Result<Document, ConfigError> {
    let depth = limits.depth.min(120);
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: depth,
        block_nesting_limit: depth,
        simple_key_max_lookahead: 8192,
    };
    let mut builder = Builder {
        file,
        events: Parser::new_from_str_with_options(text, options),
        origin: origin.map(|(original, substitution)| (original, substitution, Lines::new(original))),
        limits: Limits { depth, ..limits },
        anchors: HashMap::new(),
        notices: Vec::new(),
        nodes: 0,
        alias_nodes: 0,
        outline: Outline::default(),
    };
    let (value, root) = builder.document()?;
    let outline = Outline { nodes: builder.nodes, ..builder.outline };
    Ok(Document { file: file.clone(), value, root, notices: builder.notices, outline })
}

struct Builder<'a> {
    file: &'a Arc<str>,
    events: Parser<'a, StrInput<'a>>,
    origin: Option<(&'a str, &'a crate::environment::Substitution, Lines)>,
    limits: Limits,
    /// What each anchor stands for, and how many values that is.
    anchors: HashMap<usize, (Value, Node, usize)>,
    notices: Vec<Notice>,
    nodes: usize,
    alias_nodes: usize,
    outline: Outline,
}

type Item<'a> = (Event<'a>, Span);

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<(Value, Node), ConfigError> {
        let mut content = None;
        let mut documents = 0;
        while let Some(item) = self.next()? {
            match item.0 {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents == 2 {
                        self.outline.linked = true;
                        let position = self.position(&item.1.start);
                        let text = "ignored: only the first YAML document of a file is read".to_owned();
                        self.notice(position, "", text);
                        break;
                    }
                }
                _ => content = Some(self.node(item, "", 0)?),
            }
        }
        let start = Position { line: 1, column: 1 };
        Ok(content.unwrap_or((Value::Null, Node::scalar(start))))
    }

    fn next(&mut self) -> Result<Option<Item<'a>>, ConfigError> {
        match self.events.next_event() {
            None => Ok(None),
            Some(Ok(item)) => Ok(Some(item)),
            Some(Err(error)) => {
                let position = self.position(error.marker());
                Err(ConfigError::at(self.file, position, "", format!("not valid YAML: {}", error.info())))
            }
        }
    }

    fn expect_next(&mut self, position: Position) -> Result<Item<'a>, ConfigError> {
        self.next()?.ok_or_else(|| ConfigError::at(self.file, position, "", "not valid YAML: the file ends too early"))
    }

    fn node(&mut self, (event, span): Item<'a>, path: &str, depth: usize) -> Result<(Value, Node), ConfigError> {
        let position = self.position(&span.start);
        let nodes_before = self.nodes;
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            return Err(self.fail(position, path, format!("more than {} values in one file", self.limits.nodes)));
        }
        if depth > self.limits.depth {
            return Err(self.fail(position, path, format!("nested deeper than {} levels", self.limits.depth)));
        }
        let (value, node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.scalar(&text, style, tag.as_deref(), position, path)?;
                (value, Node::scalar(position), anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let (mut values, mut nodes) = (Vec::new(), Vec::new());
                loop {
                    let item = self.expect_next(position)?;
                    if matches!(item.0, Event::SequenceEnd) {
                        break;
                    }
                    if depth <= 1 {
                        let offset = self.offset(&item.1.start);
                        self.outline.item(offset);
                    }
                    let (value, node) = self.node(item, &format!("{path}[{}]", values.len()), depth + 1)?;
                    values.push(value);
                    nodes.push(node);
                }
                (Value::Array(values), Node { position, children: Children::Items(nodes) }, anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                let (value, node) = self.mapping(position, path, depth)?;
                (value, node, anchor)
            }
            Event::Alias(anchor) => return self.alias(anchor, position, path),
            _ => return Err(self.fail(position, path, "not valid YAML: a value was expected here".to_owned())),
        };
        if anchor != 0 {
            self.outline.linked = true;
            self.anchors.insert(anchor, (value.clone(), node.clone(), self.nodes - nodes_before));
        }
        Ok((value, node))
    }

    fn mapping(&mut self, position: Position, path: &str, depth: usize) -> Result<(Value, Node), ConfigError> {
        let mut map = Map::new();
        let mut entries: Vec<(Box<str>, Node)> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.expect_next(position)?;
            let key_position = self.position(&span.start);
            let (key, plain) = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, style, anchor, _) => {
                    if anchor != 0 {
                        self.outline.linked = true;
                        let key = (Value::String(text.clone().into_owned()), Node::scalar(key_position), 1);
                        self.anchors.insert(anchor, key);
                    }
                    (text.into_owned(), style == ScalarStyle::Plain)
                }
                Event::Alias(anchor) => match self.alias(anchor, key_position, path)?.0 {
                    Value::String(text) => (text, false),
                    Value::Number(number) => (number.to_string(), false),
                    _ => return Err(self.fail(key_position, path, "a key must be a string or a number".to_owned())),
                },
                _ => return Err(self.fail(key_position, path, "a key must be a string or a number".to_owned())),
            };
            if depth == 0 {
                let start = self.offset(&span.start);
                self.outline.parts.push(Part { key: key.as_str().into(), start, ..Part::default() });
            }
            let value_item = self.expect_next(key_position)?;
            let key_path = join(path, &key);
            let (value, mut node) = self.node(value_item, &key_path, depth + 1)?;
            if plain && key == "<<" {
                merged.push((value, node, key_position));
                continue;
            }
            node.position = key_position;
            if map.insert(key.clone(), value).is_some() {
                self.notice(key_position, &key_path, "the key is given twice; the last value is used".to_owned());
            }
            entries.push((key.into(), node));
        }
        for (value, node, merge_position) in merged {
            let sources = match value {
                Value::Array(values) => values.into_iter().zip(node.into_items()).collect(),
                value => vec![(value, node)],
            };
            for (source, source_node) in sources {
                let Value::Object(source) = source else {
                    let message = "a merge key (<<) takes a mapping or a list of mappings".to_owned();
                    return Err(self.fail(merge_position, path, message));
                };
                for (key, value) in source {
                    if let Some(node) = source_node.child(&key).filter(|_| !map.contains_key(&key)) {
                        entries.push((key.as_str().into(), node.clone()));
                        map.insert(key, value);
                    }
                }
            }
        }
        Ok((Value::Object(map), Node { position, children: Children::Entries(entries) }))
    }

    fn alias(&mut self, anchor: usize, position: Position, path: &str) -> Result<(Value, Node), ConfigError> {
        let Some((_, _, size)) = self.anchors.get(&anchor) else {
            return Err(self.fail(position, path, "an anchor cannot contain an alias of itself".to_owned()));
        };
        self.outline.linked = true;
        self.alias_nodes += size;
        self.nodes += size;
        if self.alias_nodes > self.limits.alias_nodes {
            let message = format!("aliases repeat more than {} values", self.limits.alias_nodes);
            return Err(self.fail(position, path, message));
        }
        match self.anchors.get(&anchor) {
            Some((value, node, _)) => Ok((value.clone(), node.clone())),
            None => Ok((Value::Null, Node::scalar(position))),
        }
    }

    fn scalar(
        &self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        position: Position,
        path: &str,
    ) -> Result<Value, ConfigError> {
        let bad = |kind: &str| self.fail(position, path, format!("{text:?} is not of its tagged type {kind}"));
        match tag.and_then(Tag::core_suffix) {
            Some("str" | "binary") => Ok(Value::String(text.to_owned())),
            Some("null") => Ok(Value::Null),
            Some(kind @ ("int" | "float")) => scalar::number(text).map(Value::Number).ok_or_else(|| bad(kind)),
            Some("bool") => match scalar::resolve(text) {
                value @ Value::Bool(_) => Ok(value),
                _ => Err(bad("bool")),
            },
            _ if style == ScalarStyle::Plain => Ok(scalar::resolve(text)),
            _ => Ok(Value::String(text.to_owned())),
        }
    }

    fn position(&self, marker: &Marker) -> Position {
        match (&self.origin, marker.byte_offset()) {
            (Some((original, substitution, lines)), Some(offset)) => {
                lines.position(original, substitution.original_offset(offset))
            }
            _ => Position { line: clamp(marker.line()), column: clamp(marker.col() + 1) },
        }
    }

    /// A byte offset in the text as written.
    fn offset(&mut self, marker: &Marker) -> usize {
        match (marker.byte_offset(), &self.origin) {
            (Some(offset), Some((_, substitution, _))) => substitution.original_offset(offset),
            (Some(offset), None) => offset,
            (None, _) => {
                self.outline.linked = true;
                0
            }
        }
    }

    fn fail(&self, position: Position, path: &str, message: String) -> ConfigError {
        ConfigError::at(self.file, position, path, message)
    }

    fn notice(&mut self, position: Position, path: &str, text: String) {
        // A file of nothing but repeated keys must not grow a list without end.
        if self.notices.len() < 1000 {
            let notice = Notice {
                file: self.file.clone(),
                position: Some(position),
                path: path.to_owned(),
                text,
                suggestion: None,
            };
            self.notices.push(notice);
        }
    }
}
