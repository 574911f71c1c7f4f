//! The store on a disk that works, and the disk that does not ([`Fault`]) for the tests beside.
use super::*;
use crate::{Expect, Key, Note, Op, Store, Watch};
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use sluice_model::Kind;
use std::ops::Bound;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

mod faults;
mod kill;
mod power;
mod property;

/// What the disk does wrong: it refuses the `after`th change of the file (and all later ones, if `lasting`), as a full
/// disk does; or its power fails.
#[derive(Debug, Default)]
pub(crate) struct Fault {
    pub armed: AtomicBool,
    pub lasting: AtomicBool,
    pub after: AtomicI64,
    pub power: Mutex<Option<power::Power>>,
    pub syncs: AtomicI64,
}

impl Fault {
    fn check(&self, change: power::Change<'_>) -> std::io::Result<()> {
        if matches!(change, power::Change::Sync) {
            self.syncs.fetch_add(1, Ordering::SeqCst);
        }
        if let Some(power) = self.power.lock().unwrap().as_mut() {
            power.change(change);
        }
        if self.armed.load(Ordering::SeqCst) {
            let left = self.after.fetch_sub(1, Ordering::SeqCst);
            if left == 0 || left < 0 && self.lasting.load(Ordering::SeqCst) {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
        }
        Ok(())
    }
}

/// A file with faults.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub inner: FileBackend,
    pub fault: Arc<Fault>,
}

impl StorageBackend for Faulty {
    fn len(&self) -> std::io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.fault.check(power::Change::Length(len))?;
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.fault.check(power::Change::Sync)?;
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.fault.check(power::Change::Write(offset, data))?;
        self.inner.write(offset, data)
    }
    fn close(&self) -> std::io::Result<()> {
        self.inner.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

fn put(id: &str, body: &str) -> Op {
    Op::Put { key: Key::of(Kind::Route, id), body: body.into(), expect: Expect::Any, ttl: None }
}

fn write(ops: Vec<Op>) -> Transaction {
    Transaction { ops, note: Note { author: "admin".into(), message: String::new() } }
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/store.redb");
    (folder, path)
}

fn open(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(path, EmbeddedSettings::default()).unwrap()
}

#[tokio::test]
async fn what_is_written_is_there_after_a_restart() {
    let (_folder, path) = fresh();
    let before = {
        let store = open(&path);
        let first = store.commit(write(vec![put("1", "{\"a\":1}"), put("2", "{}")])).await.unwrap();
        assert_eq!((first.revision, first.written.len()), (1, 2));
        store
            .commit(write(vec![Op::Delete { key: Key::of(Kind::Route, "2"), expect: Expect::Present }]))
            .await
            .unwrap();
        store.commit(write(vec![put("1", "{\"a\":2}")])).await.unwrap();
        store.state().read().unwrap().clone()
    };
    let store = open(&path);
    let state = store.state().read().unwrap().clone();
    assert_eq!((state.revision, &state.entries), (3, &before.entries));
    let entry = state.get(&Key::of(Kind::Route, "1")).unwrap();
    assert_eq!((entry.created, entry.modified, entry.body.as_str()), (1, 3, "{\"a\":2}"));
    let all = store.revisions(None, 10).await.unwrap();
    assert_eq!(all.iter().map(|r| r.revision).collect::<Vec<_>>(), [3, 2, 1]);
    assert_eq!(all[0].changes[0].after.as_deref(), Some(""));
    assert_eq!(store.revisions(Some(3), 1).await.unwrap()[0].revision, 2);
    assert_eq!(store.revision(3).await.unwrap().unwrap().changes[0].before.as_deref(), Some("{\"a\":1}"));
    assert_eq!(store.revision(4).await.unwrap(), None);
    let past = store.state_at(1).await.unwrap();
    assert_eq!(
        past.of(Kind::Route).map(|(id, e)| (id, e.body.as_str())).collect::<Vec<_>>(),
        [("1", "{\"a\":1}"), ("2", "{}")]
    );
    assert_eq!(store.state_at(0).await.unwrap().entries.len(), 0);
    assert!(matches!(store.state_at(4).await, Err(StoreError::Compacted(4))));
}

#[tokio::test]
async fn the_file_is_private() {
    let (folder, path) = fresh();
    drop(open(&path));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&folder.path().join("data"))), (0o600, 0o700));
    let names: Vec<_> =
        std::fs::read_dir(folder.path().join("data")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["store.redb"]);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(open(&path));
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn a_file_in_use_is_not_opened_twice() {
    let (_folder, path) = fresh();
    let _store = open(&path);
    let error = EmbeddedStore::open(&path, EmbeddedSettings::default()).err().unwrap();
    assert!(matches!(error, StoreError::Away(_)));
    assert!(error.to_string().contains("store.redb is in use by another process"), "{error}");
}

