//! A persistent radix tree over bytes that answers one question: which keys are prefixes of this text, longest first?
//!
//! The surprise: mutation is copy-on-write (`Arc::make_mut`), so the same code builds in place and, on a shared tree,
//! copies the path to the changed node only.
use std::sync::Arc;

use smallvec::SmallVec;

/// The values found on the way down, shortest prefix first.
pub(crate) type Prefixes<'a, V> = SmallVec<[&'a V; 8]>;

#[derive(Debug)]
pub(crate) struct Radix<V> {
    root: Arc<Node<V>>,
}

#[derive(Debug)]
struct Node<V> {
    /// Bytes after the parent's; the first one is also in the parent's `children`.
    label: SmallVec<[u8; 16]>,
    /// Apart, so that nodes stay small: most have none.
    value: Option<Arc<V>>,
    /// Sorted by first byte.
    children: Vec<(u8, Arc<Node<V>>)>,
}

impl<V> Clone for Node<V> {
    fn clone(&self) -> Self {
        Node { label: self.label.clone(), value: self.value.clone(), children: self.children.clone() }
    }
}

impl<V> Clone for Radix<V> {
    fn clone(&self) -> Self {
        Radix { root: Arc::clone(&self.root) }
    }
}

impl<V> Default for Radix<V> {
    fn default() -> Self {
        Radix { root: Arc::new(Node { label: SmallVec::new(), value: None, children: Vec::new() }) }
    }
}

impl<V> Radix<V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.root.value.is_none() && self.root.children.is_empty()
    }

    /// The values of all keys that `text` starts with, shortest first.
    pub(crate) fn prefixes<'a>(&'a self, text: impl Iterator<Item = u8>) -> Prefixes<'a, V> {
        let mut found = Prefixes::new();
        let mut node = &*self.root;
        let mut text = text;
        found.extend(node.value.as_deref());
        while let Some(first) = text.next() {
            let Some((_, child)) = node.children.iter().find(|(b, _)| *b == first) else { break };
            let mut label = child.label.iter().skip(1);
            if !label.all(|b| text.next() == Some(*b)) {
                break;
            }
            node = child;
            found.extend(node.value.as_deref());
        }
        found
    }

    fn get(&self, key: &[u8]) -> Option<&V> {
        let mut node = &*self.root;
        let mut rest = key;
        while let Some(first) = rest.first() {
            let (_, child) = node.children.iter().find(|(b, _)| b == first)?;
            rest = rest.strip_prefix(&*child.label)?;
            node = child;
        }
        node.value.as_deref()
    }
}

impl<V: Clone> Radix<V> {
    /// Replaces the value of `key` by what `change` makes of it; `None` removes the key.
    pub(crate) fn alter(&mut self, key: &[u8], change: impl FnOnce(Option<&V>) -> Option<V>) {
        let old = self.get(key);
        let had = old.is_some();
        match change(old) {
            Some(value) => Arc::make_mut(&mut self.root).insert(key, value),
            None if had => Arc::make_mut(&mut self.root).remove(key),
            None => {}
        }
    }
}

impl<V: Clone> Node<V> {
    fn insert(&mut self, key: &[u8], value: V) {
        let Some(first) = key.first() else {
            self.value = Some(Arc::new(value));
            return;
        };
        let at = match self.children.binary_search_by_key(first, |(b, _)| *b) {
            Ok(at) => at,
            Err(at) => {
                let leaf = Node { label: key.into(), value: Some(Arc::new(value)), children: Vec::new() };
                self.children.insert(at, (*first, Arc::new(leaf)));
                return;
            }
        };
        let Some((_, child)) = self.children.get_mut(at) else { return };
        let common = child.label.iter().zip(key).take_while(|(a, b)| a == b).count();
        let child = Arc::make_mut(child);
        if common < child.label.len() {
            child.split(common);
        }
        child.insert(key.get(common..).unwrap_or_default(), value);
    }

    /// Keeps the first `at` bytes of the label here; the rest goes to an only child.
    fn split(&mut self, at: usize) {
        let rest: SmallVec<[u8; 16]> = self.label.get(at..).unwrap_or_default().into();
        let Some(first) = rest.first().copied() else { return };
        self.label.truncate(at);
        let lower = Node { label: rest, value: self.value.take(), children: std::mem::take(&mut self.children) };
        self.children = vec![(first, Arc::new(lower))];
    }

    /// `key` exists below.
    fn remove(&mut self, key: &[u8]) {
        let Some(first) = key.first() else {
            self.value = None;
            return;
        };
        let Ok(at) = self.children.binary_search_by_key(first, |(b, _)| *b) else { return };
        let Some((_, child)) = self.children.get_mut(at) else { return };
        let child = Arc::make_mut(child);
        let rest = key.get(child.label.len()..).unwrap_or_default();
        child.remove(rest);
        if child.value.is_some() {
            return;
        }
        match &mut *child.children {
            [] => {
                self.children.remove(at);
            }
            [(_, only)] => {
                let mut merged = (**only).clone();
                child.label.extend_from_slice(&merged.label);
                merged.label = std::mem::take(&mut child.label);
                *child = merged;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl<V> Node<V> {
        /// (nodes, nodes that should not exist)
        fn census(&self, root: bool) -> (usize, usize) {
            let bad = usize::from(!root && self.value.is_none() && self.children.len() < 2);
            self.children.iter().map(|(_, c)| c.census(false)).fold((1, bad), |a, b| (a.0 + b.0, a.1 + b.1))
        }
    }

    #[test]
    fn a_change_shares_the_rest() {
        let mut a = Radix::default();
        for key in ["/a/b/", "/a/c/", "/x/y/"] {
            a.alter(key.as_bytes(), |_| Some(1));
        }
        let mut b = a.clone();
        b.alter(b"/a/b/", |_| Some(2));
        let under = |r: &Radix<i32>, byte| {
            Arc::clone(&r.root.children[0].1.children.iter().find(|(b, _)| *b == byte).unwrap().1)
        };
        assert!(Arc::ptr_eq(&under(&a, b'x'), &under(&b, b'x')));
        assert!(!Arc::ptr_eq(&under(&a, b'a'), &under(&b, b'a')));
        assert_eq!((a.get(b"/a/b/"), b.get(b"/a/b/")), (Some(&1), Some(&2)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn as_naive(ops in prop::collection::vec(("[ab]{0,5}", prop::option::weighted(0.7, any::<u8>())), 0..60), text in "[ab]{0,7}") {
            let (mut tree, mut model) = (Radix::default(), BTreeMap::new());
            let mut shared = Vec::new();
            for (key, value) in &ops {
                shared.push(tree.clone());
                tree.alter(key.as_bytes(), |_| *value);
                match value {
                    Some(v) => model.insert(key.clone(), *v),
                    None => model.remove(key),
                };
            }
            let mut want: Vec<_> = model.iter().filter(|(k, _)| text.starts_with(k.as_str())).collect();
            want.sort_by_key(|(k, _)| k.len());
            let got: Vec<_> = tree.prefixes(text.bytes()).into_iter().copied().collect();
            prop_assert_eq!(got, want.into_iter().map(|(_, v)| *v).collect::<Vec<_>>());
            prop_assert_eq!(tree.root.census(true).1, 0);
            prop_assert_eq!(tree.is_empty(), model.is_empty());
        }
    }
}
