//! Writes. The surprise: a single write is a transaction of one operation; there is no other way to write.
use crate::key::Key;
use crate::state::Entry;
use serde::{Deserialize, Serialize};
use sluice_model::Body;
use std::time::Duration;

/// What a key must be like for a transaction to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Any,
    /// The key must not be there.
    Absent,
    /// The key must be there.
    Present,
    /// The key must have been written last by this revision.
    Revision(u64),
}

#[derive(Clone, Debug)]
pub enum Op {
    Put {
        key: Key,
        body: Body,
        expect: Expect,
        /// Time to live.
        ttl: Option<Duration>,
    },
    Delete {
        key: Key,
        expect: Expect,
    },
    /// Changes nothing: a condition alone, such as that a referenced upstream is still there.
    Check {
        key: Key,
        expect: Expect,
    },
}

impl Op {
    pub fn key(&self) -> &Key {
        match self {
            Op::Put { key, .. } | Op::Delete { key, .. } | Op::Check { key, .. } => key,
        }
    }

    pub fn expect(&self) -> Expect {
        match self {
            Op::Put { expect, .. } | Op::Delete { expect, .. } | Op::Check { expect, .. } => *expect,
        }
    }
}

/// Who wrote and why; kept in the history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The name of the Admin API key.
    pub author: String,
    /// `X-Message`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Several operations that happen together or not at all. A key occurs once at most among puts and deletes.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    pub ops: Vec<Op>,
    pub note: Note,
}

/// What a transaction did. One that changes nothing (deletes what is not there) keeps the revision.
#[derive(Clone, Debug)]
pub struct Committed {
    pub revision: u64,
    /// The entries written, in the order of the operations.
    pub written: Vec<Entry>,
    /// Those that were deleted, as they were.
    pub deleted: Vec<Entry>,
}
