//! Where the parts of a head end: tokens, targets, values. Everything that a request's cost hangs on most is here.
//!
//! The surprise: 16 bytes are looked at at a time where the processor is sure to be able to (SSE2 is a part of x86_64); elsewhere a
//! table decides byte by byte.

/// A table of ASCII's letters and digits, and these.
pub(crate) const fn alphanumeric_and(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 128 {
        table[b] = (b as u8).is_ascii_alphanumeric();
        b += 1;
    }
    let mut i = 0;
    while i < others.len() {
        table[others[i] as usize] = true;
        i += 1;
    }
    table
}

/// Bytes of a token (RFC 9110 section 5.6.2): methods, field names.
static TOKEN: [bool; 256] = alphanumeric_and(b"!#$%&'*+-.^_`|~");

/// Bytes that no field value holds (RFC 9110 section 5.5): controls but HTAB.
static ENDS_VALUE: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 0x20 {
        table[b] = b != 9;
        b += 1;
    }
    table[0x7f] = true;
    table
};

/// Bytes that no request target holds: controls, white space, and `#` (RFC 3986 section 3.5: a fragment is not sent).
static ENDS_TARGET: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b <= 0x20 {
        table[b] = true;
        b += 1;
    }
    table[0x7f] = true;
    table[b'#' as usize] = true;
    table
};

/// The first place from `at` on that holds no byte of a token.
#[inline(always)]
pub(super) fn token_end(data: &[u8], at: usize) -> usize {
    // Names are letters, digits, `-` and `_`; the rest of a token's bytes are for the table.
    let at = blocks::end(data, at, blocks::no_name);
    if data.get(at) == Some(&b':') { at } else { table_end(data, at, |b| !TOKEN[usize::from(b)]) }
}

/// The first place from `at` on that holds no byte of a field's value.
#[inline(always)]
pub(super) fn value_end(data: &[u8], at: usize) -> usize {
    table_end(data, blocks::end(data, at, blocks::no_value), |b| ENDS_VALUE[usize::from(b)])
}

/// The first place from `at` on that holds no byte of a request target.
#[inline(always)]
pub(super) fn target_end(data: &[u8], at: usize) -> usize {
    table_end(data, blocks::end(data, at, blocks::no_target), |b| ENDS_TARGET[usize::from(b)])
}

#[inline(always)]
fn table_end(data: &[u8], at: usize, ends: impl Fn(u8) -> bool) -> usize {
    let rest = data.get(at..).unwrap_or_default();
    at + rest.iter().position(|b| ends(*b)).unwrap_or(rest.len())
}

/// Blocks of 16 bytes. Each test gives a bit for each byte.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "looking at single bytes costs a tenth of a request")]
mod blocks {
    use std::arch::x86_64::{
        __m128i, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128,
        _mm_set1_epi8, _mm_sub_epi8,
    };

    /// The first place from `at` on for which `test` holds, or the end of `data`; `at` where there is no block.
    #[inline(always)]
    pub fn end(data: &[u8], mut at: usize, test: impl Fn(__m128i) -> u32) -> usize {
        // SAFETY: SSE2 is a part of x86_64; the load needs no alignment and takes the 16 bytes of `block`.
        let look = |block: &[u8; 16]| test(unsafe { _mm_loadu_si128(block.as_ptr().cast()) });
        while let Some(block) = data.get(at..).and_then(|rest| rest.first_chunk()) {
            match look(block) {
                0 => at += 16,
                found => return at + found.trailing_zeros() as usize,
            }
        }
        // The last block overlaps what is behind.
        let Some((seen, block)) = data.split_last_chunk::<16>() else { return at };
        let Some(behind) = at.checked_sub(seen.len()).filter(|behind| *behind < 16) else { return at };
        match look(block) >> behind {
            0 => data.len(),
            found => at + found.trailing_zeros() as usize,
        }
    }

    // SAFETY of what follows: SSE2 is a part of x86_64, and nothing but registers is touched.

    /// Where a byte is `from`, or at most `more` above it.
    #[inline(always)]
    fn within(block: __m128i, from: u8, more: u8) -> __m128i {
        unsafe {
            let above = _mm_sub_epi8(block, _mm_set1_epi8(from as i8));
            _mm_cmpeq_epi8(_mm_min_epu8(above, _mm_set1_epi8(more as i8)), above)
        }
    }

    #[inline(always)]
    fn is(block: __m128i, byte: u8) -> __m128i {
        unsafe { _mm_cmpeq_epi8(block, _mm_set1_epi8(byte as i8)) }
    }

    #[inline(always)]
    fn or(a: __m128i, b: __m128i) -> __m128i {
        unsafe { _mm_or_si128(a, b) }
    }

    #[inline(always)]
    fn bits(of: __m128i) -> u32 {
        unsafe { _mm_movemask_epi8(of) as u32 }
    }

    #[inline(always)]
    pub fn no_name(block: __m128i) -> u32 {
        let lower = unsafe { _mm_or_si128(block, _mm_set1_epi8(0x20)) };
        let letter = within(lower, b'a', 25);
        let other = or(within(block, b'0', 9), or(is(block, b'-'), is(block, b'_')));
        !bits(or(letter, other)) & 0xffff
    }

    #[inline(always)]
    pub fn no_value(block: __m128i) -> u32 {
        let low = unsafe { _mm_andnot_si128(is(block, b'\t'), within(block, 0, 0x1f)) };
        bits(or(low, is(block, 0x7f)))
    }

    #[inline(always)]
    pub fn no_target(block: __m128i) -> u32 {
        bits(or(within(block, 0, 0x20), or(is(block, b'#'), is(block, 0x7f))))
    }
}

/// Without blocks of bytes all is left to the tables.
#[cfg(not(target_arch = "x86_64"))]
mod blocks {
    #[inline(always)]
    pub fn end(_: &[u8], at: usize, _: fn()) -> usize {
        at
    }
    pub fn no_name() {}
    pub fn no_value() {}
    pub fn no_target() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Blocks and table agree, wherever a part begins and whatever stands around it.
        #[test]
        fn ends_are_found_at_any_length(
            data in prop::collection::vec(prop_oneof![20 => 0x20u8..=0xff, 80 => b'a'..=b'z', 1 => any::<u8>()], 0..80),
            at in 0usize..90,
        ) {
            let rest = data.get(at..).unwrap_or_default();
            let expected = |ends: &dyn Fn(usize) -> bool| {
                at + rest.iter().position(|b| ends(usize::from(*b))).unwrap_or(rest.len())
            };
            prop_assert_eq!(value_end(&data, at), expected(&|b| ENDS_VALUE[b]));
            prop_assert_eq!(target_end(&data, at), expected(&|b| ENDS_TARGET[b]));
            prop_assert_eq!(token_end(&data, at), expected(&|b| !TOKEN[b]));
        }
    }

    #[test]
    fn every_byte_alone() {
        for b in 0..=255u8 {
            let mut line = [b'a'; 40];
            line[20] = b;
            let expected = |ends| if ends { 20 } else { 40 };
            assert_eq!(value_end(&line, 0), expected(b < 0x20 && b != 9 || b == 0x7f), "{b}");
            assert_eq!(target_end(&line, 0), expected(b <= 0x20 || b == 0x7f || b == b'#'), "{b}");
            let token = b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            assert_eq!(token_end(&line, 0), expected(!token), "{b}");
        }
    }
}
