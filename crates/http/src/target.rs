//! Request targets: path normalisation as nginx does it, query arguments, cookies, host names.
use crate::h1::tokens::alphanumeric_and;
use std::borrow::Cow;

/// Splits an origin-form target at its first `?`.
#[inline]
pub fn split(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'?', target) {
        Some(i) => (&target[..i], Some(&target[i + 1..])),
        None => (target, None),
    }
}

/// Whether a path is already in the form that nginx routes by.
#[inline]
fn is_normal(path: &[u8]) -> bool {
    // Without branches, so that it compiles to a few words' work.
    let pairs = path.iter().zip(path.iter().skip(1));
    let odd = pairs.fold(false, |odd, (a, b)| odd | (*a == b'%') | ((*a == b'/') & ((*b == b'/') | (*b == b'.'))));
    !odd && path.last() != Some(&b'%')
}

/// Decodes `%xx`, merges slashes, resolves `.` and `..` (ngx_http_parse_complex_uri with merge_slashes on). `Ok(None)`
/// where nothing changes.
#[allow(clippy::result_unit_err, reason = "no caller tells the failures apart")]
pub fn normalize(path: &[u8]) -> Result<Option<Vec<u8>>, ()> {
    if is_normal(path) {
        return Ok(None);
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.iter();
    while let Some(&b) = rest.next() {
        if b == b'%' {
            let (Some(h), Some(l)) = (rest.next().and_then(hex), rest.next().and_then(hex)) else { return Err(()) };
            let value = h << 4 | l;
            if value == 0 {
                return Err(());
            }
            decoded.push(value);
        } else {
            decoded.push(b);
        }
    }
    let mut normal: Vec<u8> = Vec::with_capacity(decoded.len());
    let mut segments = decoded.split(|b| *b == b'/').peekable();
    segments.next();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"" | b"." => {
                if last {
                    normal.push(b'/');
                }
            }
            b".." => {
                match normal.iter().rposition(|b| *b == b'/') {
                    Some(i) => normal.truncate(i),
                    None => return Err(()),
                }
                if last {
                    normal.push(b'/');
                }
            }
            segment => {
                normal.push(b'/');
                normal.extend_from_slice(segment);
            }
        }
    }
    if normal.is_empty() {
        normal.push(b'/');
    }
    Ok(Some(normal))
}

fn hex(b: &u8) -> Option<u8> {
    (*b as char).to_digit(16).map(|d| d as u8)
}

/// Decodes `%xx` and `+`; broken escapes stay as they are (ngx.unescape_uri).
pub fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut i = 0;
    while let Some(&b) = text.get(i) {
        match (b, text.get(i + 1).and_then(hex), text.get(i + 2).and_then(hex)) {
            (b'%', Some(h), Some(l)) => {
                out.push(h << 4 | l);
                i += 3;
                continue;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(b),
        }
        i += 1;
    }
    Cow::Owned(out)
}

/// The query's arguments in order, decoded. An argument without `=` has an empty value.
pub fn args(query: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    query.split(|b| *b == b'&').filter(|part| !part.is_empty()).map(|part| match part.iter().position(|b| *b == b'=') {
        Some(i) => (decode(&part[..i]), decode(&part[i + 1..])),
        None => (decode(part), Cow::Borrowed(&b""[..])),
    })
}

/// nginx's `$arg_NAME` (ngx_http_arg): the first `NAME=value`, names compared without case, value not decoded.
pub fn raw_arg<'a>(query: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    query.split(|b| *b == b'&').find_map(|part| {
        let (n, rest) = part.split_at_checked(name.len())?;
        if n.eq_ignore_ascii_case(name) { rest.strip_prefix(b"=") } else { None }
    })
}

/// One cookie of a `Cookie` line (RFC 6265 section 4.2; names compared without case, as nginx does).
pub fn cookie<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    line.split(|b| *b == b';').find_map(|pair| {
        let pair = pair.trim_ascii();
        let (n, rest) = pair.split_at_checked(name.len())?;
        if n.eq_ignore_ascii_case(name) { rest.strip_prefix(b"=") } else { None }
    })
}

