//! Transformations that undo (or do) an encoding.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// Two hexadecimal digits at an offset.
fn pair(value: &[u8], at: usize) -> Option<u8> {
    let (high, low) = (digit(*value.get(at)?)?, digit(*value.get(at + 1)?)?);
    Some(high << 4 | low)
}

/// Four hexadecimal digits as the byte they stand for: the low one, and the ASCII form of full-width characters.
fn quad(value: &[u8], at: usize) -> Option<u8> {
    let (high, low) = (pair(value, at)?, pair(value, at + 2)?);
    Some(wide(high, low))
}

fn wide(high: u8, low: u8) -> u8 {
    if high == 0xff && (0x01..=0x5e).contains(&low) { low + 0x20 } else { low }
}

pub(super) fn url(value: &[u8], out: &mut Vec<u8>) -> bool {
    url_with(value, out, false)
}

pub(super) fn url_unicode(value: &[u8], out: &mut Vec<u8>) -> bool {
    url_with(value, out, true)
}

fn url_with(value: &[u8], out: &mut Vec<u8>, unicode: bool) -> bool {
    if memchr::memchr2(b'%', b'+', value).is_none() {
        return false;
    }
    let mut i = 0;
    while let Some(&byte) = value.get(i) {
        let (decoded, used) = match byte {
            b'+' => (b' ', 1),
            b'%' if unicode && matches!(value.get(i + 1), Some(b'u' | b'U')) => match quad(value, i + 2) {
                Some(byte) => (byte, 6),
                None => (b'%', 1),
            },
            b'%' => match pair(value, i + 1) {
                Some(byte) => (byte, 3),
                None => (b'%', 1),
            },
            byte => (byte, 1),
        };
        out.push(decoded);
        i += used;
    }
    true
}

pub(super) fn url_encode(value: &[u8], out: &mut Vec<u8>) -> bool {
    if value.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'*') {
        return false;
    }
    for &byte in value {
        match byte {
            b' ' => out.push(b'+'),
            b if b.is_ascii_alphanumeric() || b == b'*' => out.push(b),
            b => out.extend_from_slice(&[b'%', nibble(b >> 4), nibble(b & 15)]),
        }
    }
    true
}

fn nibble(n: u8) -> u8 {
    if n < 10 { b'0' + n } else { b'a' + n - 10 }
}

pub(super) fn hex_encode(value: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend(value.iter().flat_map(|b| [nibble(b >> 4), nibble(b & 15)]));
    !value.is_empty()
}

pub(super) fn hex(value: &[u8], out: &mut Vec<u8>) -> bool {
    let mut i = 0;
    while let Some(byte) = pair(value, i) {
        out.push(byte);
        i += 2;
    }
    true
}

/// `0x414243` to `ABC`.
pub(super) fn sql_hex(value: &[u8], out: &mut Vec<u8>) -> bool {
    if memchr::memmem::find(value, b"0x").is_none() && memchr::memmem::find(value, b"0X").is_none() {
        return false;
    }
    let mut i = 0;
    while let Some(&byte) = value.get(i) {
        if byte == b'0' && matches!(value.get(i + 1), Some(b'x' | b'X')) && pair(value, i + 2).is_some() {
            i += 2;
            while let Some(byte) = pair(value, i) {
                out.push(byte);
                i += 2;
            }
        } else {
            out.push(byte);
            i += 1;
        }
    }
    true
}

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

fn is_base64(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}

/// Up to the first byte that is not of the alphabet.
pub(super) fn base64(value: &[u8], out: &mut Vec<u8>) -> bool {
    let end = value.iter().position(|b| !is_base64(b)).unwrap_or(value.len());
    decode_base64(value.get(..end).unwrap_or_default(), out);
    true
}

/// Bytes that are not of the alphabet are passed over.
pub(super) fn base64_lenient(value: &[u8], out: &mut Vec<u8>) -> bool {
    let kept: Vec<u8> = value.iter().copied().filter(is_base64).collect();
    decode_base64(&kept, out);
    true
}

fn decode_base64(value: &[u8], out: &mut Vec<u8>) {
    // a single character at the end stands for no byte
    let usable = if value.len() % 4 == 1 { value.len() - 1 } else { value.len() };
    let _ = LENIENT.decode_vec(value.get(..usable).unwrap_or_default(), out);
}

pub(super) fn base64_encode(value: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(base64::engine::general_purpose::STANDARD.encode(value).as_bytes());
    true
}

/// `&#x41;`, `&#65;` and the five names; the semicolon may be missing.
pub(super) fn html_entities(value: &[u8], out: &mut Vec<u8>) -> bool {
    if memchr::memchr(b'&', value).is_none() {
        return false;
    }
    let mut i = 0;
    while let Some(&byte) = value.get(i) {
        let entity = if byte == b'&' { entity(value.get(i + 1..).unwrap_or_default()) } else { None };
        match entity {
            Some((decoded, used)) => {
                out.push(decoded);
                i += 1 + used;
                if value.get(i) == Some(&b';') {
                    i += 1;
                }
            }
            None => {
                out.push(byte);
                i += 1;
            }
        }
    }
    true
}

