//! What every store can do.
use crate::history::Revision;
use crate::key::Key;
use crate::state::{Entry, State};
use crate::transaction::{Committed, Transaction};
use std::future::Future;
use std::pin::Pin;
use std::sync::RwLock;
use std::time::SystemTime;
use tokio::sync::mpsc;

/// An answer to come.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What changed with one revision, or with several that were read together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The state's revision with it.
    pub revision: u64,
    pub events: Vec<Event>,
}

#[derive(Clone, Debug)]
pub enum Event {
    Put(Entry),
    Delete(Key),
}

/// What a watcher gets, in order and without gaps.
#[derive(Clone, Debug)]
pub enum Watch {
    Changed(Batch),
    /// The state is to be read anew: the watcher was too slow, or the store's own history had a gap.
    Reset,
}

/// Where the state comes from at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// In touch with the store.
    Fresh,
    /// The store is away since then; the state is the last that was seen (or that lay on the disk at start).
    Stale { since: SystemTime, reason: String },
}

/// What kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Embedded,
    Etcd,
    Memory,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Embedded => "embedded",
            Source::Etcd => "etcd",
            Source::Memory => "memory",
        }
    }
}

/// Why something was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// An expectation does not hold; nothing was written.
    #[error("{key}: {reason}")]
    Conflict { key: Key, reason: &'static str },
    /// The store cannot be reached or cannot write; nothing was written as far as is known.
    #[error("{0}")]
    Away(String),
    /// The store cannot take a transaction of this size; nothing was written.
    #[error("{0}")]
    TooLarge(String),
    /// The revision is not kept any more.
    #[error("revision {0} is not kept any more")]
    Compacted(u64),
    /// What is stored cannot be read.
    #[error("{0}")]
    Corrupt(String),
}

/// A place that keeps the configuration. All methods may be called from any thread; futures need a tokio runtime.
pub trait Store: Send + Sync + 'static {
    fn source(&self) -> Source;
    fn condition(&self) -> Condition;
    /// The state as this process knows it. Hold the lock briefly and never across an await.
    fn state(&self) -> &RwLock<State>;
    /// Waits until [`Store::state`] has everything that was written before the call, by whomever. Where the store is
    /// away it is an error.
    fn catch_up(&self) -> Pending<'_, u64>;
    /// Writes durably, all or nothing. When it returns, [`Store::state`] has it.
    fn commit(&self, transaction: Transaction) -> Pending<'_, Committed>;
    /// The changes from now on. The caller reads [`Store::state`] after this call; batches it finds there already
    /// (`batch.revision <= state.revision`) it skips.
    fn watch(&self) -> mpsc::Receiver<Watch>;
    /// The newest revisions first, at most `limit`, those before `before` if given. Bodies are not filled in.
    fn revisions(&self, before: Option<u64>, limit: usize) -> Pending<'_, Vec<Revision>>;
    /// One revision with its changes.
    fn revision(&self, revision: u64) -> Pending<'_, Option<Revision>>;
    /// The state as it was at a revision.
    fn state_at(&self, revision: u64) -> Pending<'_, State>;
}

/// Whether an expectation holds.
pub(crate) fn check(key: &Key, entry: Option<&Entry>, expect: crate::Expect) -> Result<(), StoreError> {
    use crate::Expect;
    let reason = match (expect, entry) {
        (Expect::Any, _) | (Expect::Absent, None) | (Expect::Present, Some(_)) => return Ok(()),
        (Expect::Revision(wanted), Some(entry)) if entry.modified == wanted => return Ok(()),
        (Expect::Absent, Some(_)) => "exists already",
        (Expect::Present | Expect::Revision(_), None) => "is not there",
        (Expect::Revision(_), Some(_)) => "was changed by somebody else",
    };
    Err(StoreError::Conflict { key: key.clone(), reason })
}
