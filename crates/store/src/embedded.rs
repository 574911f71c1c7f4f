//! A store in a file of this machine, for a gateway without etcd. Every acknowledged write is on the disk (fsync), and
//! a process killed at any moment leaves every transaction whole or absent. The surprise: writes that come together
//! share one fsync. One thread writes; it takes all that waits, plans each transaction on top of the earlier ones and
//! commits them as one, each with its own revision.
mod file;
mod tables;
mod writer;

use crate::history::{Revision, undo_one};
use crate::state::State;
use crate::store::{Condition, Pending, Source, Store, StoreError, Watch};
use crate::transaction::{Committed, Transaction};
use crate::watchers::Watchers;
use file::Disk;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};
use writer::{Job, Writer};

#[derive(Clone, Debug)]
pub struct EmbeddedSettings {
    /// Revisions kept in the history. The newest is always kept.
    pub history_revisions: u64,
    /// Bytes all records of the history may have together.
    pub history_bytes: u64,
    /// Writes that may wait; more wait outside the queue.
    pub queue: usize,
    /// Transactions that may share one fsync.
    pub group: usize,
    /// Bytes of the file kept in memory beside the state.
    pub cache_bytes: usize,
    #[cfg(test)]
    pub(crate) fault: Arc<tests::Fault>,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        EmbeddedSettings {
            history_revisions: 10_000,
            history_bytes: 256 << 20,
            queue: 1024,
            group: 256,
            cache_bytes: 4 << 20,
            #[cfg(test)]
            fault: Arc::default(),
        }
    }
}

/// Dropping it waits for the write that is under way.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// What the writer's thread and the readers have in common.
struct Shared {
    disk: Disk,
    state: RwLock<State>,
    watchers: Mutex<Watchers>,
    condition: Mutex<Condition>,
}

impl EmbeddedStore {
    /// Opens or makes the file (mode 0600) and its folder (0700), and reads it all into memory. What expired meanwhile
    /// is removed before it returns. Blocks. Errors: another process has it open, it cannot be read or written, it is
    /// damaged; each names the file and what can be done.
    pub fn open(path: &Path, settings: EmbeddedSettings) -> Result<EmbeddedStore, StoreError> {
        let disk = Disk::open(path, &settings)?;
        let state = disk.read(tables::load)?;
        let shared = Arc::new(Shared {
            disk,
            state: RwLock::new(state),
            watchers: Mutex::default(),
            condition: Mutex::new(Condition::Fresh),
        });
        let (jobs, queue) = mpsc::channel(settings.queue.max(1));
        let mut writer = Writer::new(shared.clone(), settings);
        writer.prepare();
        let thread = writer
            .start(queue)
            .map_err(|error| StoreError::Away(format!("{}: no thread for its writes: {error}", path.display())))?;
        Ok(EmbeddedStore { shared, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs where blocking is allowed.
    fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Pending<'_, T> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || work(&shared)).await;
            done.unwrap_or_else(|error| Err(StoreError::Away(format!("reading the history failed: {error}"))))
        })
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn state_at(&self, revision: u64) -> Result<State, StoreError> {
        let mut state = self.state.read().unwrap_or_else(PoisonError::into_inner).clone();
        if revision > state.revision {
            return Err(StoreError::Compacted(revision));
        }
        self.disk.read(|db| {
            // Newest first, one record in memory at a time.
            tables::back_to(db, revision, state.revision, |record| undo_one(&mut state, &record))
        })?;
        if state.revision == revision { Ok(state) } else { Err(StoreError::Compacted(revision)) }
    }
}

impl Store for EmbeddedStore {
    fn source(&self) -> Source {
        Source::Embedded
    }
    fn condition(&self) -> Condition {
        self.shared.condition.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn state(&self) -> &RwLock<State> {
        &self.shared.state
    }
    /// Nobody else writes, so the state has everything that was acknowledged.
    fn catch_up(&self) -> Pending<'_, u64> {
        Box::pin(async { Ok(self.shared.state.read().unwrap_or_else(PoisonError::into_inner).revision) })
    }
    fn commit(&self, transaction: Transaction) -> Pending<'_, Committed> {
        Box::pin(async move {
            let stopped = || StoreError::Away("the store has stopped; nothing was written".into());
            let (answer, done) = oneshot::channel();
            let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
            jobs.send(Job { transaction, answer }).await.map_err(|_| stopped())?;
            done.await.unwrap_or_else(|_| {
                Err(StoreError::Away("the store stopped; it is not known whether this was written".into()))
            })
        })
    }
    fn watch(&self) -> mpsc::Receiver<Watch> {
        self.shared.watchers.lock().unwrap_or_else(PoisonError::into_inner).add()
    }
    fn revisions(&self, before: Option<u64>, limit: usize) -> Pending<'_, Vec<Revision>> {
        self.read(move |shared| shared.disk.read(|db| tables::outlines(db, before, limit)))
    }
    fn revision(&self, revision: u64) -> Pending<'_, Option<Revision>> {
        self.read(move |shared| shared.disk.read(|db| tables::record(db, revision)))
    }
    fn state_at(&self, revision: u64) -> Pending<'_, State> {
        self.read(move |shared| shared.state_at(revision))
    }
}

#[cfg(test)]
mod tests;
