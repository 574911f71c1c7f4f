//! One regular expression over bytes, as PCRE without UTF mode reads it: `.` takes line ends, `$` is the very end.
//!
//! The surprise: what `regex` cannot do (look-around, possessive repeats) falls to a backtracking engine on a text in which every
//! byte is the character of its number; its steps are limited, and a match that is given up is no match.

use regex::bytes::{Regex, RegexBuilder};
use std::fmt::Write;

/// Steps of the backtracking engine per search.
const BACKTRACK_LIMIT: usize = 100_000;
/// Bytes a compiled expression may take.
pub(crate) const SIZE_LIMIT: usize = 64 << 20;

#[derive(Clone, Debug)]
pub(crate) enum Pattern {
    Fast(Regex),
    Backtracking(Box<fancy_regex::Regex>),
}

impl Pattern {
    pub(crate) fn new(source: &str) -> Result<Pattern, String> {
        let plain = plain(source);
        let fast = RegexBuilder::new(&plain).unicode(false).dot_matches_new_line(true).size_limit(SIZE_LIMIT).build();
        match fast {
            Ok(regex) => Ok(Pattern::Fast(regex)),
            Err(fast) => fancy_regex::RegexBuilder::new(&format!("(?s){plain}"))
                .backtrack_limit(BACKTRACK_LIMIT)
                .build()
                .map(|regex| Pattern::Backtracking(Box::new(regex)))
                .map_err(|_| fast.to_string()),
        }
    }

    pub(crate) fn is_match(&self, value: &[u8]) -> bool {
        match self {
            Pattern::Fast(regex) => regex.is_match(value),
            Pattern::Backtracking(regex) => regex.is_match(&latin1(value)).unwrap_or(false),
        }
    }

    /// The match and up to nine groups; none where there is no match.
    pub(crate) fn captures(&self, value: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
        match self {
            Pattern::Fast(regex) => {
                regex.captures(value).map(|c| c.iter().take(10).map(|m| m.map(|m| m.as_bytes().to_vec())).collect())
            }
            Pattern::Backtracking(regex) => {
                let text = latin1(value);
                let captures = regex.captures(&text).ok().flatten()?;
                let bytes = |m: &str| m.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
                Some(captures.iter().take(10).map(|m| m.map(|m| bytes(m.as_str()))).collect())
            }
        }
    }
}

fn latin1(value: &[u8]) -> String {
    value.iter().map(|b| char::from(*b)).collect()
}

/// The expression in `regex`'s spelling: bytes over 0x7f as escapes, PCRE's escapes that it does not know.
pub(crate) fn plain(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 8);
    let mut in_class = false;
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('h') if in_class => out.push_str(" \\t"),
                Some('h') => out.push_str("[ \\t]"),
                Some('e') => out.push_str("\\x1b"),
                Some('Z') => out.push_str("\\z"),
                // regex knows word boundaries by these, PCRE knows plain characters
                Some(c @ ('<' | '>')) => out.push(c),
                // one byte, where regex would mean a character and its two bytes of UTF-8
                Some('x') if chars.peek() == Some(&'{') => braced_hex(&mut chars, &mut out),
                Some(c) if c.is_ascii() => {
                    out.push('\\');
                    // PCRE reads an escaped letter without meaning as the letter
                    if matches!(c, 'i' | 'j' | 'l' | 'm' | 'o' | 'q' | 'y') {
                        out.pop();
                    }
                    out.push(c);
                }
                Some(c) => escape_bytes(c, &mut out),
                None => out.push_str("\\\\"),
            },
            '[' if in_class => {
                // [:alpha:] stays; any other [ is a plain one inside a class
                if chars.peek() == Some(&':') {
                    out.push('[')
                } else {
                    out.push_str("\\[")
                }
                if out.ends_with('[') && !out.ends_with("\\[") {
                    for c in chars.by_ref() {
                        out.push(c);
                        if c == ']' {
                            break;
                        }
                    }
                }
            }
            '[' => {
                in_class = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
                // a ] that comes first is a plain one
                if chars.peek() == Some(&']') {
                    chars.next();
                    out.push_str("\\]");
                }
            }
            ']' => {
                in_class = false;
                out.push(']');
            }
            // set operations that PCRE does not have
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_ascii() => out.push(c),
            c => escape_bytes(c, &mut out),
        }
    }
    out
}

/// `\x{e2}` after its `x`; digits that are no byte stay as they are.
fn braced_hex(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    chars.next();
    let digits: String = chars.by_ref().take_while(|c| *c != '}').collect();
    let _ = match u8::from_str_radix(&digits, 16) {
        Ok(byte) => write!(out, "\\x{byte:02x}"),
        Err(_) => write!(out, "\\x{{{digits}}}"),
    };
}

fn escape_bytes(c: char, out: &mut String) {
    let mut bytes = [0; 4];
    for byte in c.encode_utf8(&mut bytes).bytes() {
        let _ = write!(out, "\\x{byte:02x}");
    }
}
