//! Header fields as a cache needs them: a list of name and value, found by name in any case, and lists of directives.

/// One field: its name as it came and its value.
pub type Field = (Box<str>, Box<[u8]>);

/// The first value of a field.
pub fn get<'a>(fields: &'a [Field], name: &'a str) -> Option<&'a [u8]> {
    all(fields, name).next()
}

/// All values of a field.
pub fn all<'a>(fields: &'a [Field], name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
    fields.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_ref())
}

/// Milliseconds since the epoch of an HTTP date in any of its three forms; none where it is no date. Names in another case are
/// taken, and so is a wrong day of the week: it says nothing that the date does not.
pub fn date(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let time = httpdate::parse_http_date(text).ok().or_else(|| lenient_date(text))?;
    time.duration_since(std::time::UNIX_EPOCH).ok().map(|d| d.as_millis() as u64)
}

#[cold]
fn lenient_date(text: &str) -> Option<std::time::SystemTime> {
    const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    if text.len() > 64 || !text.is_ascii() {
        return None;
    }
    let mut before = ' ';
    let cased: String = text
        .chars()
        .map(|c| {
            let inside = before.is_ascii_alphabetic();
            before = c;
            if inside { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() }
        })
        .collect();
    let cased = cased.strip_suffix(" Gmt").map_or(cased.clone(), |date| format!("{date} GMT"));
    let end = cased.find([',', ' '])?;
    let (day, rest) = cased.split_at_checked(end)?;
    let long = DAYS.contains(&day);
    if !long && !DAYS.iter().any(|own| own.get(..3) == Some(day)) {
        return None;
    }
    DAYS.iter().find_map(|own| {
        let day = if long { own } else { own.get(..3)? };
        httpdate::parse_http_date(&format!("{day}{rest}")).ok()
    })
}

/// Writes a time as an HTTP date.
pub fn write_date(time: std::time::SystemTime, out: &mut Vec<u8>) {
    out.extend_from_slice(httpdate::fmt_http_date(time).as_bytes());
}

/// Splits a field into directives: a name, and a value with its quotes removed. What has white space around `=` is no
/// directive with a value, but a name nobody knows.
pub struct List<'a> {
    rest: &'a str,
}

impl<'a> List<'a> {
    pub fn new(line: &'a [u8]) -> List<'a> {
        // What is not UTF-8 is no directive that anybody knows.
        List { rest: std::str::from_utf8(line).unwrap_or_default() }
    }
}

impl<'a> Iterator for List<'a> {
    type Item = (&'a str, Option<String>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', ',']);
            if self.rest.is_empty() {
                return None;
            }
            let (mut quoted, mut escaped, mut end) = (false, false, self.rest.len());
            for (at, byte) in self.rest.bytes().enumerate() {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    b',' if !quoted => {
                        end = at;
                        break;
                    }
                    _ => {}
                }
            }
            let (item, rest) = self.rest.split_at(end);
            self.rest = rest;
            let item = item.trim_matches([' ', '\t']);
            if item.is_empty() {
                continue;
            }
            let Some((name, value)) = item.split_once('=') else { return Some((item, None)) };
            if name.ends_with([' ', '\t']) {
                return Some((item, None));
            }
            let value = match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
                Some(inner) => unescape(inner),
                None => value.to_owned(),
            };
            return Some((name, Some(value)));
        }
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

/// Fields that end at the next hop: they are never stored (RFC 9111 section 3.1, RFC 9110 section 7.6.1).
pub fn is_hop_by_hop(name: &str) -> bool {
    const NAMES: [&str; 13] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "apisix-cache-status",
    ];
    NAMES.iter().any(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_split_outside_quotes_only() {
        let read: Vec<_> = List::new(b" a=1,, b=\"x, \\\"y\", c =2,d").collect();
        let expected = [("a", Some("1")), ("b", Some("x, \"y")), ("c =2", None), ("d", None)];
        assert_eq!(read, expected.map(|(n, v)| (n, v.map(str::to_owned))));
        assert_eq!(List::new(b"a=\"open, b").count(), 1);
    }

    #[test]
    fn dates_have_three_forms() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(date(text.as_bytes()), Some(784_111_777_000), "{text}");
        }
        for text in ["SUN, 06 nov 1994 08:49:37 gmt", "Mon Nov  6 08:49:37 1994", "Friday, 06-Nov-94 08:49:37 GMT"] {
            assert_eq!(date(text.as_bytes()), Some(784_111_777_000), "{text}");
        }
        for text in [
            "0",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun,  06",
        ] {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
    }
}
