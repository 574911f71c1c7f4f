//! Records as files. A file appears whole or not at all: it is written under another name, synced, and renamed; and every read
//! checks what it reads, so that neither a kill nor a power cut nor a failing disk ever shows in an answer.
//!
//! The surprise: what is on disk is known from an index in memory, which is rebuilt in the background at start. Until it is whole
//! every look-up goes to the disk; after that a miss costs none.
mod body;
mod index;
mod read;
mod rebuild;
#[cfg(test)]
mod tests;
mod writer;

pub use body::FileBody;

use crate::store::{Done, Fill, Look, Purge, Store, StoreError, Usage, Wait, now};
use crate::stored::{Body, Record, Stored};
use index::{Id, Index};
use md5::{Digest, Md5};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use writer::{Command, Writer};

/// Where and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSettings {
    pub path: PathBuf,
    /// Digits of the folders' names, outermost first (nginx's `levels`); at most three, of 1 or 2 each.
    pub levels: Vec<usize>,
    /// Bytes of files.
    pub limit: u64,
    /// Bytes of the index.
    pub memory: u64,
    /// Whether files are synced before they are named; without, a power cut loses the newest.
    pub sync: bool,
    /// What nobody has asked for so long goes.
    pub inactive: Duration,
}

/// Bytes that may wait to be written.
const PENDING: u64 = 64 << 20;
/// Largest body that is read into memory to be sent; a larger one is sent block by block.
const WHOLE: u64 = 1 << 20;

/// See the file's head.
#[derive(Debug)]
pub struct DiskStore {
    shared: Arc<Shared>,
    writer: Writer,
}

/// What readers and the writer share.
#[derive(Debug)]
struct Shared {
    settings: DiskSettings,
    index: Mutex<Index>,
    /// The index knows every file.
    whole: AtomicBool,
    pending: AtomicU64,
    evictions: AtomicU64,
    damaged: AtomicU64,
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a record's file is (nginx: the last digits of the sum name the folders).
    fn file(&self, id: &Id) -> PathBuf {
        let name = hex(id);
        let mut path = self.settings.path.clone();
        let mut end = name.len();
        for level in &self.settings.levels {
            let from = end.saturating_sub(*level);
            path.push(name.get(from..end).unwrap_or_default());
            end = from;
        }
        path.push(name);
        path
    }

    fn temporary(&self) -> PathBuf {
        self.settings.path.join("tmp")
    }

    /// Forgets a record and removes its file.
    fn remove(&self, id: &Id) -> bool {
        let known = self.index().remove(id).is_some();
        let gone = std::fs::remove_file(self.file(id)).is_ok();
        known || gone
    }

    /// A file that is not what it should be.
    fn damaged(&self, id: &Id) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(file = %self.file(id).display(), "a damaged file of the cache was removed");
        self.remove(id);
    }
}

fn id_of(key: &[u8]) -> Id {
    Md5::digest(key).into()
}

fn hex(id: &Id) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

impl DiskStore {
    /// Makes the folder, and starts the writer and the rebuilding of the index.
    pub fn open(settings: DiskSettings) -> io::Result<DiskStore> {
        std::fs::create_dir_all(settings.path.join("tmp"))?;
        let shared = Arc::new(Shared {
            index: Mutex::new(Index::new(settings.limit, settings.memory)),
            settings,
            whole: AtomicBool::new(false),
            pending: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        });
        let writer = Writer::start(shared.clone())?;
        let rebuilt = shared.clone();
        std::thread::Builder::new().name("cache-index".into()).spawn(move || rebuild::run(&rebuilt))?;
        Ok(DiskStore { shared, writer })
    }

    /// Whether the index knows every file.
    pub fn is_whole(&self) -> bool {
        self.shared.whole.load(Ordering::Acquire)
    }
    /// Files that were found damaged.
    pub fn damaged(&self) -> u64 {
        self.shared.damaged.load(Ordering::Relaxed)
    }
    pub fn path(&self) -> &Path {
        &self.shared.settings.path
    }

    fn send(&self, command: Command, bytes: u64) -> Result<(), StoreError> {
        if self.shared.pending.load(Ordering::Relaxed) + bytes > PENDING {
            return Err(StoreError::Busy);
        }
        self.writer.send(command, bytes)
    }
}

impl Store for DiskStore {
    fn look(&self, key: &[u8]) -> Look {
        let id = id_of(key);
        let known = self.shared.index().touch(&id, key, now_ms());
        if !known && self.is_whole() {
            return Look::Now(None);
        }
        let (shared, key) = (self.shared.clone(), key.to_vec());
        Look::Later(Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || read::record(&shared, &id, &key));
            read.await.map_err(|_| StoreError::Away("reading ended early".into()))
        }))
    }

    fn put(&self, key: &[u8], record: Record, _keep: u64, done: Done) {
        let weight = match &record {
            Record::Answer(stored) => stored.body.len(),
            Record::Vary(_) => 0,
        };
        if weight > self.max_record() {
            return done(Err(StoreError::TooLarge));
        }
        let held = match &record {
            Record::Answer(stored) if matches!(stored.body, Body::File(_)) => 0,
            _ => record.weight() as u64,
        };
        if self.shared.pending.load(Ordering::Relaxed) + held > PENDING {
            return done(Err(StoreError::Busy));
        }
        let _ = self.send(Command::Put { key: key.into(), record, held, done }, held);
    }

    fn begin(&self, key: &[u8], stored: &Stored) -> Option<Box<dyn Fill>> {
        let fill = self.writer.begin(key, stored)?;
        Some(Box::new(fill))
    }

    fn remove(&self, key: &[u8]) -> Wait<Result<bool, StoreError>> {
        let (shared, id) = (self.shared.clone(), id_of(key));
        Box::pin(async move {
            let removed = tokio::task::spawn_blocking(move || shared.remove(&id));
            removed.await.map_err(|_| StoreError::Away("removing ended early".into()))
        })
    }

    fn purge(&self, purge: Purge) -> Wait<Result<Option<u64>, StoreError>> {
        let shared = self.shared.clone();
        let purge = move || {
            let hit = shared.index().hit(&purge);
            let removed = hit.iter().filter(|id| shared.remove(id)).count();
            Some(removed as u64)
        };
        Box::pin(async move {
            tokio::task::spawn_blocking(purge).await.map_err(|_| StoreError::Away("purging ended early".into()))
        })
    }

    fn usage(&self) -> Usage {
        let index = self.shared.index();
        Usage {
            bytes: index.bytes(),
            entries: index.len() as u64,
            limit: self.shared.settings.limit,
            evictions: self.shared.evictions.load(Ordering::Relaxed),
        }
    }

    fn max_record(&self) -> u64 {
        self.shared.settings.limit / 4
    }
}

/// What a store that is not open says: the folder could not be made.
#[derive(Debug)]
pub struct Closed(pub String);

impl Store for Closed {
    fn look(&self, _key: &[u8]) -> Look {
        Look::Later(now(Err(StoreError::Away(self.0.clone()))))
    }
    fn put(&self, _key: &[u8], _record: Record, _keep: u64, done: Done) {
        done(Err(StoreError::Away(self.0.clone())));
    }
    fn remove(&self, _key: &[u8]) -> Wait<Result<bool, StoreError>> {
        now(Err(StoreError::Away(self.0.clone())))
    }
    fn purge(&self, _purge: Purge) -> Wait<Result<Option<u64>, StoreError>> {
        now(Err(StoreError::Away(self.0.clone())))
    }
    fn usage(&self) -> Usage {
        Usage::default()
    }
    fn max_record(&self) -> u64 {
        0
    }
}
