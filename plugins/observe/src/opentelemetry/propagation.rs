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

/// What a request's fields say, found in one look at them.
#[derive(Debug, Default)]
pub struct Fields {
    /// Who called, where that is valid.
    pub parent: Option<Parent>,
    pub has_parent: bool,
    pub has_state: bool,
}

impl Fields {
    #[inline]
    pub fn read(headers: &Headers) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in headers.iter() {
            match name.len() {
                11 if !fields.has_parent && name.eq_ignore_ascii_case(TRACEPARENT.as_bytes()) => {
                    fields.has_parent = true;
                    fields.parent = Parent::parse(value);
                }
                10 if name.eq_ignore_ascii_case(TRACESTATE.as_bytes()) => fields.has_state = true,
                _ => {}
            }
        }
        fields
    }
}

/// At most sixteen lower-case hexadecimal digits as a number.
fn lower_hex(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0_u64, |n, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(n << 4 | u64::from(value))
    })
}

impl Parent {
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
        let (high, low) = (lower_hex(head.get(3..19)?)?, lower_hex(head.get(19..35)?)?);
        let trace_id = Some(u128::from(high) << 64 | u128::from(low)).filter(|id| *id != 0)?;
        let span_id = lower_hex(head.get(36..52)?).filter(|id| *id != 0)?;
        let flags = lower_hex(head.get(53..55)?)?;
        Some(Parent { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

/// A `traceparent`.
pub fn traceparent(trace_id: u128, span_id: u64, sampled: bool) -> [u8; 55] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble & 15)).copied().unwrap_or(b'0');
    let mut put = |from: usize, bytes: &[u8]| {
        let (pairs, _) = out.get_mut(from..).unwrap_or_default().as_chunks_mut::<2>();
        for (pair, byte) in pairs.iter_mut().zip(bytes) {
            *pair = [digit(byte >> 4), digit(*byte)];
        }
    };
    put(3, &trace_id.to_be_bytes());
    put(36, &span_id.to_be_bytes());
    put(53, &[u8::from(sampled)]);
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
    let rest =
        |text: &str| text.bytes().skip(1).all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'));
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
