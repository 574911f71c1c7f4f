//! A JSON Schema validator with the behaviour and the wording of the one APISIX uses (api7/jsonschema): first error only,
//! and defaults are injected while validating. Surprises kept because users see them: an empty array passes as an object
//! and an empty object as an array (Lua cannot tell them apart), `null` counts as present, and a string that is a secret
//! reference (`$secret://`, `$env://`) passes wherever a string may stand (apisix/secret.lua: `is_secret_ref`).
//!
//! Deliberate difference: defaults injected by a branch of `oneOf`/`anyOf`/`if`/`not` that does not match are taken
//! back. APISIX leaves those that its unordered walk had reached before the mismatch.

mod check;
mod compile;
mod lua;
mod nearest;
mod pattern;
#[cfg(test)]
mod tests;

use serde_json::Value;
use std::fmt;

/// A schema compiled once, to check many values.
pub struct Schema {
    root: compile::Node,
    document: Value,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.document).finish()
    }
}

impl Schema {
    /// Compiles a draft-07-like document. Nesting is limited to 64 levels; only local `$ref`s (`#/…`) are followed.
    pub fn new(document: Value) -> Result<Schema, SchemaError> {
        let root = compile::compile(&document)?;
        Ok(Schema { root, document })
    }

    /// The document that the schema was compiled from.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Injects defaults into `value` and reports the first violation. A rejected value may have some defaults already.
    pub fn check(&self, value: &mut Value) -> Result<(), Violation> {
        check::check(&self.root, value).map_err(|failure| failure.finish())
    }
}

/// Why a schema document cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    #[error("{path}: a schema must be an object or a boolean")]
    NotASchema { path: String },
    #[error("{path}: invalid JSON type: {found}")]
    Type { path: String, found: String },
    #[error("{path}: `{keyword}` has an invalid value")]
    Keyword { path: String, keyword: String },
    #[error("{path}: pattern {pattern:?} does not compile: {reason}")]
    Pattern { path: String, pattern: String, reason: String },
    #[error("{path}: reference not found: {reference}")]
    Reference { path: String, reference: String },
    #[error("{path}: nested deeper than {limit} levels or endlessly recursive")]
    Depth { path: String, limit: usize },
}

/// The first reason why a value does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// APISIX's words, e.g. `property "uri" is required`.
    pub message: String,
    /// JSON pointer of the offending value, `""` for the value as a whole.
    pub path: String,
    /// What would have been accepted, where that can be said shortly.
    pub expected: Option<String>,
    /// For an unknown property or enum value: the accepted form nearest to what was written.
    pub nearest: Option<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Violation {}
