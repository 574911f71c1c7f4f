//! What a transaction would do, worked out on a state before anything is written. The surprise: nothing here writes;
//! the state changes when the outcome's batch is given to [`State::advance`]. Until then later transactions can be
//! planned on top of it, on a [`Draft`].
use crate::history::{Change, Revision};
use crate::key::Key;
use crate::state::{Entry, State};
use crate::store::{Batch, Event, StoreError, check};
use crate::transaction::{Committed, Op, Transaction};
use std::collections::{HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a transaction can be planned on.
pub(crate) trait Ground {
    fn revision(&self) -> u64;
    fn entry(&self, key: &Key) -> Option<&Entry>;
}

impl Ground for State {
    fn revision(&self) -> u64 {
        self.revision
    }
    fn entry(&self, key: &Key) -> Option<&Entry> {
        self.get(key)
    }
}

/// A state with what was planned on it but is not in force yet.
pub(crate) struct Draft<'a> {
    state: &'a State,
    revision: u64,
    /// None: deleted.
    changed: HashMap<Key, Option<Entry>>,
}

impl<'a> Draft<'a> {
    pub(crate) fn on(state: &'a State) -> Draft<'a> {
        Draft { state, revision: state.revision, changed: HashMap::new() }
    }

    pub(crate) fn advance(&mut self, batch: &Batch) {
        for event in &batch.events {
            match event {
                Event::Put(entry) => drop(self.changed.insert(entry.key.clone(), Some(entry.clone()))),
                Event::Delete(key) => drop(self.changed.insert(key.clone(), None)),
            }
        }
        self.revision = batch.revision;
    }
}

impl Ground for Draft<'_> {
    fn revision(&self) -> u64 {
        self.revision
    }
    fn entry(&self, key: &Key) -> Option<&Entry> {
        self.changed.get(key).map_or_else(|| self.state.get(key), Option::as_ref)
    }
}

/// What a transaction comes to on a state: entries to write and to delete, and the history's record of it.
pub(crate) struct Outcome {
    pub committed: Committed,
    pub batch: Batch,
    pub record: Revision,
}

/// Checks all expectations and works out the change; the state is not touched.
pub(crate) fn plan(state: &State, transaction: &Transaction, now: SystemTime) -> Result<Outcome, StoreError> {
    plan_on(state, transaction, now)
}

/// As [`plan`], also on what is only planned itself.
pub(crate) fn plan_on(state: &impl Ground, transaction: &Transaction, now: SystemTime) -> Result<Outcome, StoreError> {
    let revision = state.revision() + 1;
    let mut events = Vec::new();
    let mut changes = Vec::new();
    let mut seen = HashSet::new();
    let mut committed = Committed { revision, written: Vec::new(), deleted: Vec::new() };
    for op in &transaction.ops {
        let old = state.entry(op.key());
        check(op.key(), old, op.expect())?;
        if transaction.ops.len() > 1 && !matches!(op, Op::Check { .. }) && !seen.insert(op.key()) {
            return Err(StoreError::Conflict { key: op.key().clone(), reason: "is written twice" });
        }
        let before = old.map(|entry| entry.body.as_str().to_owned());
        match op {
            Op::Check { .. } => {}
            Op::Put { key, body, ttl, .. } => {
                let created = old.map_or(revision, |entry| entry.created);
                // A time no clock reaches is none.
                let expires = ttl.and_then(|ttl| now.checked_add(ttl));
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
        committed.revision = state.revision();
    }
    let batch = Batch { revision: committed.revision, events };
    let record = Revision { revision: committed.revision, time, note: transaction.note.clone(), changes };
    Ok(Outcome { committed, batch, record })
}
