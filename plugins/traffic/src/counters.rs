//! Counters by key, shared by all workers: a sharded open-addressing table under short locks.
//!
//! Keys are kept as 128 bits of seeded hash, so that an entry is a few words and no request allocates. Memory is bounded:
//! expired entries go as new ones come, and at the maximum the entry that expires first (of a sample) makes room. The
//! surprise: an entry with [`PINNED`] as its end is never evicted; a table full of those refuses new keys.
use foldhash::quality::RandomState;
use sluice_plugin::Env;
use sluice_telemetry::metrics::{Counter, CounterHandle, FamilyOptions};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};

/// An end that never comes.
pub const PINNED: u64 = u64::MAX;
/// Most keys of one table, unless `plugin_attr.NAME.max_keys` says otherwise.
pub const DEFAULT_MAX_KEYS: usize = 1_000_000;
const SHARDS: usize = 256;
/// Entries looked at for expiry on each insertion, and for the earliest end when there is no room.
const SWEEP: usize = 4;
const SAMPLE: usize = 32;

/// A key without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    hash: u64,
    check: u64,
}

/// What keys of one configuration have in common.
#[derive(Clone, Copy, Debug)]
pub struct Prefix(Key);

/// What a key counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry<V> {
    hash: u64,
    check: u64,
    /// When it expires, milliseconds since the epoch. 0: it is new (or had expired), and the value is the default.
    /// Left 0, the entry is not kept.
    pub end: u64,
    pub value: V,
}

/// The table holds its maximum of keys that may not be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory")]
pub struct Full;

/// See the file's head. `V` is the state of one key.
pub struct Counters<V> {
    shards: Box<[Shard<V>]>,
    seeds: (RandomState, RandomState),
    evicted: Option<CounterHandle>,
}

/// On cache lines of its own: neighbours belong to other workers at the same moment.
#[repr(align(128))]
struct Shard<V>(Mutex<Table<V>>);

struct Table<V> {
    entries: Box<[Entry<V>]>,
    len: usize,
    max: usize,
    /// Where the sweep goes on.
    hand: usize,
}

impl<V: Copy + Default + Send + 'static> Counters<V> {
    /// The table of a plugin, made on first use and kept over reloads. `plugin_attr.NAME.max_keys` is its maximum.
    pub fn shared(name: &str, kind: &str, env: &Env) -> Arc<Counters<V>> {
        env.shared.get_or_insert(&format!("{name}#{kind}"), || {
            let max = env.attribute(name).get("max_keys").and_then(serde_json::Value::as_u64);
            let max = max.and_then(|n| usize::try_from(n).ok()).unwrap_or(DEFAULT_MAX_KEYS);
            let help = "Live counters dropped because a limit's table was full";
            let evicted =
                env.metrics.counter("sluice_limit_evictions_total", help, &["plugin"], FamilyOptions::default());
            let evicted = evicted.ok().map(|family: Counter| family.with(&[name]));
            Counters { evicted, ..Counters::new(max) }
        })
    }

    /// A table of at most `max` keys (rounded up to a multiple of the number of shards).
    pub fn new(max: usize) -> Counters<V> {
        let max = max.div_ceil(SHARDS).max(1);
        let table = || Table { entries: Box::default(), len: 0, max, hand: 0 };
        let shards = (0..SHARDS).map(|_| Shard(Mutex::new(table()))).collect();
        Counters { shards, seeds: (RandomState::default(), RandomState::default()), evicted: None }
    }

    /// The common part of keys, hashed once.
    pub fn prefix(&self, text: &str) -> Prefix {
        Prefix(Key { hash: self.seeds.0.hash_one(text), check: self.seeds.1.hash_one(text) })
    }

    /// A key of a configuration.
    #[inline]
    pub fn key(&self, prefix: Prefix, text: &[u8]) -> Key {
        let Prefix(Key { hash, check }) = prefix;
        Key { hash: self.seeds.0.hash_one((hash, text)), check: self.seeds.1.hash_one((check, text)) }
    }

    /// A key's value, if it has one.
    #[inline]
    pub fn get(&self, key: Key, now: u64) -> Option<V> {
        let shard = self.shards.get((key.hash >> 56) as usize % SHARDS)?;
        let table = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = &table.entries[table.find(key)?];
        (entry.end > now).then_some(entry.value)
    }

    /// Changes a key's entry under its shard's lock. `now` is in milliseconds since the epoch.
    #[inline]
    pub fn update<R>(&self, key: Key, now: u64, change: impl FnOnce(&mut Entry<V>) -> R) -> Result<R, Full> {
        let shard = self.shards.get((key.hash >> 56) as usize % SHARDS).ok_or(Full)?;
        let mut table = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = match table.find(key) {
            Some(at) => {
                if table.entries[at].end <= now {
                    table.entries[at] = Entry { hash: key.hash, check: key.check, end: 0, value: V::default() };
                }
                at
            }
            None => {
                let (at, evicted) = table.insert(key, now)?;
                if evicted && let Some(counter) = &self.evicted {
                    counter.inc();
                }
                at
            }
        };
        let result = change(&mut table.entries[at]);
        if table.entries[at].end == 0 {
            table.remove(at);
        }
        Ok(result)
    }
}

