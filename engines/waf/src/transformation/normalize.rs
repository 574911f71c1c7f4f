//! Transformations that bring values which mean the same into one form.

/// C's `isspace` and the no-break space of Latin-1.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r' | 0xa0)
}

pub(super) fn lowercase(value: &[u8], out: &mut Vec<u8>) -> bool {
    let change = value.iter().any(u8::is_ascii_uppercase);
    if change {
        out.extend(value.iter().map(u8::to_ascii_lowercase));
    }
    change
}

pub(super) fn uppercase(value: &[u8], out: &mut Vec<u8>) -> bool {
    let change = value.iter().any(u8::is_ascii_lowercase);
    if change {
        out.extend(value.iter().map(u8::to_ascii_uppercase));
    }
    change
}

pub(super) fn length(value: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(value.len().to_string().as_bytes());
    true
}

pub(super) fn remove_nulls(value: &[u8], out: &mut Vec<u8>) -> bool {
    let change = memchr::memchr(0, value).is_some();
    if change {
        out.extend(value.iter().filter(|b| **b != 0));
    }
    change
}

pub(super) fn replace_nulls(value: &[u8], out: &mut Vec<u8>) -> bool {
    let change = memchr::memchr(0, value).is_some();
    if change {
        out.extend(value.iter().map(|b| if *b == 0 { b' ' } else { *b }));
    }
    change
}

pub(super) fn remove_whitespace(value: &[u8], out: &mut Vec<u8>) -> bool {
    let change = value.iter().any(|b| is_space(*b));
    if change {
        out.extend(value.iter().filter(|b| !is_space(**b)));
    }
    change
}

pub(super) fn compress_whitespace(value: &[u8], out: &mut Vec<u8>) -> bool {
    if !value.iter().any(|b| is_space(*b)) {
        return false;
    }
    let mut after_space = false;
    for &byte in value {
        let space = is_space(byte);
        if !space {
            out.push(byte);
        } else if !after_space {
            out.push(b' ');
        }
        after_space = space;
    }
    true
}

pub(super) fn trim_left(value: &[u8], out: &mut Vec<u8>) -> bool {
    let from = value.iter().position(|b| !is_space(*b)).unwrap_or(value.len());
    out.extend_from_slice(value.get(from..).unwrap_or_default());
    from > 0
}

pub(super) fn trim_right(value: &[u8], out: &mut Vec<u8>) -> bool {
    let end = value.iter().rposition(|b| !is_space(*b)).map_or(0, |last| last + 1);
    out.extend_from_slice(value.get(..end).unwrap_or_default());
    end < value.len()
}

