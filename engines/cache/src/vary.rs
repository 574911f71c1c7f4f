//! `Vary`: which request fields select an answer, and the key of the variant that a request selects (RFC 9111 section 4.1).
//!
//! The surprise: the selecting values themselves are the key, not a hash of them, so that no request can be made to meet another
//! one's variant. A request whose values are too long for that has no variant, and passes the cache by.
use crate::fields::List;
use std::sync::Arc;

/// Longest sum of selecting values, in bytes.
const MAX_VALUES: usize = 2048;
/// Most fields that may select.
const MAX_FIELDS: usize = 16;

/// The fields that select a variant of a resource. It is stored under the resource's own key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vary {
    /// Lower-case, sorted, each once.
    pub names: Vec<Arc<str>>,
    /// Part of every variant's key: with a new mark, as after a purge, the old variants are out of reach.
    pub generation: u64,
}

/// Sorts the items of one line: their weights tell their order, not their place.
fn sort(key: &mut Vec<u8>, from: usize) {
    let line = key.split_off(from);
    let mut items: Vec<&[u8]> = line.split_inclusive(|b| *b == b',').collect();
    items.sort_unstable();
    items.iter().for_each(|item| key.extend_from_slice(item));
}

/// Reads a response's `Vary`. `None`: no request selects this answer (`*`, or too much); empty: every request does.
pub fn names<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Vec<Arc<str>>> {
    let mut names: Vec<Arc<str>> = Vec::new();
    for line in lines {
        if std::str::from_utf8(line).is_err() {
            return None;
        }
        for (name, _) in List::new(line) {
            if name == "*" {
                return None;
            }
            names.push(name.to_ascii_lowercase().into());
        }
    }
    names.sort_unstable();
    names.dedup();
    (names.len() <= MAX_FIELDS).then_some(names)
}

impl Vary {
    /// The key of the variant that a request selects; `value` gives all lines of a field. None where the values are too long.
    pub fn key<'a, I>(&self, resource: &[u8], value: impl Fn(&str) -> I) -> Option<Vec<u8>>
    where
        I: Iterator<Item = &'a [u8]>,
    {
        let mut key = Vec::with_capacity(resource.len() + 64);
        key.extend_from_slice(resource);
        // No resource's key has a control character: see the plugin.
        key.extend_from_slice(format!("\0{:016x}", self.generation).as_bytes());
        let start = key.len();
        for name in &self.names {
            let field = key.len();
            key.extend_from_slice(b"\0\0\0\0");
            let mut there = false;
            for line in value(name) {
                there = true;
                let from = key.len();
                // White space around commas means nothing, and neither do several lines instead of one.
                for item in line.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty()) {
                    let lower = matches!(&**name, "accept-encoding" | "accept-language" | "accept" | "accept-charset");
                    key.extend(item.iter().map(|b| if lower { b.to_ascii_lowercase() } else { *b }));
                    key.push(b',');
                }
                if matches!(&**name, "accept-encoding" | "accept-language" | "accept" | "accept-charset") {
                    sort(&mut key, from);
                }
            }
            if key.len() - start > MAX_VALUES {
                return None;
            }
            let length = if there { (key.len() - field - 4) as u32 + 1 } else { 0 };
            key[field..field + 4].copy_from_slice(&length.to_be_bytes());
        }
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(names: &[&str], values: &[(&str, &str)]) -> Option<Vec<u8>> {
        let vary = Vary { names: names.iter().map(|n| (*n).into()).collect(), generation: 7 };
        let values = |name: &str| {
            let name = name.to_owned();
            values.iter().filter(move |(n, _)| *n == name).map(|(_, v)| v.as_bytes())
        };
        vary.key(b"r", values)
    }

    #[test]
    fn names_are_a_sorted_set_and_a_star_is_none() {
        let read = |text: &str| names([text.as_bytes()].into_iter());
        assert_eq!(read("B, a,,A ").unwrap(), ["a", "b"].map(Arc::from));
        assert_eq!(read("a, *"), None);
        assert_eq!(read("").unwrap(), Vec::<Arc<str>>::new());
    }

    #[test]
    fn equal_meaning_is_an_equal_key() {
        assert_eq!(key(&["x"], &[("x", "a,b")]), key(&["x"], &[("x", " a ,  b")]));
        assert_eq!(key(&["x"], &[("x", "a,b")]), key(&["x"], &[("x", "a"), ("x", "b")]));
        assert_ne!(key(&["x"], &[("x", "")]), key(&["x"], &[]));
        assert_ne!(key(&["x"], &[("x", "a")]), key(&["x"], &[("x", "A")]));
        assert_eq!(
            key(&["accept-language"], &[("accept-language", "en, DE")]),
            key(&["accept-language"], &[("accept-language", "de,en")])
        );
        assert_ne!(key(&["x"], &[("x", "a,b")]), key(&["x"], &[("x", "b,a")]));
        assert_eq!(key(&["x"], &[("x", &"a".repeat(4000))]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_two_selections_share_a_key(a in "[ab\\x00\\x01]{0,4}", b in "[ab\\x00\\x01]{0,4}", c in "[ab\\x00\\x01]{0,4}", d in "[ab\\x00\\x01]{0,4}") {
            let one = key(&["x", "y"], &[("x", &a), ("y", &b)]);
            let other = key(&["x", "y"], &[("x", &c), ("y", &d)]);
            prop_assert_eq!(one == other, (a, b) == (c, d));
        }
    }
}
