//! Values as they stand in a log entry, written as JSON straight into its text: a request's entry is made without a tree of
//! values. The surprise: a few variables are numbers, as APISIX's Lua sees them through lua-resty-ngxvar; all others are texts.
use flate2::read::GzDecoder;
use serde_json::Value as Json;
use sluice_expr::{Value, Variable};
use std::borrow::Cow;
use std::io::Read;

/// Fields and arguments that are shown at most (the default of ngx.req.get_headers and ngx.req.get_uri_args).
const MAX_FIELDS: usize = 100;

/// An object being written.
pub struct Object<'a> {
    pub out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    pub fn open(out: &'a mut Vec<u8>) -> Object<'a> {
        out.push(b'{');
        Object { out, empty: true }
    }
    /// Writes a name; its value comes next into what is returned.
    pub fn key(&mut self, name: &[u8]) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        text(name, self.out);
        self.out.push(b':');
        self.out
    }
    /// The same for a name that stands in quotes already, with its colon: `"uri":`.
    #[inline]
    pub fn known(&mut self, quoted: &'static [u8]) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.extend_from_slice(quoted);
        self.out
    }
    /// As [`Object::key`], in lower case.
    #[inline]
    fn lower_key(&mut self, name: &[u8]) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        let before = self.out.len();
        self.out.reserve(name.len() + 12);
        self.out.push(b'"');
        let (words, rest) = name.as_chunks::<8>();
        let mut last = [b' '; 8];
        for (place, byte) in last.iter_mut().zip(rest) {
            *place = *byte;
        }
        let mut plain = true;
        for word in words.iter().chain(std::iter::once(&last)) {
            let word = u64::from_le_bytes(*word);
            plain &= is_plain(word);
            self.out.extend_from_slice(&lower(word).to_le_bytes());
        }
        self.out.truncate(before + 1 + name.len());
        if !plain {
            // What an escape holds has no capitals but those of the name.
            self.out.truncate(before);
            text(&name.to_ascii_lowercase(), self.out);
            return self.out.push(b':');
        }
        self.out.extend_from_slice(b"\":");
    }
    pub fn close(self) {
        self.out.push(b'}');
    }
}

