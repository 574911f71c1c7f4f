//! What a transaction would do, worked out on a state before anything is written. The surprise: nothing here writes;
//! the state changes when the outcome's batch is given to [`State::advance`].
use crate::history::{Change, Revision};
use crate::state::{Entry, State};
use crate::store::{Batch, Event, StoreError, check};
use crate::transaction::{Committed, Op, Transaction};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a transaction comes to on a state: entries to write and to delete, and the history's record of it.
pub(crate) struct Outcome {
    pub committed: Committed,
    pub batch: Batch,
    pub record: Revision,
}

/// Checks all expectations and works out the change; the state is not touched.
pub(crate) fn plan(state: &State, transaction: &Transaction, now: SystemTime) -> Result<Outcome, StoreError> {
    let revision = state.revision + 1;
    let mut events = Vec::new();
    let mut changes = Vec::new();
    let mut committed = Committed { revision, written: Vec::new(), deleted: Vec::new() };
    for op in &transaction.ops {
        let old = state.get(op.key());
        check(op.key(), old, op.expect())?;
        let before = old.map(|entry| entry.body.as_str().to_owned());
        match op {
            Op::Check { .. } => {}
            Op::Put { key, body, ttl, .. } => {
                let created = old.map_or(revision, |entry| entry.created);
                let expires = ttl.map(|ttl| now + ttl);
                let entry = Entry { key: key.clone(), body: body.clone(), created, modified: revision, expires };
                changes.push(Change { key: key.clone(), before, after: Some(body.as_str().to_owned()) });
                events.push(Event::Put(entry.clone()));
                committed.written.push(entry);
            }
            Op::Delete { key, .. } => {
                let Some(old) = old else { continue };
                changes.push(Change { key: key.clone(), before, after: None });
                events.push(Event::Delete(key.clone()));
                committed.deleted.push(old.clone());
            }
        }
    }
    let time = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if events.is_empty() {
        committed.revision = state.revision;
    }
    let batch = Batch { revision: committed.revision, events };
    let record = Revision { revision: committed.revision, time, note: transaction.note.clone(), changes };
    Ok(Outcome { committed, batch, record })
}
