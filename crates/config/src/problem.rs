//! What can be wrong with a configuration file: errors (the file is not used) and notices (it is used, but a part of it
//! has no effect). The surprise: both know their place in the file, and a load returns all of them, never the first.

use crate::position::Position;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// Something that keeps the file, or the object named by `path`, from being used.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
pub struct ConfigError {
    /// The file as it was named to us.
    pub file: Arc<str>,
    /// Absent when the file as a whole is meant (missing, not readable).
    #[serde(flatten)]
    pub position: Option<Position>,
    /// `routes[0].plugins.key-auth.header`; empty for the whole file.
    pub path: String,
    /// What was found and what was expected.
    pub message: String,
    /// The nearest valid word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

/// Something that was read but has no effect, or not the one its author may expect.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Notice {
    pub file: Arc<str>,
    #[serde(flatten)]
    pub position: Option<Position>,
    pub path: String,
    /// "ignored: …", "unknown key", …
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl ConfigError {
    /// An error about the file as a whole.
    pub fn of_file(file: &Arc<str>, message: impl Into<String>) -> ConfigError {
        ConfigError {
            file: file.clone(),
            position: None,
            path: String::new(),
            message: message.into(),
            suggestion: None,
        }
    }

    pub fn at(file: &Arc<str>, position: Position, path: impl Into<String>, message: impl Into<String>) -> ConfigError {
        ConfigError {
            file: file.clone(),
            position: Some(position),
            path: path.into(),
            message: message.into(),
            suggestion: None,
        }
    }

    pub fn suggest(mut self, nearest: Option<&str>) -> ConfigError {
        self.suggestion = nearest.map(str::to_owned);
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, &self.file, self.position, &self.path, &self.message, self.suggestion.as_deref())
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, &self.file, self.position, &self.path, &self.text, self.suggestion.as_deref())
    }
}

/// `file:line:column: path: text (did you mean "…"?)`: the form editors and CI annotate.
fn line(
    f: &mut fmt::Formatter<'_>,
    file: &str,
    position: Option<Position>,
    path: &str,
    text: &str,
    suggestion: Option<&str>,
) -> fmt::Result {
    f.write_str(file)?;
    if let Some(Position { line, column }) = position {
        write!(f, ":{line}:{column}")?;
    }
    f.write_str(": ")?;
    if !path.is_empty() {
        write!(f, "{path}: ")?;
    }
    f.write_str(text)?;
    match suggestion {
        Some(word) => write!(f, " (did you mean \"{word}\"?)"),
        None => Ok(()),
    }
}
