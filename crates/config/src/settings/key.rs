//! The keys of config.yaml for its reference page. The surprise: nobody lists them; they are recorded while the defaults
//! are read, so that the page cannot drift from what is read.

use super::Settings;
use crate::document::Document;
use crate::environment::Environment;
use crate::section::Report;
use serde_json::Value;

/// One key that config.yaml may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// As `apisix.ssl.enable`. Keys within lists are not recorded.
    pub path: String,
    /// "boolean", "integer", "time", "size", "string", "list" …; "any" where the reader decides.
    pub kind: &'static str,
    /// As it would be written in YAML; none: nothing by default, or the default depends on other keys.
    pub default: Option<String>,
    /// The words that are allowed, where there are but a few.
    pub words: Vec<&'static str>,
    /// Why the key has no effect here; none for keys that have one.
    pub ignored: Option<String>,
}

impl Key {
    pub(crate) fn new(path: String) -> Key {
        Key { path, kind: "any", default: None, words: Vec::new(), ignored: None }
    }
}

/// Every key that is read, in the order of reading.
pub fn keys() -> Vec<Key> {
    let nothing = Document {
        file: "(keys)".into(),
        value: Value::Null,
        root: crate::position::Node::default(),
        notices: Vec::new(),
        outline: crate::document::Outline::default(),
    };
    let report = Report::recording(nothing.file.clone());
    let _: Settings = super::read(&nothing, &report, &Environment::Fixed(std::collections::HashMap::new()));
    report.keys.into_inner().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Key {
        keys().into_iter().find(|k| k.path == path).unwrap()
    }

    #[test]
    fn keys_have_their_kind_default_and_words() {
        let timeout = key("nginx_config.http.keepalive_timeout");
        assert_eq!((timeout.kind, timeout.default.as_deref()), ("time", Some("60s")));
        let router = key("apisix.router.http");
        assert_eq!((router.kind, router.default.as_deref()), ("string", Some("radixtree_host_uri")));
        assert!(router.words.contains(&"radixtree_uri"));
        assert_eq!(key("apisix.ssl").kind, "mapping");
        assert!(key("nginx_config.http_configuration_snippet").ignored.is_some_and(|why| why.contains("snippets")));
    }

    #[test]
    fn no_key_is_listed_twice() {
        let mut paths: Vec<String> = keys().into_iter().map(|k| k.path).collect();
        let all = paths.len();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), all);
    }
}
