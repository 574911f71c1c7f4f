//! Lists of media types. The surprise: APISIX's lists name types as they are written; ours in `compress` may end with `/*`
//! and do not mind case.
use serde::Deserialize;
use serde_json::{Value, json};

/// As configured: a list, or `"*"`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Config {
    These(Vec<String>),
    All(#[allow(dead_code, reason = "the schema lets nothing but `*` through")] String),
}

impl Config {
    /// A list of one.
    pub(crate) fn one(kind: &str) -> Config {
        Config::These(vec![kind.into()])
    }
}

/// The default of `gzip` and `brotli`.
pub(crate) fn one_type() -> Config {
    Config::one("text/html")
}

/// The schema of APISIX's `types`.
pub(crate) fn types_schema(description: Value) -> Value {
    json!({
        "anyOf": [{"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}, {"enum": ["*"]}],
        "default": ["text/html"],
        "description": description
    })
}

/// A compiled list.
pub(crate) struct Types {
    /// `None`: all.
    exact: Option<Box<[Box<[u8]>]>>,
}

impl Types {
    pub(crate) fn new(config: Config) -> Types {
        Types {
            exact: match config {
                Config::These(types) => Some(types.into_iter().map(|t| t.into_bytes().into()).collect()),
                Config::All(_) => None,
            },
        }
    }

    /// `content_type` may have parameters.
    pub(crate) fn has(&self, content_type: &[u8]) -> bool {
        let kind = content_type.split(|b| *b == b';').next().unwrap_or_default();
        self.exact.as_ref().is_none_or(|types| types.iter().any(|t| **t == *kind))
    }
}
