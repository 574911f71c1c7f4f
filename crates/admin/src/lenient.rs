//! JSON as clients of APISIX send it. The surprise: line breaks and tabs inside strings are taken (as lua-cjson does):
//! scripts that put Lua or certificates into a shell's here-document rely on it.
use serde_json::Value;
use std::borrow::Cow;

/// Parses a text, control characters inside strings included.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(text).or_else(|error| match escaped(text) {
        Cow::Borrowed(_) => Err(error),
        Cow::Owned(text) => serde_json::from_slice(&text),
    })
}

/// Control characters inside strings as escapes.
fn escaped(text: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::new();
    let (mut inside, mut after_backslash, mut changed) = (false, false, false);
    for byte in text {
        match byte {
            0..=0x1f if inside => {
                out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
                changed = true;
                after_backslash = false;
                continue;
            }
            b'"' if !after_backslash => inside = !inside,
            _ => {}
        }
        after_backslash = inside && *byte == b'\\' && !after_backslash;
        out.push(*byte);
    }
    if changed { Cow::Owned(out) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn line_breaks_inside_strings() {
        assert_eq!(parse(b"{\"a\":\n\"x\n\ty\\\"\nz\"}").unwrap(), json!({"a": "x\n\ty\"\nz"}));
        assert_eq!(parse(b"[\"\\\\\", \"\n\"]").unwrap(), json!(["\\", "\n"]));
        assert!(parse(b"{\"a\":\n").is_err());
        assert!(parse(b"{\"a\": \"\n").is_err());
    }
}