/// Positions are always taken modulo the table's length, a power of two; an entry whose `end` is 0 is vacant.
impl<V: Copy + Default> Table<V> {
    #[inline]
    fn find(&self, key: Key) -> Option<usize> {
        let mask = self.entries.len().checked_sub(1)?;
        let mut at = key.hash as usize & mask;
        loop {
            let entry = &self.entries[at];
            if entry.end == 0 {
                return None;
            }
            if entry.hash == key.hash && entry.check == key.check {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// Makes a new entry; also tells whether a live one had to go.
    fn insert(&mut self, key: Key, now: u64) -> Result<(usize, bool), Full> {
        self.sweep(now);
        let mut evicted = false;
        if self.len >= self.max {
            evicted = self.evict(now)?;
        }
        if (self.len + 1) * 4 > self.entries.len() * 3 {
            self.rebuild(now);
        }
        let at = self.vacant(key.hash);
        self.entries[at] = Entry { hash: key.hash, check: key.check, end: 0, value: V::default() };
        self.len += 1;
        Ok((at, evicted))
    }

    fn vacant(&self, hash: u64) -> usize {
        let mask = self.entries.len() - 1;
        let mut at = hash as usize & mask;
        while self.entries[at].end != 0 {
            at = (at + 1) & mask;
        }
        at
    }

    /// Removes what has expired among the next few entries.
    fn sweep(&mut self, now: u64) {
        let Some(mask) = self.entries.len().checked_sub(1) else { return };
        for _ in 0..SWEEP {
            let at = self.hand & mask;
            // A removal may move another entry here: it is looked at next time.
            if self.entries[at].end != 0 && self.entries[at].end <= now {
                self.remove(at);
            } else {
                self.hand = at + 1;
            }
        }
    }

    /// Removes the entry that ends first among some; true if it was live.
    fn evict(&mut self, now: u64) -> Result<bool, Full> {
        let mask = self.entries.len().checked_sub(1).ok_or(Full)?;
        let (mut best, mut seen) = (None, 0);
        for step in 0..=mask {
            let at = (self.hand + step) & mask;
            let end = self.entries[at].end;
            if end == 0 || end == PINNED {
                continue;
            }
            if best.is_none_or(|(_, earliest)| end < earliest) {
                best = Some((at, end));
            }
            seen += 1;
            if seen == SAMPLE {
                break;
            }
        }
        let (at, end) = best.ok_or(Full)?;
        self.remove(at);
        self.hand = (self.hand + SAMPLE) & mask;
        Ok(end > now)
    }

    /// Moves live entries to a table at most half full.
    fn rebuild(&mut self, now: u64) {
        let live = self.entries.iter().filter(|e| e.end > now).count();
        let size = ((live + 1) * 2).next_power_of_two().max(16);
        let old = std::mem::replace(&mut self.entries, vec![Entry::default(); size].into());
        (self.len, self.hand) = (live, 0);
        for entry in old.iter().filter(|e| e.end > now) {
            let at = self.vacant(entry.hash);
            self.entries[at] = *entry;
        }
    }

    /// Removes an entry and closes the gap (linear probing allows no tombstone here).
    fn remove(&mut self, at: usize) {
        let mask = self.entries.len() - 1;
        let (mut gap, mut next) = (at, at);
        loop {
            next = (next + 1) & mask;
            if self.entries[next].end == 0 {
                break;
            }
            let home = self.entries[next].hash as usize & mask;
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(gap) & mask {
                self.entries[gap] = self.entries[next];
                gap = next;
            }
        }
        self.entries[gap].end = 0;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests;
