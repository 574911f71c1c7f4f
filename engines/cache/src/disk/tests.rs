//! Files: written, read, damaged, removed, found again.
use super::*;
use crate::stored::Freshness;
use bytes::Bytes;
use std::time::Instant;

fn settings(path: &Path, limit: u64) -> DiskSettings {
    DiskSettings {
        path: path.to_owned(),
        levels: vec![1, 2],
        limit,
        memory: 1 << 20,
        sync: false,
        inactive: Duration::from_secs(60),
    }
}

fn open(path: &Path, limit: u64) -> DiskStore {
    let store = DiskStore::open(settings(path, limit)).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while !store.is_whole() {
        assert!(Instant::now() < until, "the index is not whole in time");
        std::thread::yield_now();
    }
    store
}

fn stored(body: Vec<u8>, tag: &str) -> Stored {
    Stored {
        status: 200,
        freshness: Freshness::default(),
        fields: vec![("A".into(), b"1".as_slice().into())].into(),
        body: Body::Whole(Bytes::from(body)),
        tags: vec![tag.into()].into(),
    }
}

async fn put(store: &DiskStore, key: &str, body: Vec<u8>, tag: &str) -> Result<(), StoreError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let record = Record::Answer(Arc::new(stored(body, tag)));
    store.put(key.as_bytes(), record, 60, Box::new(move |result| drop(tell.send(result))));
    told.await.unwrap()
}

async fn get(store: &DiskStore, key: &str) -> Option<Vec<u8>> {
    let record = match store.look(key.as_bytes()) {
        Look::Now(found) => found,
        Look::Later(later) => later.await.unwrap(),
    };
    match record? {
        Record::Answer(stored) => Some(match &stored.body {
            Body::Whole(bytes) => bytes.to_vec(),
            Body::File(file) => file.read().unwrap().to_vec(),
        }),
        Record::Vary(_) => None,
    }
}

#[tokio::test]
async fn records_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    {
        let store = open(folder.path(), 1 << 30);
        put(&store, "small", b"hello".to_vec(), "t").await.unwrap();
        put(&store, "large", large.clone(), "t").await.unwrap();
        assert_eq!(get(&store, "small").await.unwrap(), b"hello");
        let digits = hex(&id_of(b"small"));
        // nginx's levels: the last digit, then the two before it.
        assert!(folder.path().join(&digits[31..]).join(&digits[29..31]).join(&digits).exists());
    }
    let store = open(folder.path(), 1 << 30);
    assert_eq!(store.usage().entries, 2);
    assert_eq!(get(&store, "large").await.unwrap(), large);
    assert_eq!(store.purge(Purge::Tag("t".into())).await, Ok(Some(2)));
    assert_eq!((get(&store, "small").await, store.usage().bytes), (None, 0));
}

#[tokio::test]
async fn a_body_that_comes_in_pieces_appears_when_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 1 << 30);
    let mut fill = store.begin(b"k", &stored(Vec::new(), "")).unwrap();
    (0..100).for_each(|_| assert!(fill.piece(&[7; 30_000])));
    assert_eq!(get(&store, "k").await, None);
    let (tell, told) = tokio::sync::oneshot::channel();
    fill.end(Box::new(move |result| drop(tell.send(result))));
    told.await.unwrap().unwrap();
    assert_eq!(get(&store, "k").await.unwrap(), vec![7; 3_000_000]);
    // One that is given up leaves nothing.
    let mut fill = store.begin(b"other", &stored(Vec::new(), "")).unwrap();
    assert!(fill.piece(&[7; 100_000]));
    drop(fill);
    put(&store, "after", Vec::new(), "").await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(get(&store, "other").await, None);
}

#[tokio::test]
async fn damaged_files_are_no_answers() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 1 << 30);
    for (name, length, at) in [("head", 100, 30), ("body", 100, 140), ("cut", 100, usize::MAX)] {
        put(&store, name, vec![1; length], "").await.unwrap();
        let file = store.shared.file(&id_of(name.as_bytes()));
        let mut bytes = std::fs::read(&file).unwrap();
        match bytes.get_mut(at) {
            Some(byte) => *byte ^= 1,
            None => bytes.truncate(bytes.len() / 2),
        }
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(get(&store, name).await, None, "{name}");
        assert!(!file.exists());
    }
    assert_eq!(store.damaged(), 3);
    // A large one shows its damage when the block is read, not before.
    put(&store, "large", vec![1; 2_000_000], "").await.unwrap();
    let file = store.shared.file(&id_of(b"large"));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[1_000_000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let Look::Later(later) = store.look(b"large") else { panic!("it is on disk") };
    let Some(Record::Answer(read)) = later.await.unwrap() else { panic!("its head is good") };
    let Body::File(body) = &read.body else { panic!("it is large") };
    assert!(body.block(0).is_ok() && body.block(15).is_err());
}

#[tokio::test]
async fn the_disk_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 100_000);
    for n in 0..100 {
        put(&store, &format!("k{n}"), vec![0; 5000], "").await.unwrap();
    }
    let usage = store.usage();
    assert!(usage.bytes <= 100_000 && usage.entries >= 15 && usage.evictions > 70, "{usage:?}");
    assert!(get(&store, "k0").await.is_none() && get(&store, "k99").await.is_some());
    assert_eq!(put(&store, "large", vec![0; 50_000], "").await, Err(StoreError::TooLarge));
    // Fewer bytes at the next start: the oldest go.
    drop(store);
    let store = open(folder.path(), 30_000);
    assert!(store.usage().bytes <= 30_000);
}
