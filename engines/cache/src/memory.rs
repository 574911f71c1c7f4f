//! Records in memory, bounded by bytes, shared by all workers: the crate `quick_cache` (S3-FIFO with a frequency filter, which
//! one-hit wonders do not get past). The surprise: what is stale stays until something better needs its place.
use crate::store::{Done, Look, Purge, Store, StoreError, Usage, Wait, now, tags};
use crate::stored::Record;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes per record beside its own: the cache's tables.
const OVERHEAD: u64 = 96;

#[derive(Clone)]
struct Weigh;

impl Weighter<Box<[u8]>, Record> for Weigh {
    fn weight(&self, key: &Box<[u8]>, record: &Record) -> u64 {
        key.len() as u64 + record.weight() as u64 + OVERHEAD
    }
}

#[derive(Clone, Default)]
struct Evictions(Arc<AtomicU64>);

impl quick_cache::Lifecycle<Box<[u8]>, Record> for Evictions {
    type RequestState = ();
    fn begin_request(&self) -> Self::RequestState {}
    fn on_evict(&self, _state: &mut Self::RequestState, _key: Box<[u8]>, _record: Record) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// See the file's head.
pub struct MemoryStore {
    cache: Cache<Box<[u8]>, Record, Weigh, foldhash::quality::RandomState, Evictions>,
    evictions: Evictions,
    limit: u64,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("limit", &self.limit).finish()
    }
}

impl MemoryStore {
    /// `limit` in bytes.
    pub fn new(limit: u64) -> MemoryStore {
        let evictions = Evictions::default();
        // An answer of 8 KiB is a usual one; the tables grow with what is really there.
        let estimated = (limit / 8192).clamp(64, 1 << 20) as usize;
        // A record must fit into its shard: few large records want few shards.
        let shards = (limit / (16 << 20)).clamp(1, 64) as usize;
        let options = quick_cache::OptionsBuilder::new()
            .estimated_items_capacity(estimated)
            .weight_capacity(limit)
            .shards(shards)
            .build();
        let hasher = foldhash::quality::RandomState::default();
        let cache = match options {
            Ok(options) => Cache::with_options(options, Weigh, hasher, evictions.clone()),
            Err(_) => Cache::with(estimated, limit, Weigh, hasher, evictions.clone()),
        };
        MemoryStore { cache, evictions, limit }
    }
}

impl Store for MemoryStore {
    #[inline]
    fn look(&self, key: &[u8]) -> Look {
        Look::Now(self.cache.get(key))
    }
    fn put(&self, key: &[u8], record: Record, _keep: u64, done: Done) {
        let fits = record.weight() as u64 <= self.max_record();
        if fits {
            self.cache.insert(key.into(), record);
        } else {
            self.cache.remove(key);
        }
        done(if fits { Ok(()) } else { Err(StoreError::TooLarge) });
    }
    fn remove(&self, key: &[u8]) -> Wait<Result<bool, StoreError>> {
        now(Ok(self.cache.remove(key).is_some()))
    }
    fn purge(&self, purge: Purge) -> Wait<Result<Option<u64>, StoreError>> {
        let removed = AtomicU64::new(0);
        self.cache.retain(|key, record| {
            let tags = tags(record);
            let hit = purge.hits(key, tags.iter().map(|tag| &**tag));
            removed.fetch_add(u64::from(hit), Ordering::Relaxed);
            !hit
        });
        now(Ok(Some(removed.into_inner())))
    }
    fn usage(&self) -> Usage {
        Usage {
            bytes: self.cache.weight(),
            entries: self.cache.len() as u64,
            limit: self.limit,
            evictions: self.evictions.0.load(Ordering::Relaxed),
        }
    }
    /// A quarter of a shard: a record that takes more would push everything else out.
    fn max_record(&self) -> u64 {
        (self.cache.shard_capacity() / 2).min(self.limit / 4).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::{Body, Freshness, Stored};
    use bytes::Bytes;

    fn record(bytes: usize, tag: &str) -> Record {
        Record::Answer(Arc::new(Stored {
            status: 200,
            freshness: Freshness::default(),
            fields: Arc::default(),
            body: Body::Whole(Bytes::from(vec![0; bytes])),
            tags: vec![tag.into()].into(),
        }))
    }

    fn put(store: &MemoryStore, key: &str, record: Record) -> Result<(), StoreError> {
        let (tell, told) = std::sync::mpsc::channel();
        store.put(key.as_bytes(), record, 60, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap()
    }

    fn has(store: &MemoryStore, key: &str) -> bool {
        matches!(store.look(key.as_bytes()), Look::Now(Some(_)))
    }

    #[test]
    fn memory_stays_within_its_bound() {
        let store = MemoryStore::new(1 << 20);
        for i in 0..10_000 {
            put(&store, &format!("key {i}"), record(1000, "")).unwrap();
        }
        let usage = store.usage();
        assert!(usage.bytes <= 1 << 20 && usage.entries > 400 && usage.evictions > 8000, "{usage:?}");
        assert_eq!(put(&store, "large", record(900_000, "")), Err(StoreError::TooLarge));
    }

    #[test]
    fn what_is_asked_for_often_stays() {
        let store = MemoryStore::new(1 << 20);
        for i in 0..200 {
            put(&store, &format!("hot {i}"), record(1000, "")).unwrap();
        }
        let mut kept = 0;
        for i in 0..5000 {
            put(&store, &format!("once {i}"), record(1000, "")).unwrap();
            kept = (0..200).filter(|hot| has(&store, &format!("hot {hot}"))).count();
        }
        assert!(kept > 150, "{kept} of 200");
    }

    #[tokio::test]
    async fn purges_remove_what_they_name() {
        let store = MemoryStore::new(1 << 20);
        for (key, tag) in [("h/a", "x"), ("h/a\u{1}bob", "x"), ("h/b", "y"), ("i/c", "x")] {
            put(&store, key, record(1, tag)).unwrap();
        }
        assert_eq!(store.purge(Purge::Key(b"h/a".to_vec())).await, Ok(Some(2)));
        assert_eq!(store.purge(Purge::Tag("x".into())).await, Ok(Some(1)));
        assert!(has(&store, "h/b") && !has(&store, "i/c"));
        assert_eq!(store.remove(b"h/b").await, Ok(true));
        assert_eq!(store.purge(Purge::All).await, Ok(Some(0)));
    }
}