/// Bytes of a host name or address: RFC 3986's without `,;=()@`, and `_`. ASCII only: names in other scripts travel as
/// punycode.
static HOST_BYTES: [bool; 256] = alphanumeric_and(b"-._[]:~!$&'*+%");
/// Those of them that neither begin a port nor an address.
static PLAIN_HOST_BYTES: [bool; 256] = alphanumeric_and(b"-._~!$&'*+%");

/// The name in a `Host` value: without port and trailing dot. `None` where it is not a host (RFC 3986 section 3.2.2,
/// a little wider, as nginx: ngx_http_validate_host).
pub fn host_name(value: &[u8]) -> Option<&[u8]> {
    // Nearly every one: a name and nothing else.
    let plain = value.iter().fold(true, |plain, b| plain & PLAIN_HOST_BYTES[usize::from(*b)]);
    if plain && !value.is_empty() && value.last() != Some(&b'.') {
        return Some(value);
    }
    let (name, port) = match value.first()? {
        b'[' => {
            let end = value.iter().position(|b| *b == b']')? + 1;
            (&value[..end], &value[end..])
        }
        _ => {
            let end = value.iter().position(|b| *b == b':').unwrap_or(value.len());
            (&value[..end], &value[end..])
        }
    };
    let digits = match port {
        [] => port,
        [b':', digits @ ..] => digits,
        _ => return None,
    };
    let name_ok = name.iter().all(|b| HOST_BYTES[usize::from(*b)]);
    let name = name.strip_suffix(b".").unwrap_or(name);
    (name_ok && !name.is_empty() && digits.iter().all(u8::is_ascii_digit)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(path: &str) -> Option<String> {
        match normalize(path.as_bytes()) {
            Ok(None) => Some(path.to_string()),
            Ok(Some(v)) => Some(String::from_utf8(v).unwrap()),
            Err(()) => None,
        }
    }

    #[test]
    fn paths_are_normalised_as_nginx_does() {
        for (path, expected) in [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("/a//b", Some("/a/b")),
            ("/a/./b", Some("/a/b")),
            ("/a/../b", Some("/b")),
            ("/a/..", Some("/")),
            ("/a/.", Some("/a/")),
            ("/a/b/../", Some("/a/")),
            ("/..", None),
            ("/a/../../b", None),
            ("/%61", Some("/a")),
            ("/a%2Fb", Some("/a/b")),
            ("/a%2f..%2fb", Some("/b")),
            ("/%2e%2e/x", None),
            ("/%zz", None),
            ("/%4", None),
            ("/%00", None),
            ("/.hidden", Some("/.hidden")),
            ("/a%20b", Some("/a b")),
            ("//", Some("/")),
        ] {
            assert_eq!(normal(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn hosts() {
        for (value, expected) in [
            ("a.com", Some("a.com")),
            ("a.com:80", Some("a.com")),
            ("a.com.", Some("a.com")),
            ("[::1]:80", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("a b", None),
            ("", None),
            ("a:b", None),
            ("a/b", None),
            ("[::1]x", None),
            (":80", None),
            ("b\u{fc}cher.de", None),
        ] {
            assert_eq!(host_name(value.as_bytes()), expected.map(str::as_bytes), "{value}");
        }
    }

    #[test]
    fn arguments_and_cookies() {
        let all: Vec<_> = args(b"a=1&b&c=%20+x&&a=2&d=%zz")
            .map(|(k, v)| (String::from_utf8_lossy(&k).into_owned(), String::from_utf8_lossy(&v).into_owned()))
            .collect();
        let expected = [("a", "1"), ("b", ""), ("c", "  x"), ("a", "2"), ("d", "%zz")];
        assert_eq!(all, expected.map(|(k, v)| (k.to_string(), v.to_string())));
        assert_eq!(raw_arg(b"ab=0&A=%20", b"a"), Some(&b"%20"[..]));
        assert_eq!(raw_arg(b"ab=0", b"a"), None);
        assert_eq!(cookie(b"x=1; SID=abc; y=2", b"sid"), Some(&b"abc"[..]));
        assert_eq!(cookie(b"xsid=1", b"sid"), None);
    }
}
