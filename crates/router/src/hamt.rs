//! A persistent hash map from strings: cloning shares everything, a change copies one node per level.
//!
//! The surprise: a node's bitmap lives in the slot that points to it, so a level costs one cache miss, not two. Mutation
//! is copy-on-write (`Arc::make_mut`): in place while building, path copying once a snapshot shares the nodes.
use std::hash::BuildHasher;
use std::sync::Arc;

use smallvec::SmallVec;

const BITS: u32 = 6;

/// A map of at most 2^64 keys; about log64 of its size deep.
#[derive(Debug)]
pub(crate) struct Hamt<V> {
    root: Node<V>,
    hasher: foldhash::fast::RandomState,
}

#[derive(Debug)]
struct Node<V> {
    /// Which of the 64 next hash values have a slot.
    bitmap: u64,
    slots: Arc<[Slot<V>]>,
}

#[derive(Debug)]
enum Slot<V> {
    Node(Node<V>),
    Leaf { hash: u64, leaf: Arc<Leaf<V>> },
}

/// Keys with the very same 64-bit hash are chained.
#[derive(Debug, Clone)]
struct Leaf<V> {
    /// In place when short: one cache miss less.
    key: SmallVec<[u8; 40]>,
    value: V,
    next: Option<Arc<Leaf<V>>>,
}

impl<V> Clone for Hamt<V> {
    fn clone(&self) -> Self {
        Hamt { root: self.root.clone(), hasher: self.hasher.clone() }
    }
}

impl<V> Clone for Node<V> {
    fn clone(&self) -> Self {
        Node { bitmap: self.bitmap, slots: Arc::clone(&self.slots) }
    }
}

impl<V> Clone for Slot<V> {
    fn clone(&self) -> Self {
        match self {
            Slot::Node(node) => Slot::Node(node.clone()),
            Slot::Leaf { hash, leaf } => Slot::Leaf { hash: *hash, leaf: Arc::clone(leaf) },
        }
    }
}

impl<V> Default for Hamt<V> {
    fn default() -> Self {
        Hamt { root: Node { bitmap: 0, slots: Arc::new([]) }, hasher: foldhash::fast::RandomState::default() }
    }
}

impl<V> Hamt<V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.root.bitmap == 0
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        if self.root.bitmap == 0 {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        let mut node = &self.root;
        let mut rest = hash;
        loop {
            match node.slots.get(node.index(rest)?)? {
                Slot::Node(next) => node = next,
                Slot::Leaf { hash: found, leaf } => return if *found == hash { leaf.get(key) } else { None },
            }
            rest >>= BITS;
        }
    }

    /// Every value, in no particular order.
    pub(crate) fn for_each(&self, visit: &mut dyn FnMut(&V)) {
        self.root.for_each(visit);
    }
}

impl<V: Clone> Hamt<V> {
    /// Replaces the value of `key` by what `change` makes of it; `None` removes the key.
    pub(crate) fn alter(&mut self, key: &str, change: impl FnOnce(Option<&V>) -> Option<V>) {
        let hash = self.hasher.hash_one(key);
        let old = self.get(key);
        let had = old.is_some();
        match (change(old), had) {
            (Some(value), true) => self.root.replace(hash, 0, key, value),
            (Some(value), false) => {
                self.root.insert(hash, 0, Arc::new(Leaf { key: key.as_bytes().into(), value, next: None }))
            }
            (None, true) => self.root.remove(hash, 0, key),
            (None, false) => {}
        }
    }
}

impl<V> Node<V> {
    fn bit(rest: u64) -> u64 {
        1 << (rest & ((1 << BITS) - 1))
    }

    /// The slot for the lowest bits of `rest`, if there is one.
    fn index(&self, rest: u64) -> Option<usize> {
        let bit = Self::bit(rest);
        (self.bitmap & bit != 0).then(|| self.rank(bit))
    }

    fn rank(&self, bit: u64) -> usize {
        (self.bitmap & (bit - 1)).count_ones() as usize
    }

    fn for_each(&self, visit: &mut dyn FnMut(&V)) {
        for slot in &*self.slots {
            match slot {
                Slot::Node(node) => node.for_each(visit),
                Slot::Leaf { leaf, .. } => {
                    let mut leaf = Some(leaf);
                    while let Some(l) = leaf {
                        visit(&l.value);
                        leaf = l.next.as_ref();
                    }
                }
            }
        }
    }
}

impl<V: Clone> Node<V> {
    fn slot_mut(&mut self, hash: u64, depth: u32) -> Option<&mut Slot<V>> {
        let index = self.index(shifted(hash, depth))?;
        Arc::make_mut(&mut self.slots).get_mut(index)
    }

    /// `key` exists.
    fn replace(&mut self, hash: u64, depth: u32, key: &str, value: V) {
        match self.slot_mut(hash, depth) {
            Some(Slot::Node(node)) => node.replace(hash, depth + 1, key, value),
            Some(Slot::Leaf { leaf, .. }) => {
                let mut leaf = leaf;
                loop {
                    let this = Arc::make_mut(leaf);
                    if *this.key == *key.as_bytes() {
                        this.value = value;
                        return;
                    }
                    match &mut this.next {
                        Some(next) => leaf = next,
                        None => return,
                    }
                }
            }
            None => {}
        }
    }

