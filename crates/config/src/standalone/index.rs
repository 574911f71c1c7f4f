//! Where each object of a file stands, so that a later version is parsed in part: only whole items of one list.
//!
//! The surprise is how narrow the conditions are. A list is indexed only if each item begins with `- ` on a line of its
//! own at one indentation (in JSON: if it is an array), and the text around a change must keep the parser in exactly
//! the state it was in before. Whatever is unusual is left to a parse of the whole file, which is always right.

use super::{FILE_KINDS, Outline, RawConfig, identify};
use crate::document::{Document, Limits, Part};
use crate::environment::Environment;
use crate::position::Position;
use foldhash::{HashSet, HashSetExt};
use serde_json::Value;
use sluice_model::{Body, Kind};
use std::sync::Arc;

/// An object of a list. Its text and its place are found through [`List`].
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub kind: Kind,
    pub id: Arc<str>,
    pub body: Body,
}

/// One list of the file (`routes`).
#[derive(Debug)]
pub(super) struct List {
    pub kind: Kind,
    pub items: Vec<Item>,
    /// Absent: this list cannot be read in part.
    pub layout: Option<Layout>,
}

/// Where the items of a list stand.
#[derive(Debug)]
pub(super) struct Layout {
    /// Byte offsets of the items: in YAML of their lines, in JSON of their first bytes. One for each item.
    pub starts: Vec<usize>,
    /// Where the last item ends: the next key's line, the end of the text, or the `]`.
    pub end: usize,
    /// Spaces before `- `.
    indent: usize,
    ids: HashSet<Arc<str>>,
    /// Items without an id of their own: they are numbered, and no other may come or go.
    numbered: usize,
}

/// What a change of the text comes to.
#[derive(Debug)]
pub(super) struct Patch {
    pub list: usize,
    /// Items that are replaced.
    pub from: usize,
    pub to: usize,
    pub items: Vec<Item>,
    /// Byte offsets of the new items in the new text.
    starts: Vec<usize>,
    numbered: usize,
    /// The text read again: where it starts, and its lines before and after.
    pub region_start: usize,
    pub old_lines: usize,
    pub new_lines: usize,
    pub nodes: usize,
}

/// How the file is to be read.
pub(super) struct Reading<'a> {
    pub file: &'a Arc<str>,
    pub json: bool,
    pub environment: &'a Environment,
}

/// The objects of a file that was read as a whole, by list.
pub(super) fn lists(text: &[u8], json: bool, raw: RawConfig, outline: &Outline) -> Vec<List> {
    let mut lists: Vec<List> =
        FILE_KINDS.iter().map(|kind| List { kind: *kind, items: Vec::new(), layout: None }).collect();
    for object in raw.objects {
        let kind = object.kind.parent().unwrap_or(object.kind);
        if let Some(list) = lists.iter_mut().find(|list| list.kind == kind) {
            list.items.push(Item { kind: object.kind, id: object.id.into(), body: Body::of(&object.value) });
        }
    }
    let mut keys: Vec<&str> = outline.parts.iter().map(|part| &*part.key).collect();
    keys.sort_unstable();
    let repeated = keys.windows(2).any(|pair| pair.first() == pair.last());
    // Whoever counts notices up to a limit must count all of them.
    if repeated || outline.linked || raw.notices.len() >= 1000 || !stands_alone(text, json) {
        return lists;
    }
    // Of stream routes the order counts, which a set of changes does not tell.
    for list in lists.iter_mut().filter(|list| list.kind != Kind::StreamRoute) {
        let Some(at) = outline.parts.iter().position(|part| *part.key == *list.kind.dir()) else { continue };
        let (Some(part), next) = (outline.parts.get(at), outline.parts.get(at + 1)) else { continue };
        list.layout = layout(text, json, part, next, &list.items);
    }
    lists
}

