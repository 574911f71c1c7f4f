//! One object of a configuration, its order among others, and which objects a command is about. The surprise: the order of
//! kinds is that of writing, so that what is referred to is there first; deletion goes the other way.
use serde_json::Value;
use sluice_config::position::Node;
use sluice_config::problem::ConfigError;
use sluice_model::Kind;
use std::fmt;
use std::sync::Arc;

/// Kinds in the order in which they may be written one by one.
pub const WRITE_ORDER: [Kind; 14] = [
    Kind::Secret,
    Kind::Ssl,
    Kind::Proto,
    Kind::PluginMetadata,
    Kind::Upstream,
    Kind::Service,
    Kind::GraphqlCostDecoration,
    Kind::PluginConfig,
    Kind::ConsumerGroup,
    Kind::Consumer,
    Kind::Credential,
    Kind::GlobalRule,
    Kind::Route,
    Kind::StreamRoute,
];

/// Which object: its kind, and its id as in the store (`vault/1`, `anna/credentials/one`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub kind: Kind,
    pub id: String,
}

impl Key {
    pub fn new(kind: Kind, id: impl Into<String>) -> Key {
        Key { kind, id: id.into() }
    }

    /// The path below `/apisix/admin/`: `routes/1`, `consumers/anna/credentials/one`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.kind.parent().unwrap_or(self.kind).dir(), self.id)
    }

    /// Place of the kind in [`WRITE_ORDER`].
    pub fn rank(&self) -> usize {
        WRITE_ORDER.iter().position(|kind| *kind == self.kind).unwrap_or(WRITE_ORDER.len())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    /// By the order of writing, then by id.
    fn cmp(&self, other: &Key) -> std::cmp::Ordering {
        (self.rank(), &self.id).cmp(&(other.rank(), &other.id))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// Where an object stands in a file.
#[derive(Clone, Debug)]
pub struct Place {
    pub file: Arc<str>,
    /// `routes[0]`.
    pub path: String,
    pub node: Node,
}

impl Place {
    /// An error about the value at a JSON pointer within the object ("" for the object itself).
    pub fn error(&self, value: &Value, pointer: &str, message: impl Into<String>) -> ConfigError {
        let path = sluice_config::position::readable_path(&self.path, pointer, Some(value));
        ConfigError::at(&self.file, self.node.position_of(pointer), path, message)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = self.node.position;
        write!(f, "{}:{}:{}", self.file, position.line, position.column)
    }
}

/// An object as it was written in a file, or as an Admin API answered it.
#[derive(Clone, Debug)]
pub struct Object {
    pub key: Key,
    pub value: Value,
    /// None: from an Admin API.
    pub place: Option<Place>,
}

impl Object {
    /// `name`, or the first of `desc`, for people.
    pub fn name(&self) -> Option<&str> {
        self.value.get("name").and_then(Value::as_str)
    }
}

/// Which objects a command is about.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// All of these labels, with these values.
    pub labels: Vec<(String, String)>,
    /// Only these kinds; empty: all.
    pub include: Vec<Kind>,
    pub exclude: Vec<Kind>,
}

impl Selection {
    /// Whether objects of this kind are looked at. Credentials go with their consumers, and so on.
    pub fn has_kind(&self, kind: Kind) -> bool {
        let listed = |list: &[Kind]| list.contains(&kind) || kind.parent().is_some_and(|parent| list.contains(&parent));
        (self.include.is_empty() || listed(&self.include)) && !listed(&self.exclude)
    }

    pub fn has(&self, object: &Object) -> bool {
        let labels = &object.value["labels"];
        self.has_kind(object.key.kind)
            && self.labels.iter().all(|(name, value)| labels[name.as_str()].as_str() == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_become_paths_and_are_sorted_for_writing() {
        let route = Key::new(Kind::Route, "1");
        let credential = Key::new(Kind::Credential, "anna/credentials/one");
        assert_eq!(route.path(), "routes/1");
        assert_eq!(credential.path(), "consumers/anna/credentials/one");
        assert!(Key::new(Kind::Upstream, "9") < route && credential < route);
        for kind in Kind::ALL {
            assert!(WRITE_ORDER.contains(&kind), "{kind:?}");
        }
    }

    #[test]
    fn a_selection_is_by_kind_and_labels() {
        let object = |kind, labels| Object { key: Key::new(kind, "1"), value: json!({"labels": labels}), place: None };
        let all = Selection::default();
        assert!(all.has(&object(Kind::Route, json!({}))));
        let team = Selection { labels: vec![("team".into(), "pay".into())], ..Selection::default() };
        assert!(team.has(&object(Kind::Route, json!({"team": "pay", "x": "y"}))));
        assert!(!team.has(&object(Kind::Route, json!({"team": "other"}))));
        let some = Selection { include: vec![Kind::Consumer], ..Selection::default() };
        assert!(some.has_kind(Kind::Credential) && !some.has_kind(Kind::Route));
        let others = Selection { exclude: vec![Kind::Route], ..Selection::default() };
        assert!(others.has_kind(Kind::Service) && !others.has_kind(Kind::Route));
    }
}
