//! The value of a variable during a request: mostly borrowed bytes, as header and URI bytes need not be UTF-8.
//!
//! Conversions are LuaJIT's, because configuration was written against them: `1.0` prints as `1`, `"0x10"` is 16, and
//! the string `"1"` does not equal the number 1.
use std::borrow::Cow;
use std::io::Write;

/// What a [`crate::Variable`] yields. Lua's `nil` is `None` at the [`crate::Lookup`] level.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Bytes(Cow<'a, [u8]>),
    Number(f64),
    Bool(bool),
    List(Vec<Value<'a>>),
}

impl<'a> Value<'a> {
    /// A borrowed string value.
    pub fn str(s: &'a str) -> Self {
        Value::Bytes(Cow::Borrowed(s.as_bytes()))
    }
    /// A borrowed byte-string value.
    pub fn bytes(b: &'a [u8]) -> Self {
        Value::Bytes(Cow::Borrowed(b))
    }
    /// An owned byte-string value.
    pub fn owned(b: impl Into<Vec<u8>>) -> Self {
        Value::Bytes(Cow::Owned(b.into()))
    }

    /// The value as Lua's `tostring` gives it. A list is its elements joined by `,` (Lua would print an address).
    pub fn as_bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Value::Bytes(b) => Cow::Borrowed(b),
            Value::Bool(true) => Cow::Borrowed(b"true"),
            Value::Bool(false) => Cow::Borrowed(b"false"),
            Value::Number(_) | Value::List(_) => {
                let mut out = Vec::new();
                self.write_to(&mut out);
                Cow::Owned(out)
            }
        }
    }

    /// As [`Value::as_bytes`], with invalid UTF-8 replaced.
    pub fn as_str(&self) -> Cow<'_, str> {
        match self.as_bytes() {
            Cow::Borrowed(b) => String::from_utf8_lossy(b),
            Cow::Owned(b) => Cow::Owned(String::from_utf8_lossy(&b).into_owned()),
        }
    }

    /// As [`Value::as_bytes`], without a copy when the value already owns or borrows its bytes.
    pub fn into_bytes(self) -> Cow<'a, [u8]> {
        match self {
            Value::Bytes(b) => b,
            other => Cow::Owned(other.as_bytes().into_owned()),
        }
    }

    /// Lua's `tonumber`: decimal, hexadecimal, exponent, surrounding white space; anything else is `None`.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Bytes(b) => parse_number(b),
            Value::Number(n) => Some(*n),
            Value::Bool(_) | Value::List(_) => None,
        }
    }

    /// Appends what [`Value::as_bytes`] returns.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            Value::Bytes(b) => out.extend_from_slice(b),
            Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
            Value::Number(n) => write_number(*n, out),
            Value::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    item.write_to(out);
                }
            }
        }
    }

    /// The empty string or the empty list.
    pub fn is_empty(&self) -> bool {
        match self {
            Value::Bytes(b) => b.is_empty(),
            Value::List(l) => l.is_empty(),
            Value::Number(_) | Value::Bool(_) => false,
        }
    }

    /// Whether Lua's `tostring(value)` is exactly `text`.
    pub fn eq_bytes(&self, text: &[u8]) -> bool {
        *self.as_bytes() == *text
    }

    /// The same value without a borrow.
    pub fn to_owned_value(&self) -> Value<'static> {
        match self {
            Value::Bytes(b) => Value::Bytes(Cow::Owned(b.to_vec())),
            Value::Number(n) => Value::Number(*n),
            Value::Bool(b) => Value::Bool(*b),
            Value::List(l) => Value::List(l.iter().map(Value::to_owned_value).collect()),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(s: &'a str) -> Self {
        Value::str(s)
    }
}

impl From<String> for Value<'_> {
    fn from(s: String) -> Self {
        Value::owned(s)
    }
}

impl From<f64> for Value<'_> {
    fn from(n: f64) -> Self {
        Value::Number(n)
    }
}

impl From<bool> for Value<'_> {
    fn from(b: bool) -> Self {
        Value::Bool(b)
    }
}