/// Whether no place of the text can change the meaning of another, but by YAML's structure.
fn stands_alone(text: &[u8], json: bool) -> bool {
    if text.starts_with("\u{feff}".as_bytes()) {
        return false;
    }
    if json {
        return true;
    }
    let Ok(text) = std::str::from_utf8(text) else { return false };
    // Directives change what tags mean further down.
    replaced_in_lines(text) && is_plain(text) && !text.starts_with('%') && !text.contains("\n%")
}

/// Whether each `${{` finds its `}}` on the same line.
fn replaced_in_lines(text: &str) -> bool {
    text.match_indices("${{").all(|(at, _)| {
        let line = text.get(at..).and_then(|rest| rest.split('\n').next());
        line.is_some_and(|line| line.contains("}}"))
    })
}

/// Line ends that everyone counts alike, and nothing that a parser takes for the end of the text.
fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let carriage_returns = bytes.iter().filter(|byte| **byte == b'\r').count();
    (carriage_returns == 0 || text.matches("\r\n").count() == carriage_returns) && !bytes.contains(&0)
}

fn layout(text: &[u8], json: bool, part: &Part, next: Option<&Part>, items: &[Item]) -> Option<Layout> {
    // Fewer objects than items: some share an id, or are no objects.
    if part.items.is_empty() || part.items.len() != items.len() {
        return None;
    }
    let (starts, end, indent) = if json {
        (part.items.clone(), part.end?, 0)
    } else {
        let starts = part.items.iter().map(|offset| line_start(text, *offset)).collect::<Vec<_>>();
        let line = text.get(*starts.first()?..)?;
        let indent = line.iter().take_while(|byte| **byte == b' ').count();
        let end = next.map_or(text.len(), |next| next.start);
        let whole_lines = end == text.len() || text.get(..end)?.ends_with(b"\n");
        let marked = starts.iter().all(|start| text.get(*start..).is_some_and(|line| is_marker(line, indent)));
        if !whole_lines || !marked {
            return None;
        }
        (starts, end, indent)
    };
    let ascending = starts.windows(2).all(|pair| pair.first() < pair.last());
    if !ascending || starts.last().is_none_or(|last| *last >= end) || end > text.len() {
        return None;
    }
    let mut ids = HashSet::with_capacity(items.len());
    let unique = items.iter().all(|item| ids.insert(item.id.clone()));
    let numbered = items.iter().enumerate().filter(|(index, item)| is_number(&item.id, *index)).count();
    unique.then_some(Layout { starts, end, indent, ids, numbered })
}

/// Whether this may be an id that the item got by its place. One that was written so is taken for it, too.
fn is_number(id: &str, index: usize) -> bool {
    id.strip_prefix("arr_").and_then(|number| number.parse().ok()) == Some(index + 1)
}

fn line_start(text: &[u8], offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1)
}

/// Whether a line begins an item: the indentation, then `- `.
fn is_marker(line: &[u8], indent: usize) -> bool {
    let spaces = line.get(..indent).is_some_and(|spaces| spaces.iter().all(|byte| *byte == b' '));
    spaces && line.get(indent..indent + 2) == Some(b"- ")
}

fn count_lines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