#[tokio::test]
async fn a_conflict_fails_only_its_own_transaction() {
    let (_folder, path) = fresh();
    let store = open(&path);
    let create = |id: &str| {
        write(vec![Op::Put { key: Key::of(Kind::Route, id), body: "{}".into(), expect: Expect::Absent, ttl: None }])
    };
    let (a, b, c) = tokio::join!(store.commit(create("1")), store.commit(create("1")), store.commit(create("2")));
    assert_eq!(a.unwrap().revision, 1);
    assert_eq!(b.unwrap_err().to_string(), "routes/1: exists already");
    assert_eq!(c.unwrap().revision, 2);
}

#[tokio::test]
async fn writes_that_come_together_share_a_sync() {
    let (_folder, path) = fresh();
    let settings = EmbeddedSettings::default();
    let store = Arc::new(EmbeddedStore::open(&path, settings.clone()).unwrap());
    let before = settings.fault.syncs.load(Ordering::SeqCst);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let store = store.clone();
        tasks.spawn(async move { store.commit(write(vec![put(&n.to_string(), "{}")])).await.unwrap().revision });
    }
    let mut revisions = tasks.join_all().await;
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=200).collect::<Vec<_>>());
    let syncs = settings.fault.syncs.load(Ordering::SeqCst) - before;
    assert!((1..100).contains(&syncs), "{syncs} syncs for 200 writes");
}

#[tokio::test]
async fn a_watcher_sees_what_was_written_in_order() {
    let (_folder, path) = fresh();
    let store = open(&path);
    let mut watch = store.watch();
    let (a, b) = tokio::join!(store.commit(write(vec![put("1", "{}")])), store.commit(write(vec![put("2", "{}")])));
    assert_eq!((a.unwrap().revision, b.unwrap().revision), (1, 2));
    for revision in [1, 2] {
        let Some(Watch::Changed(batch)) = watch.recv().await else { panic!("no batch") };
        assert_eq!(batch.revision, revision);
    }
}

#[tokio::test]
async fn what_expires_goes_by_itself_even_after_a_restart() {
    let (_folder, path) = fresh();
    let lease = |id: &str, ttl: u64| Op::Put {
        key: Key::of(Kind::Route, id),
        body: "{}".into(),
        expect: Expect::Any,
        ttl: Some(Duration::from_millis(ttl)),
    };
    let store = open(&path);
    let mut watch = store.watch();
    store.commit(write(vec![lease("short", 20), lease("renewed", 20), put("stays", "{}")])).await.unwrap();
    store.commit(write(vec![lease("renewed", 3_600_000), lease("forever", u64::MAX)])).await.unwrap();
    let gone = loop {
        let Some(Watch::Changed(batch)) = watch.recv().await else { panic!("no batch") };
        if let Some(crate::Event::Delete(key)) = batch.events.first() {
            break (batch.revision, key.clone());
        }
    };
    assert_eq!(gone, (3, Key::of(Kind::Route, "short")));
    assert_eq!(store.revision(3).await.unwrap().unwrap().note.author, "ttl");
    store.commit(write(vec![lease("last", 1)])).await.unwrap();
    drop(store);
    let store = open(&path);
    let mut watch = store.watch();
    while store.state().read().unwrap().get(&Key::of(Kind::Route, "last")).is_some() {
        assert!(watch.recv().await.is_some());
    }
    let state = store.state().read().unwrap().clone();
    let ids: Vec<_> = state.of(Kind::Route).map(|(id, entry)| (id, entry.expires.is_some())).collect();
    assert_eq!(ids, [("forever", false), ("renewed", true), ("stays", false)]);
}

#[tokio::test]
async fn the_history_is_pruned_by_number_and_by_size() {
    let (_folder, path) = fresh();
    {
        let store =
            EmbeddedStore::open(&path, EmbeddedSettings { history_revisions: 3, ..Default::default() }).unwrap();
        for n in 0..6 {
            store.commit(write(vec![put("1", &n.to_string())])).await.unwrap();
        }
        let kept = store.revisions(None, 100).await.unwrap();
        assert_eq!(kept.iter().map(|r| r.revision).collect::<Vec<_>>(), [6, 5, 4]);
        assert_eq!(store.state_at(3).await.unwrap().get(&Key::of(Kind::Route, "1")).unwrap().body.as_str(), "2");
        assert!(matches!(store.state_at(2).await, Err(StoreError::Compacted(2))));
    }
    let store = EmbeddedStore::open(&path, EmbeddedSettings { history_bytes: 10, ..Default::default() }).unwrap();
    store.commit(write(vec![put("1", "6")])).await.unwrap();
    let kept = store.revisions(None, 100).await.unwrap();
    assert_eq!(kept.iter().map(|r| r.revision).collect::<Vec<_>>(), [7]);
}

#[tokio::test]
async fn a_key_written_twice_in_one_transaction_is_refused() {
    let (_folder, path) = fresh();
    let store = open(&path);
    let error = store.commit(write(vec![put("1", "1"), put("1", "2")])).await.unwrap_err();
    assert_eq!(error.to_string(), "routes/1: is written twice");
    assert_eq!(store.state().read().unwrap().revision, 0);
}