fn entity(rest: &[u8]) -> Option<(u8, usize)> {
    if rest.first() == Some(&b'#') {
        let hexadecimal = matches!(rest.get(1), Some(b'x' | b'X'));
        let (start, radix) = if hexadecimal { (2, 16) } else { (1, 10) };
        let digits = rest.get(start..)?;
        let count = digits.iter().take_while(|b| char::from(**b).is_digit(radix)).count();
        if count == 0 {
            return None;
        }
        let low = digits
            .iter()
            .take(count)
            .fold(0u32, |n, b| n.wrapping_mul(radix).wrapping_add(char::from(*b).to_digit(radix).unwrap_or_default()));
        return Some((u8::try_from(low & 0xff).unwrap_or_default(), start + count));
    }
    const NAMES: &[(&[u8], u8)] = &[
        (b"quot", b'"'),
        (b"amp", b'&'),
        (b"lt", b'<'),
        (b"gt", b'>'),
        (b"nbsp", 0xa0),
        (b"colon", b':'),
        (b"tab", b'\t'),
        (b"newline", b'\n'),
        (b"lpar", b'('),
        (b"rpar", b')'),
        (b"apos", b'\''),
    ];
    let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric()).count();
    let name = rest.get(..length)?;
    NAMES.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(n, byte)| (*byte, n.len()))
}

/// Octal digits, at most three and at most 0o377.
fn octal(value: &[u8], at: usize) -> Option<(u8, usize)> {
    let mut number = 0u32;
    let mut count = 0;
    while count < 3
        && let Some(digit) = value.get(at + count).filter(|b| (b'0'..=b'7').contains(*b))
        && number * 8 + u32::from(digit - b'0') <= 0xff
    {
        number = number * 8 + u32::from(digit - b'0');
        count += 1;
    }
    if count == 0 { None } else { Some((u8::try_from(number).ok()?, count)) }
}

fn simple_escape(byte: u8) -> Option<u8> {
    Some(match byte {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        _ => return None,
    })
}

pub(super) fn javascript(value: &[u8], out: &mut Vec<u8>) -> bool {
    if memchr::memchr(b'\\', value).is_none() {
        return false;
    }
    let mut i = 0;
    while let Some(&byte) = value.get(i) {
        if byte != b'\\' {
            out.push(byte);
            i += 1;
            continue;
        }
        let (decoded, used) = match value.get(i + 1) {
            None => (None, 1),
            Some(b'u') if quad(value, i + 2).is_some() => (quad(value, i + 2), 6),
            Some(b'x') if pair(value, i + 2).is_some() => (pair(value, i + 2), 4),
            Some(b'0'..=b'7') => match octal(value, i + 1) {
                Some((byte, digits)) => (Some(byte), 1 + digits),
                None => (None, 1),
            },
            Some(&next) => (Some(simple_escape(next).unwrap_or(next)), 2),
        };
        out.extend(decoded);
        i += used;
    }
    true
}

/// Escapes of ANSI C; one that is not known stays.
pub(super) fn escape_sequences(value: &[u8], out: &mut Vec<u8>) -> bool {
    if memchr::memchr(b'\\', value).is_none() {
        return false;
    }
    let mut i = 0;
    while let Some(&byte) = value.get(i) {
        let (decoded, used) = match (byte, value.get(i + 1)) {
            (b'\\', Some(&next)) => match next {
                b'x' | b'X' => pair(value, i + 2).map_or((byte, 1), |b| (b, 4)),
                b'0'..=b'7' => octal(value, i + 1).map_or((byte, 1), |(b, digits)| (b, 1 + digits)),
                b'\\' | b'?' | b'\'' | b'"' => (next, 2),
                next => simple_escape(next).map_or((byte, 1), |b| (b, 2)),
            },
            _ => (byte, 1),
        };
        out.push(decoded);
        i += used;
    }
    true
}

/// CSS 2 escapes: up to six hexadecimal digits and one white space after them.
pub(super) fn css(value: &[u8], out: &mut Vec<u8>) -> bool {
    if memchr::memchr(b'\\', value).is_none() {
        return false;
    }
    let mut i = 0;
    while let Some(&byte) = value.get(i) {
        if byte != b'\\' {
            out.push(byte);
            i += 1;
            continue;
        }
        i += 1;
        let rest = value.get(i..).unwrap_or_default();
        let digits: Vec<u8> = rest.iter().take(6).map_while(|b| digit(*b)).collect();
        match digits.len() {
            0 => {
                // an escaped line end is nothing, any other escaped byte is itself
                if let Some(&next) = rest.first() {
                    if next != b'\n' {
                        out.push(next);
                    }
                    i += 1;
                }
            }
            count => {
                let number = digits.iter().fold(0u32, |n, d| n << 4 | u32::from(*d));
                let [_, plane, high, low] = number.to_be_bytes();
                out.push(if plane == 0 { wide(high, low) } else { low });
                i += count;
                if value.get(i).is_some_and(u8::is_ascii_whitespace) {
                    i += 1;
                }
            }
        }
    }
    true
}

/// Characters of several bytes as `%uHHHH`; bytes that are no UTF-8 stay.
pub(super) fn utf8_to_unicode(value: &[u8], out: &mut Vec<u8>) -> bool {
    if value.is_ascii() {
        return false;
    }
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            match u8::try_from(c) {
                Ok(byte) if byte.is_ascii() => out.push(byte),
                _ => out.extend_from_slice(format!("%u{:04x}", u32::from(c)).as_bytes()),
            }
        }
        out.extend_from_slice(chunk.invalid());
    }
    true
}