/// Reads `text[start..old_end]`, which became `new`, as items of one list. `None`: the whole file must be read.
pub(super) fn patch(
    reading: &Reading<'_>,
    lists: &[List],
    text: &[u8],
    start: usize,
    old_end: usize,
    new: &[u8],
) -> Option<Patch> {
    // The item's own mark must be the same as before.
    let mark = |layout: &Layout| if reading.json { 0 } else { layout.indent + 2 };
    let (at, list, layout) = lists.iter().enumerate().find_map(|(at, list)| {
        let layout = list.layout.as_ref()?;
        let inside = layout.starts.first()? + mark(layout) <= start && old_end <= layout.end;
        inside.then_some((at, list, layout))
    })?;
    let from = layout.starts.partition_point(|item| item + mark(layout) <= start).checked_sub(1)?;
    // The first item that is the same as before.
    let to = layout.starts.partition_point(|item| *item < old_end).max(from + 1);
    let region_start = *layout.starts.get(from)?;
    let region_end = layout.starts.get(to).copied().unwrap_or(layout.end);
    let old_region = text.get(region_start..region_end)?;
    let mut region = text.get(region_start..start)?.to_vec();
    region.extend_from_slice(new);
    region.extend_from_slice(text.get(old_end..region_end)?);
    let region = std::str::from_utf8(&region).ok()?;
    let last = to == layout.starts.len();
    let parsed = if reading.json {
        json_items(reading, region, last)?
    } else {
        let ends_with_line = region.ends_with('\n') || region_end == text.len();
        yaml_items(reading, region, layout.indent).filter(|_| ends_with_line)?
    };
    let mut items = Vec::with_capacity(parsed.values.len());
    let mut numbered = 0;
    for (index, mut value) in (from..).zip(parsed.values) {
        let (kind, id) = identify(list.kind, index, &mut value).ok()?;
        numbered += usize::from(is_number(&id, index));
        items.push(Item { kind, id: id.into(), body: Body::of(&value) });
    }
    let old_items = list.items.get(from..to)?;
    let same_count = items.len() == old_items.len();
    if items.is_empty() || !same_count && (layout.numbered > 0 || numbered > 0) {
        return None;
    }
    let mut seen = HashSet::new();
    for item in &items {
        let known = layout.ids.contains(&item.id) && !old_items.iter().any(|old| old.id == item.id);
        if known || !seen.insert(item.id.clone()) {
            return None;
        }
    }
    let old_numbered = old_items.iter().zip(from..).filter(|(item, index)| is_number(&item.id, *index)).count();
    Some(Patch {
        list: at,
        from,
        to,
        items,
        starts: parsed.starts.into_iter().map(|offset| region_start + offset).collect(),
        numbered: (layout.numbered + numbered).checked_sub(old_numbered)?,
        region_start,
        old_lines: count_lines(old_region),
        new_lines: count_lines(region.as_bytes()),
        nodes: parsed.nodes,
    })
}

struct Parsed {
    values: Vec<Value>,
    /// In the text that was parsed.
    starts: Vec<usize>,
    nodes: usize,
}

/// The bounds of a whole file, less what the list stands in.
fn limits() -> Limits {
    let limits = Limits::default();
    Limits { depth: limits.depth.saturating_sub(2), ..limits }
}

fn yaml_items(reading: &Reading<'_>, region: &str, indent: usize) -> Option<Parsed> {
    let substitution = reading.environment.substitute(region).ok()?;
    let text = substitution.as_ref().map_or(region, |substitution| &substitution.text);
    // The lines of both texts must be the same ones.
    let lines_kept = count_lines(text.as_bytes()) == count_lines(region.as_bytes());
    if !lines_kept || !replaced_in_lines(region) || text.contains('\t') || !is_plain(text) {
        return None;
    }
    // No line may reach the list's own level but those that begin an item.
    let (mut marks, mut starts) = (Vec::new(), Vec::new());
    let (mut offset, mut original_offset) = (0, 0);
    for (line, original) in text.split_inclusive('\n').zip(region.split_inclusive('\n')) {
        let content = line.trim_start_matches(' ');
        let spaces = line.len() - content.len();
        if spaces <= indent && !content.trim_end_matches(['\r', '\n']).is_empty() && !content.starts_with('#') {
            if !is_marker(line.as_bytes(), indent) || !is_marker(original.as_bytes(), indent) {
                return None;
            }
            marks.push(offset);
            starts.push(original_offset);
        }
        offset += line.len();
        original_offset += original.len();
    }
    let document = Document::yaml(reading.file, text.as_bytes(), limits()).ok()?;
    let (Value::Array(values), [part]) = (document.value, document.outline.parts.as_slice()) else { return None };
    let counts = [values.len(), part.items.len()];
    if document.outline.linked || !document.notices.is_empty() || counts != [marks.len(); 2] {
        return None;
    }
    // Each mark is one item's, not text within another.
    let ends = marks.iter().skip(1).copied().chain([text.len()]);
    let own = marks.iter().zip(ends).zip(&part.items).all(|((start, end), item)| (*start..end).contains(item));
    own.then_some(Parsed { values, starts, nodes: document.outline.nodes })
}

