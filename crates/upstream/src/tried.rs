//! The nodes a request has already used, so that a retry goes elsewhere.
//!
//! The surprise: a set belongs to one [`crate::Balancer`]; a request keeps the balancer it started with, as indexes
//! of another one mean other nodes.

/// A set of node indexes. The first 64 nodes cost no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    first: u64,
    rest: Vec<u64>,
}

impl Tried {
    /// Nothing tried yet.
    pub const fn new() -> Self {
        Tried { first: 0, rest: Vec::new() }
    }

    /// Whether no node was tried.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first == 0 && self.rest.is_empty()
    }

    /// Remembers a node.
    pub fn insert(&mut self, index: u32) {
        let (word, bit) = (index as usize / 64, 1u64 << (index % 64));
        if word == 0 {
            self.first |= bit;
            return;
        }
        if self.rest.len() < word {
            self.rest.resize(word, 0);
        }
        if let Some(bits) = self.rest.get_mut(word - 1) {
            *bits |= bit;
        }
    }

    /// Whether a node was tried.
    #[inline]
    pub fn contains(&self, index: u32) -> bool {
        let (word, bit) = (index as usize / 64, 1u64 << (index % 64));
        let bits = if word == 0 { self.first } else { self.rest.get(word - 1).copied().unwrap_or(0) };
        bits & bit != 0
    }

    /// How many nodes were tried.
    pub fn len(&self) -> u32 {
        self.first.count_ones() + self.rest.iter().map(|bits| bits.count_ones()).sum::<u32>()
    }

    /// Forgets everything; keeps the memory for the connection's next request.
    pub fn clear(&mut self) {
        self.first = 0;
        self.rest.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_indexes_on_both_sides_of_the_inline_word() {
        let mut tried = Tried::new();
        assert!(tried.is_empty());
        for index in [0, 63, 64, 1000] {
            assert!(!tried.contains(index));
            tried.insert(index);
            assert!(tried.contains(index));
        }
        assert_eq!(tried.len(), 4);
        assert!(!tried.contains(65) && !tried.contains(5000));
        tried.clear();
        assert!(tried.is_empty() && !tried.contains(1000));
    }
}
