//! A store without a place: what API-driven standalone mode has in APISIX, and what tests use. The surprise: it keeps a
//! bounded history as the others do.
use crate::history::{Revision, outline, undo};
use crate::plan::plan;
use crate::state::State;
use crate::store::{Condition, Pending, Source, Store, StoreError, Watch};
use crate::transaction::{Committed, Transaction};
use crate::watchers::Watchers;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::SystemTime;
use tokio::sync::mpsc;

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

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// One that begins with this state, and with no history.
    pub fn holding(state: State) -> MemoryStore {
        MemoryStore { state: RwLock::new(state), ..MemoryStore::default() }
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