pub(super) fn trim(value: &[u8], out: &mut Vec<u8>) -> bool {
    let from = value.iter().position(|b| !is_space(*b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_space(*b)).map_or(from, |last| last + 1);
    out.extend_from_slice(value.get(from..end).unwrap_or_default());
    from > 0 || end < value.len()
}

/// What a shell makes of evasions: no quotes, backslashes and carets, no spaces before `/` and `(`, commas and semicolons
/// as spaces, one space for many, lower case.
pub(super) fn command_line(value: &[u8], out: &mut Vec<u8>) -> bool {
    for &byte in value {
        match byte {
            b'"' | b'\'' | b'\\' | b'^' => {}
            b' ' | b',' | b';' | b'\t' | b'\r' | b'\n' => {
                if out.last() != Some(&b' ') {
                    out.push(b' ');
                }
            }
            b'/' | b'(' => {
                if out.last() == Some(&b' ') {
                    out.pop();
                }
                out.push(byte);
            }
            byte => out.push(byte.to_ascii_lowercase()),
        }
    }
    true
}

/// Each `/* */` is one space; one that never ends is a space to the end.
pub(super) fn replace_comments(value: &[u8], out: &mut Vec<u8>) -> bool {
    if memchr::memmem::find(value, b"/*").is_none() {
        return false;
    }
    let mut rest = value;
    while let Some(at) = memchr::memmem::find(rest, b"/*") {
        out.extend_from_slice(rest.get(..at).unwrap_or_default());
        out.push(b' ');
        let inside = rest.get(at + 2..).unwrap_or_default();
        rest = match memchr::memmem::find(inside, b"*/") {
            Some(end) => inside.get(end + 2..).unwrap_or_default(),
            None => &[],
        };
    }
    out.extend_from_slice(rest);
    true
}

/// Without `/* */`, `<!-- -->`, and what follows `--` or `#`.
pub(super) fn remove_comments(value: &[u8], out: &mut Vec<u8>) -> bool {
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        let pair = [(&b"/*"[..], &b"*/"[..]), (b"<!--", b"-->")];
        if let Some((open, close)) = pair.into_iter().find(|(open, _)| rest.starts_with(open)) {
            let inside = rest.get(open.len()..).unwrap_or_default();
            rest = match memchr::memmem::find(inside, close) {
                Some(end) => inside.get(end + close.len()..).unwrap_or_default(),
                None => &[],
            };
        } else if byte == b'#' || rest.starts_with(b"--") {
            break;
        } else {
            out.push(byte);
            rest = after;
        }
    }
    out.len() != value.len()
}

pub(super) fn remove_comment_marks(value: &[u8], out: &mut Vec<u8>) -> bool {
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        let marks: [&[u8]; 6] = [b"<!--", b"-->", b"/*", b"*/", b"--", b"#"];
        match marks.into_iter().find(|mark| rest.starts_with(mark)) {
            Some(mark) => rest = rest.get(mark.len()..).unwrap_or_default(),
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out.len() != value.len()
}

pub(super) fn path(value: &[u8], out: &mut Vec<u8>) -> bool {
    if memchr::memchr2(b'/', b'.', value).is_none() {
        return false;
    }
    normalize_path(value, out);
    out.as_slice() != value
}

pub(super) fn path_windows(value: &[u8], out: &mut Vec<u8>) -> bool {
    if memchr::memchr3(b'/', b'.', b'\\', value).is_none() {
        return false;
    }
    let slashes: Vec<u8> = value.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect();
    normalize_path(&slashes, out);
    out.as_slice() != value
}

/// Without `//`, `/./` and `/../`; a path that begins above its start keeps its `..`.
fn normalize_path(value: &[u8], out: &mut Vec<u8>) {
    let absolute = value.first() == Some(&b'/');
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in value.split(|b| *b == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => match kept.last() {
                Some(last) if *last != b".." => {
                    kept.pop();
                }
                _ if absolute => {}
                _ => kept.push(segment),
            },
            segment => kept.push(segment),
        }
    }
    if absolute {
        out.push(b'/');
    }
    out.extend_from_slice(&kept.join(&b'/'));
    let open_end = matches!(value.rsplit(|b| *b == b'/').next(), Some(b"" | b"." | b".."));
    if open_end && !kept.is_empty() && value.last() != Some(&b'.') {
        out.push(b'/');
    }
}

fn with_parity(value: &[u8], out: &mut Vec<u8>, bit: impl Fn(u8) -> u8) -> bool {
    out.extend(value.iter().map(|b| (b & 0x7f) | bit(b & 0x7f)));
    true
}

pub(super) fn parity_even(value: &[u8], out: &mut Vec<u8>) -> bool {
    with_parity(value, out, |b| if b.count_ones() % 2 == 1 { 0x80 } else { 0 })
}

pub(super) fn parity_odd(value: &[u8], out: &mut Vec<u8>) -> bool {
    with_parity(value, out, |b| if b.count_ones() % 2 == 0 { 0x80 } else { 0 })
}

pub(super) fn parity_zero(value: &[u8], out: &mut Vec<u8>) -> bool {
    with_parity(value, out, |_| 0)
}