/// LuaJIT's `tonumber` of a string: Rust's decimal grammar is the same (also `inf` and `nan`), `0x` (with fraction and
/// binary exponent) and `0b` are added.
pub fn parse_number(text: &[u8]) -> Option<f64> {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t'..=b'\r');
    let start = text.iter().position(|b| !is_space(b))?;
    let end = text.iter().rposition(|b| !is_space(b))? + 1;
    let text = text.get(start..end)?;
    // Most operands are short decimal integers: exact in an f64 up to 15 digits.
    if text.len() <= 15 && text.iter().all(u8::is_ascii_digit) {
        return Some(text.iter().fold(0u64, |n, b| n * 10 + u64::from(b - b'0')) as f64);
    }
    let (negative, digits) = match text.first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let magnitude = match digits {
        [b'0', b'x' | b'X', rest @ ..] => parse_hex(rest)?,
        [b'0', b'b' | b'B', rest @ ..] if !rest.is_empty() => rest.iter().try_fold(0f64, |n, b| match b {
            b'0' | b'1' => Some(n * 2.0 + f64::from(b - b'0')),
            _ => None,
        })?,
        [b'+' | b'-', ..] => return None,
        _ => std::str::from_utf8(digits).ok()?.parse::<f64>().ok()?,
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// Hexadecimal digits with an optional fraction and `p` exponent.
fn parse_hex(text: &[u8]) -> Option<f64> {
    let (mantissa, exponent) = match text.iter().position(|b| matches!(b, b'p' | b'P')) {
        Some(p) => (text.get(..p)?, std::str::from_utf8(text.get(p + 1..)?).ok()?.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (mut value, mut scale, mut digits, mut fraction) = (0f64, 0i32, 0usize, false);
    for b in mantissa {
        if *b == b'.' && !fraction {
            fraction = true;
            continue;
        }
        value = value * 16.0 + f64::from((*b as char).to_digit(16)?);
        digits += 1;
        if fraction {
            scale = scale.saturating_sub(4);
        }
    }
    (digits > 0).then(|| value * 2f64.powi(scale.saturating_add(exponent)))
}

/// Appends a number as C's `%.14g` prints it, which is what Lua 5.1's `tostring` does.
pub fn write_number(n: f64, out: &mut Vec<u8>) {
    const DIGITS: i32 = 14;
    if n.is_nan() {
        out.extend_from_slice(b"nan");
        return;
    }
    if n.is_infinite() {
        out.extend_from_slice(if n > 0.0 { b"inf" } else { b"-inf" });
        return;
    }
    // Writing to a Vec cannot fail.
    if n.fract() == 0.0 && n.abs() < 1e14 {
        let _ = if n == 0.0 && n.is_sign_negative() { out.write_all(b"-0") } else { write!(out, "{}", n as i64) };
        return;
    }
    // `1.2300000000000e-5`: rounded to the right digits, and the exponent decides the form.
    let scientific = format!("{n:.13e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..DIGITS).contains(&exponent) {
        let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or(0);
        let _ = out.write_all(trim_fraction(&format!("{n:.decimals$}")).as_bytes());
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{}e{sign}{:02}", trim_fraction(mantissa), exponent.abs());
    }
}

fn trim_fraction(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(n: f64) -> String {
        String::from_utf8(Value::Number(n).as_bytes().into_owned()).unwrap()
    }

    #[test]
    fn numbers_print_as_lua() {
        for (n, want) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-42.0, "-42"),
            (0.1, "0.1"),
            (1.5, "1.5"),
            (1.0 / 3.0, "0.33333333333333"),
            (1e13, "10000000000000"),
            (1e14, "1e+14"),
            (1e15 + 0.5, "1e+15"),
            (123456789012345.0, "1.2345678901234e+14"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e100, "1e+100"),
            (99999999999999.9, "1e+14"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(printed(n), want, "{n:?}");
        }
    }

    #[test]
    fn tonumber() {
        for (text, want) in [
            ("1", Some(1.0)),
            (" 12 \n", Some(12.0)),
            ("-1.5e3", Some(-1500.0)),
            (".5", Some(0.5)),
            ("5.", Some(5.0)),
            ("0x10", Some(16.0)),
            ("-0xF", Some(-15.0)),
            ("0x.8p1", Some(1.0)),
            ("0b101", Some(5.0)),
            ("+7", Some(7.0)),
            ("", None),
            (" ", None),
            ("1a", None),
            ("0x", None),
            ("+-1", None),
            ("1 2", None),
            ("1e", None),
            ("12345678901234567890", Some(12345678901234567890.0)),
        ] {
            assert_eq!(Value::str(text).as_number(), want, "{text:?}");
        }
        assert_eq!(Value::Bool(true).as_number(), None);
    }

    #[test]
    fn bytes_and_emptiness() {
        assert!(Value::str("").is_empty());
        assert!(!Value::Bool(false).is_empty());
        assert!(Value::Number(2.0).eq_bytes(b"2"));
        assert!(Value::str("2") != Value::Number(2.0));
        assert_eq!(&*Value::List(vec![Value::str("a"), Value::Number(1.0)]).as_bytes(), b"a,1");
    }
}
