//! What is on disk: key, size and tags of every file, in the order of their last use. Bounded by the bytes of the files and by
//! its own.
use crate::store::Purge;
use std::collections::{BTreeMap, HashMap};

/// The MD5 of a key. Another key with the same sum is told apart by the key itself.
pub type Id = [u8; 16];

/// Bytes of an entry beside its key and tags.
const OVERHEAD: u64 = 160;

#[derive(Debug)]
pub struct Entry {
    pub key: Box<[u8]>,
    pub tags: Box<[Box<str>]>,
    pub bytes: u64,
    /// Milliseconds since the epoch.
    used: u64,
    turn: u64,
}

impl Entry {
    fn memory(&self) -> u64 {
        OVERHEAD + self.key.len() as u64 + self.tags.iter().map(|tag| tag.len() as u64 + 16).sum::<u64>()
    }
}

#[derive(Debug)]
pub struct Index {
    entries: HashMap<Id, Entry, foldhash::quality::RandomState>,
    /// Oldest first.
    order: BTreeMap<(u64, u64), Id>,
    turn: u64,
    bytes: u64,
    memory: u64,
    limit: u64,
    memory_limit: u64,
}

impl Index {
    pub fn new(limit: u64, memory_limit: u64) -> Index {
        let (entries, order) = (HashMap::default(), BTreeMap::new());
        Index { entries, order, turn: 0, bytes: 0, memory: 0, limit, memory_limit }
    }
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether this key's file is there; it counts as used.
    pub fn touch(&mut self, id: &Id, key: &[u8], now: u64) -> bool {
        let Some(entry) = self.entries.get_mut(id).filter(|entry| &*entry.key == key) else { return false };
        // Once a second is often enough to know what is used.
        if now.saturating_sub(entry.used) >= 1000 {
            self.order.remove(&(entry.used, entry.turn));
            self.turn += 1;
            (entry.used, entry.turn) = (now, self.turn);
            self.order.insert((now, self.turn), *id);
        }
        true
    }

    pub fn contains(&self, id: &Id) -> bool {
        self.entries.contains_key(id)
    }

    /// Takes a file in; gives those that have to go for it.
    pub fn insert(&mut self, id: Id, key: &[u8], tags: &[Box<str>], bytes: u64, used: u64) -> Vec<Id> {
        self.remove(&id);
        self.turn += 1;
        let entry = Entry { key: key.into(), tags: tags.into(), bytes, used, turn: self.turn };
        self.bytes += bytes;
        self.memory += entry.memory();
        self.order.insert((used, self.turn), id);
        self.entries.insert(id, entry);
        let mut gone = Vec::new();
        while self.bytes > self.limit || self.memory > self.memory_limit {
            let Some((_, oldest)) = self.order.first_key_value() else { break };
            let oldest = *oldest;
            self.remove(&oldest);
            gone.push(oldest);
        }
        gone
    }

    pub fn remove(&mut self, id: &Id) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.order.remove(&(entry.used, entry.turn));
        self.bytes -= entry.bytes;
        self.memory -= entry.memory();
        Some(entry)
    }

    /// Those that nobody has used since a time.
    pub fn unused_since(&self, time: u64) -> Vec<Id> {
        self.order.range(..(time, 0)).map(|(_, id)| *id).collect()
    }

    pub fn hit(&self, purge: &Purge) -> Vec<Id> {
        let hits = |entry: &Entry| purge.hits(&entry.key, entry.tags.iter().map(|tag| &**tag));
        self.entries.iter().filter(|(_, entry)| hits(entry)).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut index = Index::new(30, 1 << 20);
        for (n, used) in [(1u8, 1), (2, 2), (3, 3)] {
            assert!(index.insert([n; 16], &[n], &[], 10, used).is_empty());
        }
        assert!(index.touch(&[1; 16], &[1], 5000) && !index.touch(&[1; 16], b"other", 5000));
        assert_eq!(index.insert([4; 16], &[4], &[], 10, 5001), [[2; 16]]);
        assert_eq!(index.unused_since(5000), [[3; 16]]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn bounds_hold_and_sums_are_right(steps in prop::collection::vec((0u8..20, 0u64..50, 0u64..9000, any::<bool>()), 0..200)) {
            let mut index = Index::new(200, 3000);
            for (n, bytes, used, insert) in steps {
                if insert {
                    index.insert([n; 16], &[n], &[], bytes, used);
                } else {
                    index.remove(&[n; 16]);
                }
                prop_assert!(index.bytes <= 200 && index.memory <= 3000);
                prop_assert_eq!(index.bytes, index.entries.values().map(|e| e.bytes).sum::<u64>());
                prop_assert_eq!(index.order.len(), index.entries.len());
            }
        }
    }
}
