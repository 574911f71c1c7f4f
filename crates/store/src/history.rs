//! The stored configuration as a history: what each revision changed.
use crate::key::Key;
use crate::transaction::Note;
use serde::{Deserialize, Serialize};

/// One transaction, or one write by somebody else (APISIX on the same etcd).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    pub revision: u64,
    /// Seconds since the epoch.
    pub time: u64,
    #[serde(flatten)]
    pub note: Note,
    pub changes: Vec<Change>,
}

/// JSON texts before and after, as stored (secret fields stay encrypted).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub key: Key,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}