/// A text; what is not UTF-8 is replaced.
pub fn text(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    escaped(bytes, out);
    out.push(b'"');
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Whether one of eight bytes is a control character, `"` or `\`. May say so of a byte after such a one.
#[inline]
fn special(word: u64) -> bool {
    let zero = |w: u64| w.wrapping_sub(ONES) & !w;
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    (below_space | zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\')))) & HIGH != 0
}

/// Whether all of eight bytes are ASCII and need no escape.
#[inline]
fn is_plain(word: u64) -> bool {
    !special(word) && word & HIGH == 0
}

/// Eight bytes of ASCII in lower case.
#[inline]
fn lower(word: u64) -> u64 {
    let from_a = word.wrapping_add(ONES * u64::from(0x80 - b'A'));
    let beyond_z = word.wrapping_add(ONES * u64::from(0x7f - b'Z'));
    word | ((from_a & !beyond_z & HIGH) >> 2)
}

/// How many bytes at the start are ASCII and need no escape: nearly always all of them.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        if !is_plain(u64::from_le_bytes(*word)) {
            return at * 8;
        }
    }
    // The last word overlaps the one before; what is shorter than a word is put together with spaces.
    let last = match bytes.last_chunk::<8>() {
        _ if rest.is_empty() => return bytes.len(),
        Some(last) => u64::from_le_bytes(*last),
        None => rest.iter().fold(ONES * 0x20, |word, byte| word << 8 | u64::from(*byte)),
    };
    if is_plain(last) { bytes.len() } else { words.len() * 8 }
}

/// The inside of a JSON text.
#[inline]
pub fn escaped(bytes: &[u8], out: &mut Vec<u8>) {
    let (head, rest) = bytes.split_at(plain(bytes));
    out.extend_from_slice(head);
    if !rest.is_empty() {
        escaped_slowly(rest, out);
    }
}

/// The same for what holds something that is not plain.
#[cold]
fn escaped_slowly(bytes: &[u8], out: &mut Vec<u8>) {
    let valid = match std::str::from_utf8(bytes) {
        Ok(_) => Cow::Borrowed(bytes),
        Err(_) => Cow::Owned(String::from_utf8_lossy(bytes).into_owned().into_bytes()),
    };
    let (words, rest) = valid.as_chunks::<8>();
    for word in words {
        if special(u64::from_le_bytes(*word)) {
            escape_bytes(word, out);
        } else {
            out.extend_from_slice(word);
        }
    }
    escape_bytes(rest, out);
}

fn escape_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                let digit = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
            other => out.push(*other),
        }
    }
}

/// A whole number.
pub fn integer(n: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// A number: whole ones without a point. What JSON cannot say is null.
pub fn number(n: f64, out: &mut Vec<u8>) {
    if n.fract() == 0.0 && n.abs() < 9e15 {
        out.extend_from_slice(itoa::Buffer::new().format(n as i64).as_bytes());
    } else {
        json(&Json::from(n), out);
    }
}

/// A value that is known as JSON.
pub fn json(value: &Json, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}

/// A variable's value.
pub fn variable(variable: &Variable, value: Value<'_>, out: &mut Vec<u8>) {
    let numeric = matches!(
        variable,
        Variable::Status
            | Variable::RequestTime
            | Variable::RequestLength
            | Variable::BytesSent
            | Variable::UpstreamResponseTime
            | Variable::UpstreamHeaderTime
            | Variable::UpstreamConnectTime
    );
    match value {
        Value::Bytes(bytes) if numeric => {
            // Several tries stand in one text: `0.1, 0.2`.
            let text = String::from_utf8_lossy(&bytes);
            number(text.split(", ").filter_map(|t| t.parse::<f64>().ok()).sum(), out);
        }
        Value::Bytes(bytes) => text(&bytes, out),
        Value::Number(n) => number(n, out),
        Value::Bool(b) => out.extend_from_slice(if b { b"true" } else { b"false" }),
        Value::List(items) => {
            list(items, |item, out: &mut Vec<u8>| self::variable(variable, item, out), out);
        }
    }
}

/// A list of values.
fn list<V>(values: impl IntoIterator<Item = V>, write: impl Fn(V, &mut Vec<u8>), out: &mut Vec<u8>) {
    out.push(b'[');
    for (i, value) in values.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(value, out);
    }
    out.push(b']');
}

/// An object of pairs whose names may repeat: repeated ones are lists, in the place of the first. `same` tells whether two
/// names are one, `name` writes it.
fn grouped<'a, N: Copy, V: Copy>(
    pairs: impl Iterator<Item = (N, V)> + Clone + 'a,
    same: impl Fn(N, N) -> bool,
    name: impl Fn(N, &mut Object<'_>),
    value: impl Fn(V, &mut Vec<u8>),
    out: &mut Vec<u8>,
) {
    let mut object = Object::open(out);
    for (i, (own, first)) in pairs.clone().enumerate() {
        if pairs.clone().take(i).any(|(earlier, _)| same(earlier, own)) {
            continue;
        }
        name(own, &mut object);
        let mut others = pairs.clone().skip(i + 1).filter(|(later, _)| same(*later, own)).peekable();
        match others.peek() {
            None => value(first, object.out),
            Some(_) => list(std::iter::once(first).chain(others.map(|(_, other)| other)), &value, object.out),
        }
    }
    object.close();
}

/// A place among 64 for a field's name, the same for all its spellings. Names with places of their own differ.
#[inline]
fn place(name: &[u8]) -> u64 {
    let letter = |byte: Option<&u8>| usize::from(byte.map_or(0, |b| b | 0x20));
    1 << ((name.len() * 5 + letter(name.first()) * 3 + letter(name.get(name.len() / 2)) + letter(name.last())) & 63)
}

/// Header fields by lower-case name.
pub fn headers<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>, out: &mut Vec<u8>) {
    let fields: smallvec::SmallVec<[(&[u8], &[u8]); 24]> = fields.take(MAX_FIELDS).collect();
    let (mut seen, mut shared) = (0, 0);
    for (name, _) in &fields {
        let place = place(name);
        shared |= seen & place;
        seen |= place;
    }
    let mut object = Object::open(out);
    for (at, (name, value)) in fields.iter().enumerate() {
        let same = |(other, _): &&(&[u8], &[u8])| other.eq_ignore_ascii_case(name);
        let alone = shared & place(name) == 0;
        if !alone && fields.iter().take(at).any(|field| same(&field)) {
            continue;
        }
        object.lower_key(name);
        let mut others = fields.iter().skip(at + 1).filter(same).peekable();
        if alone || others.peek().is_none() {
            text(value, object.out);
            continue;
        }
        list(std::iter::once(*value).chain(others.map(|(_, other)| *other)), text, object.out);
    }
    object.close();
}

fn decode(text: &str) -> Cow<'_, [u8]> {
    sluice_http::target::decode(text.as_bytes())
}

/// Query arguments; those without `=` are true.
pub fn arguments(query: &str, out: &mut Vec<u8>) {
    if query.is_empty() {
        return out.extend_from_slice(b"{}");
    }
    type Argument<'a> = (Cow<'a, [u8]>, Option<Cow<'a, [u8]>>);
    let arguments: Vec<Argument<'_>> = query
        .split('&')
        .filter(|a| !a.is_empty())
        .take(MAX_FIELDS)
        .map(|argument| match argument.split_once('=') {
            Some((name, value)) => (decode(name), Some(decode(value))),
            None => (decode(argument), None),
        })
        .filter(|(name, _)| !name.is_empty())
        .collect();
    let value = |value: Option<&[u8]>, out: &mut Vec<u8>| match value {
        Some(value) => text(value, out),
        None => out.extend_from_slice(b"true"),
    };
    let pairs = arguments.iter().map(|(n, v)| (&**n, v.as_deref()));
    grouped(pairs, |a: &[u8], b: &[u8]| a == b, |n, object: &mut Object<'_>| _ = object.key(n), value, out);
}

/// The first `limit` bytes of what was compressed (apisix/utils/content-decode.lua); `None` where nothing can be read.
pub fn decoded(encoding: &[u8], body: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let result = if encoding.eq_ignore_ascii_case(b"gzip") {
        GzDecoder::new(body).take(limit as u64).read_to_end(&mut out)
    } else if encoding.eq_ignore_ascii_case(b"br") {
        brotli_decompressor::Decompressor::new(body, 4096).take(limit as u64).read_to_end(&mut out)
    } else {
        return None;
    };
    // A body that was cut gives what it can.
    (result.is_ok() || !out.is_empty()).then_some(out)
}
