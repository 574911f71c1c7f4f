//! Where the parts of a head end: tokens, targets, values. Everything that a request's cost hangs on most is here.
//!
//! The surprise: values are looked at 16 bytes at a time where the processor is sure to be able to (SSE2 is a part of x86_64);
//! elsewhere, and in the last bytes of a head, a table decides byte by byte.

/// Bytes of a token (RFC 9110 section 5.6.2): methods, field names.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 128 {
        table[b] = (b as u8).is_ascii_alphanumeric();
        b += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut i = 0;
    while i < others.len() {
        table[others[i] as usize] = true;
        i += 1;
    }
    table
};

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
#[inline]
pub(super) fn token_end(data: &[u8], at: usize) -> usize {
    table_end(data, at, |b| !TOKEN[usize::from(b)])
}

/// The first place from `at` on that holds no byte of a field's value.
#[inline]
pub(super) fn value_end(data: &[u8], at: usize) -> usize {
    table_end(data, wide_end::<false>(data, at), |b| ENDS_VALUE[usize::from(b)])
}

/// The first place from `at` on that holds no byte of a request target.
#[inline]
pub(super) fn target_end(data: &[u8], at: usize) -> usize {
    table_end(data, wide_end::<true>(data, at), |b| ENDS_TARGET[usize::from(b)])
}

#[inline(always)]
fn table_end(data: &[u8], at: usize, ends: impl Fn(u8) -> bool) -> usize {
    let rest = data.get(at..).unwrap_or_default();
    at + rest.iter().position(|b| ends(*b)).unwrap_or(rest.len())
}

/// Steps over blocks of 16 bytes in which nothing ends; stands still at the end, or where fewer than 16 bytes are left.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "looking at single bytes costs a tenth of a request")]
#[inline(always)]
fn wide_end<const TARGET: bool>(data: &[u8], mut at: usize) -> usize {
    use std::arch::x86_64::{
        _mm_andnot_si128, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    let lowest = if TARGET { 0x20 } else { 0x1f };
    let other = if TARGET { b'#' } else { b'\t' };
    while let Some(block) = data.get(at..at + 16) {
        // SAFETY: SSE2 is there on every x86_64, and the load, which needs no alignment, takes the 16 bytes of `block`.
        let found = unsafe {
            let block = _mm_loadu_si128(block.as_ptr().cast());
            let low = _mm_cmpeq_epi8(_mm_min_epu8(block, _mm_set1_epi8(lowest)), block);
            let other = _mm_cmpeq_epi8(block, _mm_set1_epi8(other as i8));
            let delete = _mm_cmpeq_epi8(block, _mm_set1_epi8(0x7f));
            let low = if TARGET { _mm_or_si128(low, other) } else { _mm_andnot_si128(other, low) };
            _mm_movemask_epi8(_mm_or_si128(low, delete))
        };
        if found != 0 {
            return at + found.trailing_zeros() as usize;
        }
        at += 16;
    }
    at
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn wide_end<const TARGET: bool>(_: &[u8], at: usize) -> usize {
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Blocks and table agree, wherever a part begins and whatever stands around it.
        #[test]
        fn ends_are_found_at_any_length(
            data in prop::collection::vec(prop_oneof![20 => 0x20u8..=0xff, 1 => any::<u8>()], 0..80),
            at in 0usize..90,
        ) {
            for (end, table) in [(value_end(&data, at), &ENDS_VALUE), (target_end(&data, at), &ENDS_TARGET)] {
                let rest = data.get(at..).unwrap_or_default();
                let expected = at + rest.iter().position(|b| table[usize::from(*b)]).unwrap_or(rest.len());
                prop_assert_eq!(end, expected);
            }
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
