//! `a=1&b=2`, decoded leniently: what is no escape stays (WHATWG URL, application/x-www-form-urlencoded parsing).

use super::Body;

pub(crate) fn pairs(text: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    text.split(|b| *b == b'&').filter(|p| !p.is_empty()).map(|pair| match memchr::memchr(b'=', pair) {
        Some(at) => (decode(pair.get(..at).unwrap_or_default()), decode(pair.get(at + 1..).unwrap_or_default())),
        None => (decode(pair), Vec::new()),
    })
}

fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut i = 0;
    while let Some(&byte) = text.get(i) {
        let hex = |at: usize| text.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (byte, hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high << 4 | low).unwrap_or_default());
                i += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                i += 1;
            }
            _ => {
                out.push(byte);
                i += 1;
            }
        }
    }
    out
}

/// Arguments past the limit are left out, and the body says so.
pub(crate) fn read(text: &[u8], limit: usize) -> Body {
    let mut pairs = pairs(text);
    let arguments = pairs.by_ref().take(limit).collect();
    Body { arguments, cut: pairs.next().is_some(), ..Body::default() }
}
