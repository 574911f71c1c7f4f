//! Where each value of a document stands. A `Node` tree runs beside the `serde_json::Value` and holds positions alone;
//! the surprise: a value in a mapping has the position of its key, because that is the line people look for.

use serde::Serialize;
use serde_json::Value;

/// A place in a file: line and column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

/// The position of a value, and of everything in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub position: Position,
    pub children: Children,
}

/// The nodes below one node, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Children {
    #[default]
    None,
    Items(Vec<Node>),
    Entries(Vec<(Box<str>, Node)>),
}

impl Node {
    pub fn scalar(position: Position) -> Node {
        Node { position, children: Children::None }
    }

    /// The child under a key, or under an index written in decimal. Of a key given twice the last counts.
    pub fn child(&self, key: &str) -> Option<&Node> {
        match &self.children {
            Children::None => None,
            Children::Items(items) => items.get(key.parse::<usize>().ok()?),
            Children::Entries(entries) => entries.iter().rev().find(|(name, _)| &**name == key).map(|(_, node)| node),
        }
    }

    /// The position of a JSON pointer (RFC 6901); of its deepest existing ancestor when there is no such value, which
    /// is what an error about a missing key needs.
    pub fn position_of(&self, pointer: &str) -> Position {
        let mut node = self;
        for step in pointer.split('/').skip(1) {
            match node.child(&unescape(step)) {
                Some(child) => node = child,
                None => break,
            }
        }
        node.position
    }

    /// Takes the children of a sequence out.
    pub fn into_items(self) -> Vec<Node> {
        match self.children {
            Children::Items(items) => items,
            _ => Vec::new(),
        }
    }
}

/// A JSON pointer as people write paths: `/routes/0/plugins/key-auth` → `routes[0].plugins.key-auth`. `value` (if known)
/// tells indices from keys that are numbers.
pub fn readable_path(prefix: &str, pointer: &str, value: Option<&Value>) -> String {
    let mut path = prefix.to_owned();
    let mut at = value;
    for step in pointer.split('/').skip(1) {
        let step = unescape(step);
        let is_index = match at {
            Some(Value::Array(_)) => true,
            Some(_) => false,
            None => value.is_none() && step.bytes().all(|b| b.is_ascii_digit()) && !step.is_empty(),
        };
        at = match at {
            Some(Value::Array(items)) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            Some(Value::Object(map)) => map.get(&*step),
            _ => None,
        };
        path = if is_index { format!("{path}[{step}]") } else { join(&path, &step) };
    }
    path
}

/// `path.key`, or `key` at the root.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_read_as_people_write_them() {
        let value = json!({"routes": [{"nodes": {"1": 2}}]});
        assert_eq!(readable_path("", "/routes/0/nodes/1", Some(&value)), "routes[0].nodes.1");
        assert_eq!(readable_path("routes[3]", "/plugins/key-auth/header", None), "routes[3].plugins.key-auth.header");
        assert_eq!(readable_path("", "/a~1b", None), "a/b");
    }
}
