//! The bytes of a transaction in one buffer: values, and what transformations made of them.

/// A part of the arena's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

#[derive(Default)]
pub(crate) struct Arena {
    bytes: Vec<u8>,
}

impl Arena {
    pub(crate) fn push(&mut self, value: &[u8]) -> Span {
        let start = self.end();
        self.bytes.extend_from_slice(value);
        Span { start, end: self.end() }
    }

    pub(crate) fn get(&self, span: Span) -> &[u8] {
        self.bytes.get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    /// The value that a function made of one that is here; the same span where it made none.
    pub(crate) fn derive(&mut self, from: Span, scratch: &mut Vec<u8>, f: fn(&[u8], &mut Vec<u8>) -> bool) -> Span {
        scratch.clear();
        if f(self.get(from), scratch) && scratch.as_slice() != self.get(from) { self.push(scratch) } else { from }
    }

    /// Forgets everything; of its memory, keeps so many bytes at most.
    pub(crate) fn clear(&mut self, keep: usize) {
        self.bytes.clear();
        if self.bytes.capacity() > keep {
            self.bytes.shrink_to(keep);
        }
    }

    fn end(&self) -> u32 {
        // a transaction's values are limited by body and header limits far below 4 GiB
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }
}
