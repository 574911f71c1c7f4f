//! Full disks and damaged files.
use super::*;

fn arm(fault: &Fault, after: i64, lasting: bool) {
    fault.after.store(after, Ordering::SeqCst);
    fault.lasting.store(lasting, Ordering::SeqCst);
    fault.armed.store(true, Ordering::SeqCst);
}

fn disarm(fault: &Fault) -> bool {
    fault.armed.store(false, Ordering::SeqCst);
    fault.after.load(Ordering::SeqCst) < 0
}

fn plain(store: &EmbeddedStore) -> State {
    store.state().read().unwrap().clone()
}

/// The disk is full at every point a commit can find it full, for a moment or for long.
#[tokio::test]
async fn a_full_disk_refuses_writes_and_nothing_else() {
    let big = format!("\"{}\"", "x".repeat(30_000));
    for lasting in [false, true] {
        let mut refusals = 0;
        for after in 0..60 {
            let (_folder, path) = fresh();
            let settings = EmbeddedSettings::default();
            let store = EmbeddedStore::open(&path, settings.clone()).unwrap();
            store.commit(write(vec![put("1", "{}")])).await.unwrap();
            let before = plain(&store);
            let mut watch = store.watch();

            arm(&settings.fault, after, lasting);
            let result = store.commit(write(vec![put("1", &big), put("2", &big)])).await;
            let reached = disarm(&settings.fault);
            if !reached {
                result.unwrap();
                break;
            }
            match &result {
                Err(StoreError::Away(text)) => {
                    refusals += 1;
                    assert!(text.contains("no room for") && text.contains("store.redb"), "{text}");
                    let now = plain(&store);
                    assert_eq!((now.revision, &now.entries), (before.revision, &before.entries));
                }
                // The refusal came after the commit was on the disk.
                Ok(committed) => assert_eq!(committed.revision, 2),
                Err(other) => panic!("{other}"),
            }
            let known = result.as_ref().err().is_none_or(|error| error.to_string().ends_with("nothing was written"));
            assert_eq!(store.condition() == Condition::Fresh, known);

            let next = store.commit(write(vec![put("3", "{}")])).await.unwrap();
            assert_eq!(store.condition(), Condition::Fresh);
            let now = plain(&store);
            assert_eq!(now.revision, next.revision);
            let both = |state: &State, id: &str| state.get(&Key::of(Kind::Route, id)).unwrap().modified == 2;
            if known {
                assert_eq!(next.revision == 3, result.is_ok());
            } else if next.revision == 3 {
                assert!(both(&now, "1") && both(&now, "2"), "after {after}");
                assert!(matches!(watch.try_recv(), Ok(Watch::Reset)));
            }
            drop(store);
            let again = plain(&open(&path));
            assert_eq!((again.revision, &again.entries), (now.revision, &now.entries), "after {after}");
        }
        assert!(refusals > 0);
    }
}

#[tokio::test]
async fn readers_go_on_while_the_disk_is_full() {
    let (_folder, path) = fresh();
    let settings = EmbeddedSettings::default();
    let store = EmbeddedStore::open(&path, settings.clone()).unwrap();
    store.commit(write(vec![put("1", "{}")])).await.unwrap();
    arm(&settings.fault, 0, true);
    for _ in 0..2 {
        assert!(matches!(store.commit(write(vec![put("2", "{}")])).await, Err(StoreError::Away(_))));
        assert!(matches!(store.condition(), Condition::Stale { .. }));
        assert_eq!(store.catch_up().await.unwrap(), 1);
        assert!(matches!(store.revisions(None, 1).await, Err(StoreError::Away(_))));
    }
    disarm(&settings.fault);
    store.commit(write(vec![put("2", "{}")])).await.unwrap();
    assert_eq!(store.revisions(None, 9).await.unwrap().len(), 2);
}

/// Opens a file whose bytes were changed. It is refused by name, or it is whole.
fn refused_or_whole(path: &Path, image: &[u8], whole: &State, what: &str) -> bool {
    std::fs::write(path, image).unwrap();
    match EmbeddedStore::open(path, EmbeddedSettings::default()) {
        Ok(store) => {
            let found = plain(&store);
            assert_eq!((found.revision, &found.entries), (whole.revision, &whole.entries), "{what}");
            false
        }
        Err(StoreError::Corrupt(text)) => {
            assert!(text.contains(&*path.to_string_lossy()) && text.contains("move"), "{what}: {text}");
            true
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused_by_name() {
    let (folder, path) = fresh();
    let whole = {
        let store = open(&path);
        for n in 0..20 {
            store.commit(write(vec![put(&n.to_string(), &format!("\"{}\"", "y".repeat(300)))])).await.unwrap();
        }
        plain(&store)
    };
    let image = std::fs::read(&path).unwrap();
    let path = folder.path().join("damaged.redb");
    assert!(refused_or_whole(&path, b"", &whole, "empty"));
    assert!(refused_or_whole(&path, b"routes:\n  - id: 1\n#END\n", &whole, "text"));
    assert!(refused_or_whole(&path, &vec![0; image.len()], &whole, "zeros"));
    let mut refused = 0;
    for part in 1..16 {
        refused += usize::from(refused_or_whole(&path, &image[..image.len() * part / 16], &whole, "cut"));
    }
    assert!(refused > 0);
    refused = 0;
    let places = (0..192).chain((320..image.len()).step_by(image.len() / 60));
    for at in places {
        let mut image = image.clone();
        image[at] ^= 0x5a;
        refused += usize::from(refused_or_whole(&path, &image, &whole, &format!("byte {at}")));
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn a_file_damaged_under_a_running_store_stops_writes_only() {
    let (_folder, path) = fresh();
    let store = EmbeddedStore::open(&path, EmbeddedSettings { cache_bytes: 0, ..Default::default() }).unwrap();
    let body = format!("\"{}\"", "z".repeat(300));
    store.commit(write((0..200).map(|n| put(&n.to_string(), &body)).collect())).await.unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0x77; length - 4096], 4096).unwrap();
    for _ in 0..2 {
        let error = store.commit(write(vec![put("1", "{}")])).await.unwrap_err();
        assert!(error.to_string().contains("store.redb is damaged"), "{error}");
        assert!(matches!(store.condition(), Condition::Stale { .. }));
        assert!(store.revision(1).await.is_err());
        assert_eq!(plain(&store).entries.len(), 200);
    }
}

#[test]
fn another_format_is_named() {
    let (_folder, path) = fresh();
    drop(open(&path));
    {
        let db = redb::Database::open(&path).unwrap();
        let write = db.begin_write().unwrap();
        let meta = redb::TableDefinition::<'_, &str, u64>::new("meta");
        write.open_table(meta).unwrap().insert("format", 7).unwrap();
        write.commit().unwrap();
    }
    let error = EmbeddedStore::open(&path, EmbeddedSettings::default()).err().unwrap().to_string();
    assert!(error.contains("store.redb was written by another version (format 7)"), "{error}");
}

#[test]
fn what_a_killed_first_start_left_is_removed() {
    let (_folder, path) = fresh();
    let folder = path.parent().unwrap();
    std::fs::create_dir(folder).unwrap();
    for name in ["store.redb.4711.new", "store.redb.new", "other.4711.new"] {
        std::fs::write(folder.join(name), "half").unwrap();
    }
    drop(open(&path));
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["other.4711.new", "store.redb", "store.redb.new"]);
}
