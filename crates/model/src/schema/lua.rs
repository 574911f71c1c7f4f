//! Lua's way of printing values, since it shows in messages: type names, `%.14g` numbers, `%q` strings.
//! Surprise: JSON `null` is "userdata" and both arrays and objects are "table".

use serde_json::Value;

/// What `type()` says of a decoded JSON value.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "userdata",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) | Value::Object(_) => "table",
    }
}

/// `%.14g`, which is `tostring` of a number.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 {
        return String::from("0");
    }
    if !value.is_finite() {
        return value.to_string();
    }
    let scientific = format!("{value:.13e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..14).contains(&exponent) {
        let decimals = usize::try_from(13 - exponent).unwrap_or(0);
        return trim(&format!("{value:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
}

fn trim(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

/// `%q`: double quotes, with quotes, backslashes, line ends and NUL escaped.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\\n"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\000"),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_numbers_as_lua_does() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-3.0, "-3"),
            (0.5, "0.5"),
            (0.1 + 0.2, "0.3"),
            (1e13, "10000000000000"),
            (1e14, "1e+14"),
            (1e-5, "1e-05"),
            (65535.25, "65535.25"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn quotes_as_lua_does() {
        assert_eq!(quoted(r#"^\S+"$"#), r#""^\\S+\"$""#);
    }
}
