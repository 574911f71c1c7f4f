//! A map by text that snapshots share. The surprise: it is cut into parts by the hash of the key; cloning shares all, and a
//! change copies the one part that it touches, not all of 100,000 entries.
use foldhash::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

/// Parts of a map. A change copies their list, too, so that more would not be better.
const PARTS: usize = 256;

type Part<V> = HashMap<Arc<str>, V>;

/// The map.
pub struct Parts<V> {
    parts: Arc<[Arc<Part<V>>]>,
    len: usize,
}

impl<V> Clone for Parts<V> {
    fn clone(&self) -> Parts<V> {
        Parts { parts: self.parts.clone(), len: self.len }
    }
}

impl<V> Default for Parts<V> {
    /// Without parts: they are made with the first entry.
    fn default() -> Parts<V> {
        Parts { parts: Arc::new([]), len: 0 }
    }
}

impl<V> std::fmt::Debug for Parts<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parts of {} entries", self.len)
    }
}

fn part_of(key: &str) -> usize {
    let hash = foldhash::fast::FixedState::default().hash_one(key);
    usize::try_from(hash % PARTS as u64).unwrap_or_default()
}

impl<V> Parts<V> {
    #[inline]
    pub fn get(&self, key: &str) -> Option<&V> {
        if self.len == 0 {
            return None;
        }
        self.parts.get(part_of(key))?.get(key)
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    /// Entries of `self` whose parts are others than in `before`: all that differ, and some that do not. Costs what changed.
    pub fn perhaps_changed<'a>(&'a self, before: &'a Parts<V>) -> impl Iterator<Item = (&'a Arc<str>, &'a V)> {
        let parts = self.parts.iter().enumerate();
        let other =
            |(at, part): &(usize, &Arc<Part<V>>)| before.parts.get(*at).is_none_or(|old| !Arc::ptr_eq(part, old));
        parts.filter(other).flat_map(|(_, part)| part.iter())
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<V: Clone> Parts<V> {
    /// What stood there before.
    pub fn insert(&mut self, key: Arc<str>, value: V) -> Option<V> {
        let old = self.part_mut(&key)?.insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// What stood there.
    pub fn remove(&mut self, key: &str) -> Option<V> {
        // A part is not copied to find that there is nothing to remove.
        if !self.contains_key(key) {
            return None;
        }
        let old = self.part_mut(key)?.remove(key);
        self.len -= usize::from(old.is_some());
        old
    }

    fn part_mut(&mut self, key: &str) -> Option<&mut Part<V>> {
        if self.parts.is_empty() {
            let empty = Arc::new(Part::default());
            self.parts = (0..PARTS).map(|_| empty.clone()).collect();
        }
        Arc::make_mut(&mut self.parts).get_mut(part_of(key)).map(Arc::make_mut)
    }
}

impl<V: Clone> FromIterator<(Arc<str>, V)> for Parts<V> {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, V)>>(entries: I) -> Parts<V> {
        let mut all = Parts::default();
        for (key, value) in entries {
            all.insert(key, value);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_copies_one_part() {
        let before: Parts<u32> = (0..10_000).map(|n| (Arc::from(n.to_string()), n)).collect();
        let mut now = before.clone();
        assert_eq!(now.insert("7".into(), 70), Some(7));
        assert_eq!(now.remove("8"), Some(8));
        assert_eq!(now.remove("none"), None);
        assert_eq!(
            (before.get("7"), now.get("7"), before.get("8"), now.get("8")),
            (Some(&7), Some(&70), Some(&8), None)
        );
        assert_eq!((before.len(), now.len(), now.iter().count()), (10_000, 9_999, 9_999));
        let copied = before.parts.iter().zip(now.parts.iter()).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert!((1..=2).contains(&copied), "{copied}");
        let seen: Vec<&str> = now.perhaps_changed(&before).map(|(key, _)| &**key).collect();
        assert!(seen.contains(&"7") && seen.len() < 200, "{}", seen.len());
        assert!(before.perhaps_changed(&now).any(|(key, _)| &**key == "8"));
    }

    #[test]
    fn an_empty_one_has_no_parts() {
        let mut map: Parts<u32> = Parts::default();
        assert!(map.is_empty() && map.get("a").is_none() && map.remove("a").is_none());
        assert_eq!(map.insert("a".into(), 1), None);
        assert_eq!(map.remove("a"), Some(1));
        assert!(map.is_empty());
    }
}
