//! A store without a place: what API-driven standalone mode has in APISIX, and what tests use. The surprise: it keeps a
//! bounded history as the others do.
use crate::history::{Change, Revision};
use crate::state::{Entry, State};
use crate::store::{Batch, Condition, Event, Pending, Source, Store, StoreError, Watch, check};
use crate::transaction::{Committed, Op, Transaction};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Batches a watcher may be behind before it has to read everything anew.
pub(crate) const WATCH_QUEUE: usize = 1024;
/// Revisions kept.
const KEPT: usize = 1000;

#[derive(Default)]
pub struct MemoryStore {
    state: RwLock<State>,
    writing: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    history: VecDeque<Revision>,
    watchers: Watchers,
}

/// Those who follow a store.
#[derive(Default)]
pub(crate) struct Watchers {
    all: Vec<(mpsc::Sender<Watch>, bool)>,
}

impl Watchers {
    pub(crate) fn add(&mut self) -> mpsc::Receiver<Watch> {
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        self.all.push((sender, false));
        receiver
    }

    /// One whose queue is full loses batches and is told so as soon as there is room.
    pub(crate) fn tell(&mut self, batch: &Batch) {
        self.all.retain_mut(|(sender, behind)| {
            let watch = if *behind { Watch::Reset } else { Watch::Changed(batch.clone()) };
            match sender.try_send(watch) {
                Ok(()) => *behind = false,
                Err(mpsc::error::TrySendError::Full(_)) => *behind = true,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
            }
            true
        });
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

/// A record without the bodies.
pub(crate) fn outline(record: &Revision) -> Revision {
    let bare = |change: &Change| Change {
        key: change.key.clone(),
        before: change.before.as_ref().map(|_| String::new()),
        after: change.after.as_ref().map(|_| String::new()),
    };
    Revision { changes: record.changes.iter().map(bare).collect(), ..record.clone() }
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    fn apply(&self, transaction: &Transaction) -> Result<Committed, StoreError> {
        let mut written = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            plan(&state, transaction, SystemTime::now())?
        };
        if outcome.batch.events.is_empty() {
            return Ok(outcome.committed);
        }
        self.state.write().unwrap_or_else(PoisonError::into_inner).advance(&outcome.batch);
        written.watchers.tell(&outcome.batch);
        written.history.push_back(outcome.record);
        if written.history.len() > KEPT {
            written.history.pop_front();
        }
        Ok(outcome.committed)
    }

    fn past(&self, revision: u64) -> Result<State, StoreError> {
        let written = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state.read().unwrap_or_else(PoisonError::into_inner).clone();
        undo(&mut state, written.history.iter().rev(), revision)?;
        Ok(state)
    }
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
        if record.revision != state.revision {
            return Err(StoreError::Compacted(revision));
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
    }
    if state.revision == revision { Ok(()) } else { Err(StoreError::Compacted(revision)) }
}

impl Store for MemoryStore {
    fn source(&self) -> Source {
        Source::Memory
    }
    fn condition(&self) -> Condition {
        Condition::Fresh
    }
    fn state(&self) -> &RwLock<State> {
        &self.state
    }
    fn catch_up(&self) -> Pending<'_, u64> {
        Box::pin(async { Ok(self.state.read().unwrap_or_else(PoisonError::into_inner).revision) })
    }
    fn commit(&self, transaction: Transaction) -> Pending<'_, Committed> {
        Box::pin(async move { self.apply(&transaction) })
    }
    fn watch(&self) -> mpsc::Receiver<Watch> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).watchers.add()
    }
    fn revisions(&self, before: Option<u64>, limit: usize) -> Pending<'_, Vec<Revision>> {
        Box::pin(async move {
            let written = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let older = written.history.iter().rev().filter(|r| before.is_none_or(|before| r.revision < before));
            Ok(older.take(limit).map(outline).collect())
        })
    }
    fn revision(&self, revision: u64) -> Pending<'_, Option<Revision>> {
        Box::pin(async move {
            let written = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(written.history.iter().find(|r| r.revision == revision).cloned())
        })
    }
    fn state_at(&self, revision: u64) -> Pending<'_, State> {
        Box::pin(async move { self.past(revision) })
    }
}

#[cfg(test)]
mod tests;
