//! Which kinds of bytes a value has, one bit each. Most transformations change only values with certain bytes, so that one look at
//! a value says of whole chains that they leave it as it is.

pub(crate) type Kinds = u32;

/// Every value is of this kind: transformations that change everything.
pub(super) const ANY: Kinds = 1;
pub(super) const PERCENT: Kinds = 1 << 1;
pub(super) const PLUS: Kinds = 1 << 2;
pub(super) const AMPERSAND: Kinds = 1 << 3;
pub(super) const BACKSLASH: Kinds = 1 << 4;
pub(super) const UPPER: Kinds = 1 << 5;
pub(super) const LOWER: Kinds = 1 << 6;
/// C's `isspace` and the no-break space of Latin-1.
pub(super) const SPACE: Kinds = 1 << 7;
pub(super) const NUL: Kinds = 1 << 8;
pub(super) const HIGH: Kinds = 1 << 9;
pub(super) const SLASH: Kinds = 1 << 10;
pub(super) const DOT: Kinds = 1 << 11;
pub(super) const STAR: Kinds = 1 << 12;
pub(super) const DASH: Kinds = 1 << 13;
pub(super) const HASH: Kinds = 1 << 14;
/// `x` and `X`, as in `0x41`.
pub(super) const X: Kinds = 1 << 15;
/// What a shell takes away or reads as a space: quotes, caret, comma, semicolon.
pub(super) const QUOTE: Kinds = 1 << 16;
/// Anything but letters, digits and `_`.
pub(crate) const SPECIAL: Kinds = 1 << 17;

static OF_BYTE: [Kinds; 256] = {
    let mut table = [ANY; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        let mut kinds = match b {
            b'%' => PERCENT,
            b'+' => PLUS,
            b'&' => AMPERSAND,
            b'\\' => BACKSLASH,
            b'x' | b'X' => X,
            b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r' | 0xa0 => SPACE,
            0 => NUL,
            b'/' => SLASH,
            b'.' => DOT,
            b'*' => STAR,
            b'-' => DASH,
            b'#' => HASH,
            b'"' | b'\'' | b'^' | b',' | b';' => QUOTE,
            _ => 0,
        };
        if b.is_ascii_uppercase() {
            kinds |= UPPER;
        }
        if b.is_ascii_lowercase() {
            kinds |= LOWER;
        }
        if b >= 0x80 {
            kinds |= HIGH;
        }
        if !b.is_ascii_alphanumeric() && b != b'_' {
            kinds |= SPECIAL;
        }
        table[byte] |= kinds;
        byte += 1;
    }
    table
};

pub(crate) fn kinds(value: &[u8]) -> Kinds {
    value.iter().fold(ANY, |all, b| all | OF_BYTE.get(usize::from(*b)).copied().unwrap_or(ANY))
}
