//! What all machines of a process share: the limits and the shared dictionaries.
//!
//! The surprise: any name is a dictionary. nginx must be told of them first, here they come into being when they are used.
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bounds on scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instructions of one call; 0: no bound, and LuaJIT compiles.
    pub instructions: u64,
    /// Bytes of one thread's machine.
    pub memory: usize,
    /// Bytes of one shared dictionary.
    pub dictionary: usize,
    /// Scripts may read variables of the process's environment (`os.getenv`).
    pub environment: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { instructions: 10_000_000, memory: 64 << 20, dictionary: 10 << 20, environment: false }
    }
}

/// More names than this are refused.
const DICTIONARIES: usize = 128;
/// What an entry costs beside its key and value, in bytes.
const ENTRY: usize = 64;

/// The shared part of all machines.
#[derive(Debug, Default)]
pub struct Engine {
    pub limits: Limits,
    dictionaries: Mutex<HashMap<String, Dictionary>>,
}

#[derive(Debug, Default)]
struct Dictionary {
    entries: HashMap<Vec<u8>, Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    value: Shared,
    expires: Option<Instant>,
    flags: f64,
}

/// A value of a shared dictionary.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shared {
    Bytes(Vec<u8>),
    Number(f64),
    Bool(bool),
}

impl Shared {
    fn size(&self) -> usize {
        match self {
            Shared::Bytes(bytes) => bytes.len(),
            Shared::Number(_) | Shared::Bool(_) => 8,
        }
    }
}

/// Under which condition a value is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Always,
    IfNew,
    IfThere,
}

impl Dictionary {
    fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let old = self.entries.remove(key)?;
        self.bytes = self.bytes.saturating_sub(ENTRY + key.len() + old.value.size());
        Some(old)
    }

    fn expire(&mut self, now: Instant) {
        let gone = |e: &Entry| e.expires.is_some_and(|at| at <= now);
        let keys: Vec<Vec<u8>> = self.entries.iter().filter(|(_, e)| gone(e)).map(|(k, _)| k.clone()).collect();
        for key in keys {
            self.remove(&key);
        }
    }

    fn live(&mut self, key: &[u8], now: Instant) -> Option<&mut Entry> {
        if self.entries.get(key)?.expires.is_some_and(|at| at <= now) {
            self.remove(key);
            return None;
        }
        self.entries.get_mut(key)
    }
}

/// Seconds of Lua to an instant; 0 and less: never.
fn expiry(seconds: f64, now: Instant) -> Option<Instant> {
    let lasts = Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero())?;
    now.checked_add(lasts)
}

impl Engine {
    pub fn new(limits: Limits) -> Engine {
        Engine { limits, dictionaries: Mutex::default() }
    }

    fn dictionary<R>(&self, name: &str, f: impl FnOnce(&mut Dictionary, Instant) -> R) -> Option<R> {
        let mut all = self.dictionaries.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(name) && all.len() >= DICTIONARIES {
            return None;
        }
        Some(f(all.entry(name.to_owned()).or_default(), Instant::now()))
    }

    pub(crate) fn get(&self, name: &str, key: &[u8]) -> Option<(Shared, f64)> {
        self.dictionary(name, |d, now| d.live(key, now).map(|e| (e.value.clone(), e.flags)))?
    }

    /// `Ok(false)`: the condition did not hold.
    pub(crate) fn put(
        &self,
        name: &str,
        key: &[u8],
        value: Shared,
        seconds: f64,
        flags: f64,
        when: Write,
    ) -> Result<bool, &'static str> {
        let limit = self.limits.dictionary;
        let written = self.dictionary(name, |d, now| {
            let there = d.live(key, now).is_some();
            if (when == Write::IfNew && there) || (when == Write::IfThere && !there) {
                return Ok(false);
            }
            d.remove(key);
            let size = ENTRY + key.len() + value.size();
            if d.bytes + size > limit {
                d.expire(now);
            }
            if d.bytes + size > limit {
                return Err("no memory");
            }
            d.bytes += size;
            d.entries.insert(key.to_vec(), Entry { value, expires: expiry(seconds, now), flags });
            Ok(true)
        });
        written.unwrap_or(Err("no memory"))
    }

    pub(crate) fn delete(&self, name: &str, key: &[u8]) {
        let _ = self.dictionary(name, |d, _| d.remove(key));
    }

    /// Adds to a number; one that is not there begins at `initial`, where that is given.
    pub(crate) fn add(
        &self,
        name: &str,
        key: &[u8],
        by: f64,
        initial: Option<f64>,
        seconds: f64,
    ) -> Result<f64, &'static str> {
        let found = self.dictionary(name, |d, now| match d.live(key, now) {
            Some(Entry { value: Shared::Number(n), .. }) => {
                *n += by;
                Some(Ok(*n))
            }
            Some(_) => Some(Err("not a number")),
            None => None,
        });
        match (found.flatten(), initial) {
            (Some(done), _) => done,
            (None, None) => Err("not found"),
            (None, Some(initial)) => {
                let sum = initial + by;
                self.put(name, key, Shared::Number(sum), seconds, 0.0, Write::Always).map(|_| sum)
            }
        }
    }

    /// Seconds until a key ends; 0: never; `None`: not there.
    pub(crate) fn ttl(&self, name: &str, key: &[u8]) -> Option<f64> {
        self.dictionary(name, |d, now| {
            d.live(key, now).map(|e| e.expires.map_or(0.0, |at| at.saturating_duration_since(now).as_secs_f64()))
        })?
    }

    pub(crate) fn flush(&self, name: &str) {
        let _ = self.dictionary(name, |d, _| *d = Dictionary::default());
    }

    /// Up to `limit` keys, 0: all.
    pub(crate) fn keys(&self, name: &str, limit: usize) -> Vec<Vec<u8>> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        self.dictionary(name, |d, now| {
            d.expire(now);
            d.entries.keys().take(limit).cloned().collect()
        })
        .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dictionary_is_bounded_and_counts() {
        let engine = Engine::new(Limits { dictionary: 200, ..Limits::default() });
        let text = |n: usize| Shared::Bytes(vec![b'x'; n]);
        assert_eq!(engine.put("d", b"a", text(100), 0.0, 0.0, Write::Always), Ok(true));
        assert_eq!(engine.put("d", b"b", text(100), 0.0, 0.0, Write::Always), Err("no memory"));
        assert_eq!(engine.put("d", b"a", text(1), 0.0, 0.0, Write::IfNew), Ok(false));
        engine.delete("d", b"a");
        assert_eq!(engine.add("d", b"n", 2.0, None, 0.0), Err("not found"));
        assert_eq!(engine.add("d", b"n", 2.0, Some(1.0), 0.0), Ok(3.0));
        assert_eq!(engine.add("d", b"n", 2.0, Some(1.0), 0.0), Ok(5.0));
        assert_eq!(engine.get("d", b"n"), Some((Shared::Number(5.0), 0.0)));
        assert_eq!(engine.get("other", b"n"), None);
    }
}
