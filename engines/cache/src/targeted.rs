//! `CDN-Cache-Control` (RFC 9213) is a structured field: a dictionary. One that is malformed is to be ignored as a whole, unlike
//! `Cache-Control`.

/// Whether a line is a dictionary of structured fields (RFC 9651 section 3.2), as far as directives need.
pub fn is_valid(line: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(line) else { return false };
    let text = text.trim_matches(' ');
    if text.is_empty() {
        return false;
    }
    split(text).is_some_and(|members| members.iter().all(|member| is_member(member.trim_matches([' ', '\t']))))
}

fn split(text: &str) -> Option<Vec<&str>> {
    let (mut quoted, mut escaped, mut from, mut out) = (false, false, 0, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                out.push(text.get(from..at)?);
                from = at + 1;
            }
            _ => {}
        }
    }
    out.push(text.get(from..)?);
    (!quoted).then_some(out)
}

fn is_member(member: &str) -> bool {
    // Parameters say nothing that we know of.
    let member = member.split(';').next().unwrap_or_default().trim_end_matches(' ');
    let (name, value) = match member.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (member, None),
    };
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '*');
    let goes_on = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.*".contains(&b));
    // A time that is no number is of the wrong type.
    let seconds = matches!(name, "max-age" | "s-maxage" | "stale-while-revalidate" | "stale-if-error");
    let fits = match value {
        Some(value) if seconds => !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()),
        Some(value) => is_item(value),
        None => !seconds,
    };
    begins && goes_on && fits
}

fn is_item(value: &str) -> bool {
    let digits =
        |text: &str, most: usize| !text.is_empty() && text.len() <= most && text.bytes().all(|b| b.is_ascii_digit());
    let number = value.strip_prefix('-').unwrap_or(value);
    let is_number = match number.split_once('.') {
        Some((whole, part)) => digits(whole, 12) && digits(part, 3),
        None => digits(number, 15),
    };
    let is_text = value.len() >= 2 && value.starts_with('"') && value.ends_with('"') && value.is_ascii();
    let is_token = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*')
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b));
    is_number || is_text || is_token || matches!(value, "?0" | "?1")
}

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn dictionaries_are_strict() {
        for good in ["max-age=10", "max-age=10, private", "a=\"x,y\";b=1", "no-store", "a=?1"] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "max-age=",
            "max-age =10",
            "Max-Age=10",
            "max-age=10,",
            "a=\"x",
            "max-age=10 x",
            "max-age=\"10\"",
            "max-age",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }
}
