//! What a bare (unquoted) YAML scalar means to lyaml, the reader APISIX uses: YAML 1.1's implicit types. The surprise:
//! base-60 numbers (`1:30` is 90), so a time or a port pair must be quoted, as APISIX's own examples do.

use serde_json::{Number, Value};

/// The typed value of a plain scalar.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    match numeric.then(|| number(text)).flatten() {
        Some(number) => Value::Number(number),
        None => Value::String(text.to_owned()),
    }
}

/// A number in any of YAML 1.1's notations.
pub(super) fn number(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let first = *digits.as_bytes().first()?;
    if !(first.is_ascii_digit() || first == b'.') {
        return None;
    }
    let plain: String = digits.chars().filter(|c| *c != '_').collect();
    if let Some(hexadecimal) = plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X")) {
        return radix(hexadecimal, 16, negative);
    }
    if let Some(binary) = plain.strip_prefix("0b") {
        return radix(binary, 2, negative);
    }
    if plain.len() > 1 && plain.starts_with('0') && plain.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return radix(&plain, 8, negative);
    }
    if plain.contains(':') {
        return sexagesimal(&plain, negative);
    }
    if plain.bytes().all(|b| b.is_ascii_digit()) {
        return match plain.parse::<i64>() {
            Ok(value) => Some(Number::from(if negative { -value } else { value })),
            Err(_) => whole(plain.parse().ok()?, negative),
        };
    }
    let float = plain.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if !float || !plain.bytes().any(|b| b.is_ascii_digit()) || plain == "." {
        return None;
    }
    whole(plain.parse().ok()?, negative)
}

fn radix(digits: &str, radix: u32, negative: bool) -> Option<Number> {
    // from_str_radix would take a second sign.
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let value = i64::from_str_radix(digits, radix).ok()?;
    Some(Number::from(if negative { -value } else { value }))
}

fn sexagesimal(text: &str, negative: bool) -> Option<Number> {
    let mut total = 0f64;
    for (index, part) in text.split(':').enumerate() {
        let (digits, fraction) = part.split_once('.').unwrap_or((part, ""));
        let bounded = index == 0 || digits.len() <= 2;
        let numeric = !digits.is_empty() && part.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if !bounded || !numeric || (index > 0 && digits.parse::<u8>().ok()? > 59) {
            return None;
        }
        // A fraction may follow the last part only.
        if !fraction.is_empty() && index + 1 != text.split(':').count() {
            return None;
        }
        total = total * 60.0 + part.parse::<f64>().ok()?;
    }
    whole(total, negative)
}

/// Lua has one kind of number: 60.0 is the integer 60 there.
pub(super) fn whole(value: f64, negative: bool) -> Option<Number> {
    let value = if negative { -value } else { value };
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        return Some(Number::from(value as i64));
    }
    Number::from_f64(value)
}

#[cfg(test)]
mod tests {
    use super::resolve;
    use serde_json::json;

    #[test]
    fn plain_scalars_have_the_types_of_yaml_1_1() {
        for (text, value) in [
            ("~", json!(null)),
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("y", json!("y")),
            ("42", json!(42)),
            ("-7", json!(-7)),
            ("+7", json!(7)),
            ("1_000", json!(1000)),
            ("010", json!(8)),
            ("08", json!(8)),
            ("0x1F", json!(31)),
            ("0b101", json!(5)),
            ("1.5", json!(1.5)),
            ("60.0", json!(60)),
            (".5", json!(0.5)),
            ("1e3", json!(1000)),
            ("1:30", json!(90)),
            ("190:20:30", json!(685_230)),
            ("127.0.0.1:80", json!("127.0.0.1:80")),
            ("127.0.0.1", json!("127.0.0.1")),
            ("10:99", json!("10:99")),
            ("10m", json!("10m")),
            (".", json!(".")),
            ("--1", json!("--1")),
            ("0x-1", json!("0x-1")),
            ("-", json!("-")),
            (".inf", json!(".inf")),
            ("::1", json!("::1")),
            ("1:", json!("1:")),
            ("18446744073709551616", json!(18_446_744_073_709_551_616f64)),
        ] {
            assert_eq!(resolve(text), value, "{text}");
        }
    }
}
