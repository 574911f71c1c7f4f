//! The stored configuration as a history: what each revision changed.
use crate::key::Key;
use crate::state::{Entry, State};
use crate::store::StoreError;
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

/// A record without the bodies.
pub(crate) fn outline(record: &Revision) -> Revision {
    let bare = |change: &Change| Change {
        key: change.key.clone(),
        before: change.before.as_ref().map(|_| String::new()),
        after: change.after.as_ref().map(|_| String::new()),
    };
    Revision { changes: record.changes.iter().map(bare).collect(), ..record.clone() }
}

/// Takes a state back to a revision. `records`: the newest first. Times of creation are lost for what comes back.
pub(crate) fn undo<'a>(
    state: &mut State,
    records: impl Iterator<Item = &'a Revision>,
    revision: u64,
) -> Result<(), StoreError> {
    for record in records {
        if state.revision <= revision {
            break;
        }
        if !undo_one(state, record) {
            return Err(StoreError::Compacted(revision));
        }
    }
    if state.revision == revision { Ok(()) } else { Err(StoreError::Compacted(revision)) }
}

/// Takes back the revision a state stands at. False: the record is of another revision.
pub(crate) fn undo_one(state: &mut State, record: &Revision) -> bool {
    if record.revision != state.revision {
        return false;
    }
    for change in &record.changes {
        match &change.before {
            Some(body) => {
                let entry = Entry {
                    key: change.key.clone(),
                    body: body.as_str().into(),
                    created: 0,
                    modified: 0,
                    expires: None,
                };
                state.entries.insert(change.key.clone(), entry);
            }
            None => drop(state.entries.remove(&change.key)),
        }
    }
    state.revision = record.revision.saturating_sub(1);
    true
}
