//! Operators (`@rx`, `@pm`, `@ge`): the test that a rule puts to a value.
//! What each does: the ModSecurity reference manual (v2.x), section "Operators".

use crate::expansion::Expansion;
use crate::pattern::Pattern;
use crate::ruleset::Names;
use crate::suggestion::did_you_mean;
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use ipnet::IpNet;
use std::net::IpAddr;

/// The match and its groups, for `capture`.
pub(crate) type Captures = Vec<Option<Vec<u8>>>;

#[derive(Clone, Debug)]
pub(crate) enum Operator {
    Rx(Pattern),
    /// Words, case ignored; the words are kept for the prefilter.
    Words(AhoCorasick, std::sync::Arc<[Vec<u8>]>),
    Compare(Compare, Expansion),
    Text(TextTest, Expansion),
    Ip(Vec<IpNet>),
    /// A bit for each byte that is allowed.
    Bytes([u64; 4]),
    UrlEncoding,
    Utf8,
    Sqli,
    Xss,
    Luhn(Pattern),
    Always,
    Never,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Compare {
    Eq,
    Ge,
    Gt,
    Le,
    Lt,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum TextTest {
    Equal,
    Begins,
    Ends,
    Contains,
    ContainsWord,
    /// The value stands within the parameter.
    Within,
}

/// Names of operators, for hints.
const KNOWN: &[&str] = &[
    "beginsWith",
    "contains",
    "containsWord",
    "detectSQLi",
    "detectXSS",
    "endsWith",
    "eq",
    "ge",
    "gt",
    "ipMatch",
    "ipMatchFromFile",
    "le",
    "lt",
    "noMatch",
    "pm",
    "pmFromFile",
    "rx",
    "streq",
    "strmatch",
    "unconditionalMatch",
    "validateByteRange",
    "validateUrlEncoding",
    "validateUtf8Encoding",
    "verifyCC",
    "within",
];

/// Reads a file that a rule names, relative to the rule's own.
pub(crate) type ReadFile<'a> = &'a dyn Fn(&str) -> Result<String, String>;

impl Operator {
    /// `@name parameter`; a text without `@` is a regular expression.
    pub(crate) fn parse(text: &str, names: &mut Names, read: ReadFile<'_>) -> Result<Operator, String> {
        let (name, parameter) = match text.strip_prefix('@') {
            None => ("rx", text),
            Some(rest) => match rest.split_once(char::is_whitespace) {
                Some((name, parameter)) => (name, parameter.trim_start()),
                None => (rest, ""),
            },
        };
        let words = |text: &str| words(text.split_whitespace().map(unescape).collect());
        let mut expand = |text: &str| Expansion::parse(text, names);
        Ok(match name.to_ascii_lowercase().as_str() {
            "rx" | "rxglobal" => Operator::Rx(Pattern::new(parameter)?),
            "pm" => words(parameter)?,
            "pmf" | "pmfromfile" => {
                let mut all = Vec::new();
                for file in parameter.split_whitespace() {
                    all.extend(lines(&read(file)?).map(|l| l.as_bytes().to_vec()));
                }
                self::words(all)?
            }
            "eq" => Operator::Compare(Compare::Eq, expand(parameter)),
            "ge" => Operator::Compare(Compare::Ge, expand(parameter)),
            "gt" => Operator::Compare(Compare::Gt, expand(parameter)),
            "le" => Operator::Compare(Compare::Le, expand(parameter)),
            "lt" => Operator::Compare(Compare::Lt, expand(parameter)),
            "streq" => Operator::Text(TextTest::Equal, expand(parameter)),
            "beginswith" => Operator::Text(TextTest::Begins, expand(parameter)),
            "endswith" => Operator::Text(TextTest::Ends, expand(parameter)),
            "contains" | "strmatch" => Operator::Text(TextTest::Contains, expand(parameter)),
            "containsword" => Operator::Text(TextTest::ContainsWord, expand(parameter)),
            "within" => Operator::Text(TextTest::Within, expand(parameter)),
            "ipmatch" => Operator::Ip(addresses(parameter.split([',', ' ']))?),
            "ipmatchf" | "ipmatchfromfile" => {
                let text = read(parameter)?;
                Operator::Ip(addresses(lines(&text))?)
            }
            "validatebyterange" => Operator::Bytes(byte_range(parameter)?),
            "validateurlencoding" => Operator::UrlEncoding,
            "validateutf8encoding" => Operator::Utf8,
            "detectsqli" => Operator::Sqli,
            "detectxss" => Operator::Xss,
            "verifycc" => Operator::Luhn(Pattern::new(parameter)?),
            "unconditionalmatch" | "unconditional" => Operator::Always,
            "nomatch" => Operator::Never,
            "rbl" | "geolookup" | "gsblookup" | "inspectfile" | "fuzzyhash" | "validateschema" | "validatedtd"
            | "verifyssn" | "verifycpf" | "verifysvnr" | "rsub" | "validatehash" | "restpath" => {
                return Err(format!("@{name} is not supported"));
            }
            _ => return Err(format!("unknown operator @{name}{}", did_you_mean(name, KNOWN.iter().copied()))),
        })
    }

    /// Tests a value. `parameter` is the operator's expanded parameter, where it has one. Groups are there only for `capture`.
    pub(crate) fn test(&self, value: &[u8], parameter: &[u8], capture: bool) -> Option<Captures> {
        let found = match self {
            Operator::Rx(pattern) if capture => return pattern.captures(value),
            Operator::Rx(pattern) => pattern.is_match(value),
            Operator::Words(words, _) if capture => {
                return words.find(value).map(|m| vec![value.get(m.range()).map(<[u8]>::to_vec)]);
            }
            Operator::Words(words, _) => words.is_match(value),
            Operator::Compare(compare, _) => compare.holds(number(value), number(parameter)),
            Operator::Text(test, _) => test.holds(value, parameter),
            Operator::Ip(nets) => std::str::from_utf8(value)
                .ok()
                .and_then(|v| v.parse::<IpAddr>().ok())
                .is_some_and(|ip| nets.iter().any(|net| net.contains(&ip))),
            Operator::Bytes(allowed) => value.iter().any(|b| !is_set(allowed, *b)),
            Operator::UrlEncoding => bad_url_encoding(value),
            Operator::Utf8 => std::str::from_utf8(value).is_err(),
            Operator::Sqli if is_one_word(value) => false,
            Operator::Sqli => return detect_sqli(value),
            Operator::Xss if is_one_word(value) => false,
            Operator::Xss => detect_xss(value),
            Operator::Luhn(pattern) => pattern
                .captures(value)
                .is_some_and(|c| c.first().and_then(Option::as_ref).is_some_and(|digits| luhn(digits))),
            Operator::Always => true,
            Operator::Never => false,
        };
        found.then(|| if capture { vec![Some(value.to_vec())] } else { Vec::new() })
    }

    pub(crate) fn parameter(&self) -> Option<&Expansion> {
        match self {
            Operator::Compare(_, parameter) | Operator::Text(_, parameter) => Some(parameter),
            _ => None,
        }
    }
}

/// Letters, digits and `_` that begin with a letter are one word of SQL and no markup: no injection is that short. (A test
/// says so of libinjection's own words.)
fn is_one_word(value: &[u8]) -> bool {
    value.first().is_none_or(u8::is_ascii_alphabetic) && value.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// A crate of others' making sees what attackers write: should it panic on an input, that input is one to be wary of.
fn detect_sqli(value: &[u8]) -> Option<Captures> {
    let found = std::panic::catch_unwind(|| libinjectionrs::detect_sqli(value));
    match found {
        Ok(result) if result.is_injection() => {
            let fingerprint = result.fingerprint.map(|f| f.to_string().into_bytes());
            Some(vec![fingerprint])
        }
        Ok(_) => None,
        Err(_) => Some(vec![None]),
    }
}

fn detect_xss(value: &[u8]) -> bool {
    std::panic::catch_unwind(|| libinjectionrs::detect_xss(value).is_injection()).unwrap_or(true)
}

/// As C's `atol`: leading digits; anything else is 0.
pub(crate) fn number(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let digits = digits.iter().take_while(|b| b.is_ascii_digit());
    let number = digits.fold(0i64, |n, b| n.saturating_mul(10).saturating_add(i64::from(b - b'0')));
    if negative { -number } else { number }
}

impl Compare {
    fn holds(self, value: i64, parameter: i64) -> bool {
        match self {
            Compare::Eq => value == parameter,
            Compare::Ge => value >= parameter,
            Compare::Gt => value > parameter,
            Compare::Le => value <= parameter,
            Compare::Lt => value < parameter,
        }
    }
}

impl TextTest {
    fn holds(self, value: &[u8], parameter: &[u8]) -> bool {
        let contains = |text: &[u8], part: &[u8]| part.is_empty() || memchr::memmem::find(text, part).is_some();
        match self {
            TextTest::Equal => value == parameter,
            TextTest::Begins => value.starts_with(parameter),
            TextTest::Ends => value.ends_with(parameter),
            TextTest::Contains => contains(value, parameter),
            TextTest::Within => contains(parameter, value),
            TextTest::ContainsWord => memchr::memmem::find_iter(value, parameter).any(|at| {
                let edge = |b: Option<&u8>| b.is_none_or(|b| !b.is_ascii_alphanumeric() && *b != b'_');
                edge(at.checked_sub(1).and_then(|i| value.get(i))) && edge(value.get(at + parameter.len()))
            }),
        }
    }
}

fn words(words: Vec<Vec<u8>>) -> Result<Operator, String> {
    let finder = AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostFirst)
        .kind(Some(AhoCorasickKind::ContiguousNFA))
        .build(&words)
        .map_err(|e| e.to_string())?;
    Ok(Operator::Words(finder, words.into()))
}

/// `|41 42|` in a word are bytes in hexadecimal.
fn unescape(word: &str) -> Vec<u8> {
    let parts: Vec<&str> = word.split('|').collect();
    if parts.len() < 3 {
        return word.as_bytes().to_vec();
    }
    let mut out = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        if i % 2 == 0 {
            out.extend_from_slice(part.as_bytes());
        } else {
            out.extend(part.split_whitespace().filter_map(|h| u8::from_str_radix(h, 16).ok()));
        }
    }
    out
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'))
}

fn addresses<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Vec<IpNet>, String> {
    let parts = parts.map(str::trim).filter(|p| !p.is_empty());
    parts
        .map(|p| {
            let net = p.parse::<IpNet>().ok().or_else(|| p.parse::<IpAddr>().ok().map(IpNet::from));
            net.ok_or_else(|| format!("{p:?} is no IP address and no CIDR range"))
        })
        .collect()
}

fn byte_range(text: &str) -> Result<[u64; 4], String> {
    let mut allowed = [0; 4];
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let byte = |n: &str| n.trim().parse::<u8>().map_err(|_| format!("{part:?} is no byte and no range of bytes"));
        for b in byte(first)?..=byte(last)? {
            if let Some(word) = allowed.get_mut(usize::from(b >> 6)) {
                *word |= 1 << (b & 63);
            }
        }
    }
    Ok(allowed)
}

fn is_set(bits: &[u64; 4], byte: u8) -> bool {
    bits.get(usize::from(byte >> 6)).is_some_and(|word| word >> (byte & 63) & 1 == 1)
}

fn bad_url_encoding(value: &[u8]) -> bool {
    memchr::memchr_iter(b'%', value).any(|at| {
        let digits = value.get(at + 1..at + 3);
        !digits.is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Whether the digits are a card number's (ISO/IEC 7812-1, annex B).
fn luhn(text: &[u8]) -> bool {
    let digits = text.iter().rev().filter(|b| b.is_ascii_digit()).map(|b| u32::from(b - b'0'));
    let sum: u32 = digits
        .enumerate()
        .map(|(i, d)| match (i % 2, d * 2) {
            (0, _) => d,
            (_, doubled) if doubled > 9 => doubled - 9,
            (_, doubled) => doubled,
        })
        .sum();
    sum > 0 && sum.is_multiple_of(10)
}