fn json_items(reading: &Reading<'_>, region: &str, last: bool) -> Option<Parsed> {
    let content = region.trim_end_matches([' ', '\t', '\r', '\n']);
    let content = if last { content } else { content.strip_suffix(',')? };
    let text = format!("[{content}]");
    let mut document = Document::json(reading.file, text.as_bytes(), limits()).ok()?;
    document.resolve_environment(reading.environment).ok()?;
    let (Value::Array(values), [part]) = (document.value, document.outline.parts.as_slice()) else { return None };
    if !document.notices.is_empty() || part.items.len() != values.len() {
        return None;
    }
    let starts = part.items.iter().map(|offset| offset.checked_sub(1)).collect::<Option<Vec<_>>>()?;
    // What was before the first item must be what stands there now.
    (starts.first() == Some(&0)).then_some(Parsed { values, starts, nodes: document.outline.nodes })
}

/// Puts a patch into the lists. `shift` turns an offset behind the change into that of the new text.
pub(super) fn apply(lists: &mut [List], patch: Patch, shift: impl Fn(usize) -> usize) {
    let Some(end) = lists.get(patch.list).and_then(|list| list.layout.as_ref()).map(|layout| layout.end) else {
        return;
    };
    for (index, list) in lists.iter_mut().enumerate() {
        let Some(layout) = &mut list.layout else { continue };
        let behind = layout.starts.first().is_some_and(|first| *first >= end);
        if index != patch.list && behind {
            layout.starts.iter_mut().for_each(|start| *start = shift(*start));
            layout.end = shift(layout.end);
        }
    }
    let Some(list) = lists.get_mut(patch.list) else { return };
    let Some(layout) = &mut list.layout else { return };
    for old in list.items.get(patch.from..patch.to).unwrap_or_default() {
        layout.ids.remove(&old.id);
    }
    layout.ids.extend(patch.items.iter().map(|item| item.id.clone()));
    layout.starts.iter_mut().skip(patch.to).for_each(|start| *start = shift(*start));
    layout.end = shift(layout.end);
    layout.starts.splice(patch.from..patch.to, patch.starts);
    layout.numbered = patch.numbered;
    list.items.splice(patch.from..patch.to, patch.items);
}

/// The position of a value (JSON pointer) in an item, by parsing its text again. `None` where that cannot tell.
pub(super) fn position(
    reading: &Reading<'_>,
    text: &[u8],
    layout: &Layout,
    index: usize,
    pointer: &str,
) -> Option<Position> {
    let start = *layout.starts.get(index)?;
    let end = layout.starts.get(index + 1).copied().unwrap_or(layout.end);
    let item = text.get(start..end)?;
    let base = Position { line: u32::try_from(count_lines(text.get(..start)?)).ok()?, column: 0 };
    if reading.json {
        let content = std::str::from_utf8(item).ok()?.trim_end_matches([' ', '\t', '\r', '\n', ',']);
        let document = Document::json(reading.file, content.as_bytes(), Limits::default()).ok()?;
        let found = document.root.position_of(pointer);
        let before = std::str::from_utf8(text.get(line_start(text, start)..start)?).ok()?;
        let column = if found.line == 1 { u32::try_from(before.chars().count()).ok()? } else { 0 };
        return Some(Position { line: base.line + found.line, column: column + found.column });
    }
    let document = Document::yaml_with_environment(reading.file, item, reading.environment, Limits::default()).ok()?;
    let found = document.root.into_items().into_iter().next()?.position_of(pointer);
    // What is empty stands where the next thing begins, and that may be outside.
    let outside = usize::try_from(found.line).ok()? > count_lines(item) && end < text.len();
    (!outside).then_some(Position { line: base.line + found.line, column: found.column })
}
