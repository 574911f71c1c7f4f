//! Percent-encoding of paths and targets as nginx does it (`ngx_escape_uri`, since nginx 1.21.1).
//!
//! The surprise: `?` and `%` are encoded too, so a path that goes through here has no query and no escapes of its own.

/// Bytes of a path that nginx encodes: controls, space, `"#%<>?\^` `` ` `` `{|}`, DEL and everything above.
const fn escaped(b: u8) -> bool {
    matches!(b, 0..=b' ' | b'"' | b'#' | b'%' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{'..=b'}' | 0x7f..)
}

const TABLE: [bool; 256] = {
    let mut table = [false; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = escaped(i as u8);
        i += 1;
    }
    table
};

fn percent(b: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
}

/// Whether [`path`] would change nothing.
pub(crate) fn is_plain(path: &[u8]) -> bool {
    !path.iter().any(|b| TABLE[usize::from(*b)])
}

/// Appends a path, encoded (apisix/core/utils.lua `uri_safe_encode`).
pub(crate) fn path(path: &[u8], out: &mut Vec<u8>) {
    out.reserve(path.len());
    for &b in path {
        if TABLE[usize::from(b)] { percent(b, out) } else { out.push(b) }
    }
}

/// Appends text with only control characters encoded (apisix/core/utils.lua `escape_uri_control_chars`).
pub(crate) fn controls(text: &[u8], out: &mut Vec<u8>) {
    for &b in text {
        if b < b' ' || b == 0x7f { percent(b, out) } else { out.push(b) }
    }
}

/// As [`controls`], and spaces: a target must not be able to end the request line's second word.
pub(crate) fn target(text: &[u8], out: &mut Vec<u8>) {
    for &b in text {
        if b <= b' ' || b == 0x7f { percent(b, out) } else { out.push(b) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nginx_table() {
        let mut out = Vec::new();
        path(b"/a b\"#%<>?\\^`{|}~\x7f\xc3\xa9&=+;:@!$'()*,-._[]", &mut out);
        assert_eq!(out, b"/a%20b%22%23%25%3C%3E%3F%5C%5E%60%7B%7C%7D~%7F%C3%A9&=+;:@!$'()*,-._[]");
    }

    proptest! {
        #[test]
        fn encoding_is_undone_by_decoding(bytes in prop::collection::vec(any::<u8>().prop_filter("decoded as a space", |b| *b != b'+'), 0..64)) {
            let mut out = Vec::new();
            path(&bytes, &mut out);
            prop_assert!(out.iter().all(u8::is_ascii_graphic));
            prop_assert_eq!(is_plain(&bytes), out == bytes);
            prop_assert_eq!(sluice_http::target::decode(&out).into_owned(), bytes);
        }

        #[test]
        fn targets_cannot_leave_the_request_line(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            target(&bytes, &mut out);
            prop_assert!(!out.iter().any(|b| *b <= b' ' || *b == 0x7f));
        }
    }
}
