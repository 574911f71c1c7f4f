//! W3C trace context: `traceparent` and `tracestate` (https://www.w3.org/TR/trace-context/). The surprise: flags that the
//! specification does not know yet are accepted and not passed on, where APISIX's library takes a whole field with them for
//! invalid.
use sluice_http::Headers;
use std::borrow::Cow;

pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";

/// Members of `tracestate`, at most.
const MAX_MEMBERS: usize = 32;
const MAX_KEY: usize = 256;
const MAX_VALUE: usize = 256;

/// Who called: a valid `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    pub trace_id: u128,
    pub span_id: u64,
    pub sampled: bool,
}

/// Lower-case hexadecimal digits as a number.
fn lower_hex(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0_u128, |n, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(n << 4 | u128::from(value))
    })
}

impl Parent {
    pub fn read(headers: &Headers) -> Option<Parent> {
        Parent::parse(headers.get(TRACEPARENT)?)
    }

    /// `00-<32 digits>-<16 digits>-<2 digits>`; later versions may say more.
    pub fn parse(text: &[u8]) -> Option<Parent> {
        let text = text.trim_ascii();
        let (head, rest) = text.split_at_checked(55)?;
        if [2, 35, 52].iter().any(|at| head.get(*at) != Some(&b'-')) {
            return None;
        }
        match lower_hex(head.get(..2)?)? {
            0 if !rest.is_empty() => return None,
            0xff => return None,
            _ if rest.first().is_some_and(|next| *next != b'-') => return None,
            _ => {}
        }
        let trace_id = lower_hex(head.get(3..35)?).filter(|id| *id != 0)?;
        let span_id = lower_hex(head.get(36..52)?).filter(|id| *id != 0)?;
        let flags = lower_hex(head.get(53..55)?)?;
        Some(Parent { trace_id, span_id: span_id as u64, sampled: flags & 1 == 1 })
    }
}

/// A `traceparent`.
pub fn traceparent(trace_id: u128, span_id: u64, sampled: bool) -> [u8; 55] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let mut put = |from: usize, count: usize, n: u128| {
        for (i, place) in out.iter_mut().skip(from).take(count).enumerate() {
            let nibble = (n >> (4 * (count - 1 - i))) & 15;
            *place = DIGITS.get(nibble as usize).copied().unwrap_or(b'0');
        }
    };
    put(3, 32, trace_id);
    put(36, 16, u128::from(span_id));
    put(53, 2, u128::from(sampled));
    out
}

/// What is passed on of `tracestate`: its members without white space around them; nothing where one is malformed.
pub fn tracestate(text: &str) -> Option<Cow<'_, str>> {
    let mut members = Vec::new();
    for member in text.split(',').filter(|member| !member.is_empty()) {
        let (key, value) = member.split_once('=')?;
        let (key, value) = (key.trim_start(), value.trim_end());
        if !is_key(key) || !is_value(value) || members.len() == MAX_MEMBERS {
            return None;
        }
        members.push((key, value));
    }
    let length: usize = members.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    if length == text.len() + 1 {
        return Some(Cow::Borrowed(text));
    }
    let joined: Vec<String> = members.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Some(Cow::Owned(joined.join(",")))
}

fn is_key(key: &str) -> bool {
    let rest = |text: &str| text.bytes().skip(1).all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'));
    let simple = |text: &str| text.starts_with(|c: char| c.is_ascii_lowercase()) && rest(text);
    if key.len() > MAX_KEY {
        return false;
    }
    match key.split_once('@') {
        None => simple(key),
        Some((tenant, system)) => {
            let begins = tenant.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
            begins && rest(tenant) && tenant.len() <= 241 && simple(system) && system.len() <= 14
        }
    }
}

fn is_value(value: &str) -> bool {
    let printable = value.bytes().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b',' | b'='));
    !value.is_empty() && value.len() <= MAX_VALUE && printable
}
