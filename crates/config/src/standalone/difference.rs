//! What a new version of a file has changed, found while it is read: one pass, without holding the new version in
//! memory. The surprise: only the first and the last difference count, everything between them is "the change".

use std::io::{self, Read};

/// Read at a time: small enough to stay in the cache until it is compared.
const CHUNK: usize = 128 << 10;

/// `old[start..old_end]` has become `new`; before and after it both versions are the same.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    pub start: usize,
    pub old_end: usize,
    pub new: Vec<u8>,
}

impl Difference {
    /// Compares `old` with what `reader` delivers, which must be `length` bytes. `None`: they are the same.
    pub fn read(reader: &mut impl Read, length: usize, old: &[u8]) -> io::Result<Option<Difference>> {
        let mut buffer = vec![0; CHUNK];
        let mut comparison = Comparison { old, length, at: 0, start: None, gap: 0, new: Vec::new() };
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let chunk = buffer.get(..read).unwrap_or_default();
            if chunk.is_empty() {
                break;
            }
            comparison.take(chunk);
        }
        if comparison.at != length {
            return Err(io::Error::other("the file changed while it was read"));
        }
        Ok(comparison.finish())
    }
}

struct Comparison<'a> {
    old: &'a [u8],
    length: usize,
    /// Bytes seen.
    at: usize,
    /// The first difference.
    start: Option<usize>,
    /// Bytes seen last that are the same as in `old`, counted from its end.
    gap: usize,
    /// From the first difference to the last, so far.
    new: Vec<u8>,
}

impl Comparison<'_> {
    fn take(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        if self.start.is_none() {
            let old = self.old.get(self.at..).unwrap_or_default();
            let same = common_prefix(chunk, old);
            self.at += same;
            rest = chunk.get(same..).unwrap_or_default();
            if rest.is_empty() {
                return;
            }
            self.start = Some(self.at);
        }
        // Bytes of `old` that stand as far from its end; those before the first difference are not looked at twice.
        let first = self.start.unwrap_or_default();
        let after = (self.at + self.old.len()).checked_sub(self.length).filter(|after| *after >= first);
        let same = match after {
            Some(after) => common_suffix(rest, self.between(after, rest.len())),
            None => {
                // The first bytes of the chunk have no counterpart.
                let alone = (first + self.length).saturating_sub(self.at + self.old.len());
                let rest = rest.get(alone..).unwrap_or_default();
                common_suffix(rest, self.between(first, rest.len()))
            }
        };
        let differing = rest.len() - same;
        if differing > 0 {
            // What seemed to be the end was not.
            let from = (self.at + self.old.len()).saturating_sub(self.length + self.gap);
            self.new.extend_from_slice(self.old.get(from..(from + self.gap).min(self.old.len())).unwrap_or_default());
            self.new.extend_from_slice(rest.get(..differing).unwrap_or_default());
            self.gap = 0;
        }
        self.gap += same;
        self.at += rest.len();
    }

    fn between(&self, start: usize, length: usize) -> &[u8] {
        self.old.get(start..(start + length).min(self.old.len())).unwrap_or_default()
    }

    fn finish(self) -> Option<Difference> {
        match self.start {
            Some(start) => Some(Difference { start, old_end: self.old.len().saturating_sub(self.gap), new: self.new }),
            None if self.old.len() == self.length => None,
            // A beginning of the old version.
            None => Some(Difference { start: self.length, old_end: self.old.len(), new: Vec::new() }),
        }
    }
}

/// Compared at a time by the library's `memcmp`.
const BLOCK: usize = 4096;

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let mut same = 0;
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        if a != b {
            return same + a.iter().zip(b).take_while(|(a, b)| a == b).count();
        }
        same += a.len();
    }
    same
}

fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    let mut same = 0;
    for (a, b) in a.rchunks(BLOCK).zip(b.rchunks(BLOCK)) {
        if a != b {
            return same + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
        }
        same += a.len();
    }
    same
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Delivers a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(buffer.len());
            let buffer = buffer.get_mut(..count).unwrap();
            self.0.read(buffer)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn old_and_difference_make_the_new(old in "[ab]{0,20}", new in "[ab]{0,20}", step in 1usize..8) {
            let (old, new) = (old.as_bytes(), new.as_bytes());
            match Difference::read(&mut Slow(new, step), new.len(), old).unwrap() {
                None => prop_assert_eq!(old, new),
                Some(difference) => {
                    prop_assert_ne!(old, new);
                    let before = old.iter().zip(new).take_while(|(a, b)| a == b).count();
                    prop_assert_eq!(difference.start, before, "the longest common beginning");
                    let left = old.len().min(new.len()) - before;
                    let after = old.iter().rev().zip(new.iter().rev()).take(left).take_while(|(a, b)| a == b).count();
                    prop_assert_eq!(old.len() - difference.old_end, after, "the longest common end beside it");
                    let made = [&old[..difference.start], &difference.new, &old[difference.old_end..]].concat();
                    prop_assert_eq!(made, new);
                }
            }
        }
    }

    #[test]
    fn a_file_that_grows_or_shrinks_meanwhile_is_an_error() {
        assert!(Difference::read(&mut Slow(b"abc", 2), 4, b"abc").is_err());
        assert!(Difference::read(&mut Slow(b"abc", 2), 2, b"abc").is_err());
    }
}
