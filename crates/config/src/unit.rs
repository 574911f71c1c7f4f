//! nginx's units: sizes ("10m", "1g", "0") and times ("60s", "1h30m", "500ms"). The surprise: "m" is minutes in a time
//! and mebibytes in a size, and "M" in a time is a month. Rules: nginx's "Configuration file measurement units".

use std::time::Duration;

/// Bytes of an nginx size: digits, then nothing, `k`, `m` or `g` (1024-based, any case).
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match text.get(digits.len()..)? {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return None,
    };
    number(digits)?.checked_mul(factor)
}

/// An nginx time: numbers with units in falling order (`y M w d h m s ms`), blanks between them allowed; a last number
/// without a unit counts seconds.
pub fn parse_time(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 8] = [
        ("y", 31_536_000_000),
        ("M", 2_592_000_000),
        ("w", 604_800_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut allowed = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let value = number(rest.get(..digits)?)?;
        rest = rest.get(digits..)?;
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match rest.get(..letters)? {
            "" if rest.is_empty() => "s",
            unit => unit,
        };
        let index = UNITS.iter().position(|(name, _)| *name == unit)?;
        if index < allowed {
            return None;
        }
        allowed = index + 1;
        let milliseconds = UNITS.get(index)?.1;
        total = total.checked_add(value.checked_mul(milliseconds)?)?;
        rest = rest.get(letters..)?.trim_start();
    }
    Some(Duration::from_millis(total))
}

fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) { None } else { digits.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("10m", 10 << 20), ("1G", 1 << 30), ("16k", 16 << 10), ("16384", 16384)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "m", "-1", "10mb", "1.5m", "99999999999999999999", "18446744073709551615g", "1é"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, milliseconds) in [
            ("60s", 60_000),
            ("60", 60_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("500ms", 500),
            ("1m", 60_000),
            ("1M", 2_592_000_000),
            ("1m30", 90_000),
            ("0", 0),
        ] {
            assert_eq!(parse_time(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "30m1h", "1s1s", "-5s", "1.5s", "1x", "10 20", "9999999999999999y", "5é"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