    /// The leaf's key does not exist.
    fn insert(&mut self, hash: u64, depth: u32, new: Arc<Leaf<V>>) {
        let rest = shifted(hash, depth);
        let bit = Self::bit(rest);
        let Some(slot) = self.slot_mut(hash, depth) else {
            let at = self.rank(bit);
            let (before, after) = self.slots.split_at_checked(at).unwrap_or((&self.slots, &[]));
            self.slots =
                before.iter().cloned().chain([Slot::Leaf { hash, leaf: new }]).chain(after.iter().cloned()).collect();
            self.bitmap |= bit;
            return;
        };
        match slot {
            Slot::Node(node) => node.insert(hash, depth + 1, new),
            Slot::Leaf { hash: other, leaf } if *other == hash => {
                let mut new = new;
                Arc::make_mut(&mut new).next = Some(Arc::clone(leaf));
                *leaf = new;
            }
            Slot::Leaf { hash: other, leaf } => {
                let other = *other;
                let mut node = Node { bitmap: 0, slots: Arc::new([]) };
                node.insert(other, depth + 1, Arc::clone(leaf));
                node.insert(hash, depth + 1, new);
                *slot = Slot::Node(node);
            }
        }
    }

    /// `key` exists.
    fn remove(&mut self, hash: u64, depth: u32, key: &str) {
        let bit = Self::bit(shifted(hash, depth));
        let at = self.rank(bit);
        let Some(slot) = self.slot_mut(hash, depth) else { return };
        match slot {
            Slot::Node(node) => {
                node.remove(hash, depth + 1, key);
                // A node with one leaf is that leaf, so that the shape does not depend on history.
                if let [only @ Slot::Leaf { .. }] = &*node.slots {
                    *slot = only.clone();
                }
                return;
            }
            Slot::Leaf { leaf, .. } if leaf.next.is_some() => {
                if let Some(rest) = leaf.without(key) {
                    *leaf = rest;
                }
                return;
            }
            Slot::Leaf { .. } => {}
        }
        self.slots = self.slots.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, slot)| slot.clone()).collect();
        self.bitmap &= !bit;
    }
}

fn shifted(hash: u64, depth: u32) -> u64 {
    // Keys with different hashes part at the eleventh level at the latest.
    hash.checked_shr(depth * BITS).unwrap_or(0)
}

impl<V> Leaf<V> {
    fn get(&self, key: &str) -> Option<&V> {
        let mut leaf = self;
        loop {
            if *leaf.key == *key.as_bytes() {
                return Some(&leaf.value);
            }
            leaf = leaf.next.as_deref()?;
        }
    }
}

impl<V: Clone> Leaf<V> {
    fn without(self: &Arc<Self>, key: &str) -> Option<Arc<Leaf<V>>> {
        if *self.key == *key.as_bytes() {
            return self.next.clone();
        }
        let next = self.next.as_ref().and_then(|n| n.without(key));
        Some(Arc::new(Leaf { key: self.key.clone(), value: self.value.clone(), next }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_hashes_chain() {
        let leaf = |key: &str, value| Arc::new(Leaf { key: key.as_bytes().into(), value, next: None });
        let mut node = Node { bitmap: 0, slots: Arc::new([]) };
        for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
            node.insert(7, 0, leaf(key, value));
        }
        let chain = |node: &Node<i32>| match &node.slots[0] {
            Slot::Leaf { leaf, .. } => ["a", "b", "c"].map(|k| leaf.get(k).copied()),
            Slot::Node(_) => [None; 3],
        };
        node.replace(7, 0, "b", 9);
        assert_eq!(chain(&node), [Some(1), Some(9), Some(3)]);
        node.remove(7, 0, "b");
        assert_eq!(chain(&node), [Some(1), None, Some(3)]);
        // Hashes that differ in the last bits only.
        node.insert(7 | 1 << 63, 0, leaf("z", 4));
        node.remove(7 | 1 << 63, 0, "z");
        assert_eq!(chain(&node), [Some(1), None, Some(3)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn as_hash_map(ops in prop::collection::vec(("[a-d]{1,3}", prop::option::of(any::<u8>())), 0..300)) {
            let (mut map, mut model) = (Hamt::default(), HashMap::new());
            let mut snapshots = Vec::new();
            for (i, (key, value)) in ops.iter().enumerate() {
                if i % 50 == 0 {
                    snapshots.push((map.clone(), model.clone()));
                }
                map.alter(key, |_| *value);
                match value {
                    Some(v) => model.insert(key.clone(), *v),
                    None => model.remove(key),
                };
            }
            snapshots.push((map, model));
            for (map, model) in &snapshots {
                let mut n = 0;
                map.for_each(&mut |_| n += 1);
                prop_assert_eq!(n, model.len());
                for (key, _) in &ops {
                    prop_assert_eq!(map.get(key), model.get(key));
                }
                prop_assert_eq!(map.is_empty(), model.is_empty());
            }
        }
    }
}
