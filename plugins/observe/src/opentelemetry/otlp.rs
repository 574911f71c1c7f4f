//! OTLP's protobuf, written straight into bytes: a span costs one buffer and no tree of messages
//! (opentelemetry-proto, trace/v1/trace.proto and common/v1/common.proto). The surprise: a field that has its default is
//! left out, as proto3 has it, but an attribute's value never is, for an empty text and none are not the same.

/// Wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar<'a> {
    Text(&'a [u8]),
    Int(i64),
    Double(f64),
    Bool(bool),
}

#[inline]
fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn varint_len(n: u64) -> usize {
    (64 - (n | 1).leading_zeros() as usize).div_ceil(7)
}

#[inline]
fn tag(field: u32, wire: u32, out: &mut Vec<u8>) {
    varint(u64::from(field << 3 | wire), out);
}

/// A field of bytes, or a message that is encoded already.
#[inline]
pub fn bytes(field: u32, value: &[u8], out: &mut Vec<u8>) {
    tag(field, BYTES, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// A text; what is not UTF-8 is replaced, since decoders refuse it.
fn text(field: u32, value: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(value) {
        Ok(_) => bytes(field, value, out),
        Err(_) => bytes(field, String::from_utf8_lossy(value).as_bytes(), out),
    }
}

fn number(field: u32, value: u64, out: &mut Vec<u8>) {
    tag(field, VARINT, out);
    varint(value, out);
}

fn fixed64(field: u32, value: u64, out: &mut Vec<u8>) {
    tag(field, FIXED64, out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// A field that is a message, written by `inner`. Its length is known only afterwards: one byte is kept for it, and a longer
/// length moves the message.
pub fn message(field: u32, out: &mut Vec<u8>, inner: impl FnOnce(&mut Vec<u8>)) {
    tag(field, BYTES, out);
    let at = out.len();
    out.push(0);
    inner(out);
    let length = out.len() - at - 1;
    let extra = varint_len(length as u64) - 1;
    if extra > 0 {
        out.splice(at..at, std::iter::repeat_n(0, extra));
    }
    let mut prefix = Vec::with_capacity(extra + 1);
    varint(length as u64, &mut prefix);
    if let Some(place) = out.get_mut(at..at + prefix.len()) {
        place.copy_from_slice(&prefix);
    }
}

/// `KeyValue` as field number `field`.
pub fn attribute(field: u32, key: &str, value: &Scalar<'_>, out: &mut Vec<u8>) {
    message(field, out, |out| {
        text(1, key.as_bytes(), out);
        message(2, out, |out| match value {
            Scalar::Text(value) => text(1, value, out),
            Scalar::Bool(value) => number(2, u64::from(*value), out),
            Scalar::Int(value) => number(3, *value as u64, out),
            Scalar::Double(value) => fixed64(4, value.to_bits(), out),
        });
    });
}

/// What a span has beside its attributes.
#[derive(Clone, Debug, Default)]
pub struct SpanHead<'a> {
    pub trace_id: u128,
    pub span_id: u64,
    pub parent_id: Option<u64>,
    pub trace_state: &'a str,
    pub name: &'a str,
    /// 1 internal, 2 server, 3 client.
    pub kind: u32,
    /// Nanoseconds since the epoch.
    pub start: u64,
    pub end: u64,
    /// What went wrong.
    pub error: Option<&'a str>,
}

/// Number of a span's field of attributes.
pub const SPAN_ATTRIBUTES: u32 = 9;

/// A `Span`; `attributes` are fields number [`SPAN_ATTRIBUTES`], encoded already.
pub fn span(head: &SpanHead<'_>, attributes: &[u8], out: &mut Vec<u8>) {
    bytes(1, &head.trace_id.to_be_bytes(), out);
    bytes(2, &head.span_id.to_be_bytes(), out);
    if !head.trace_state.is_empty() {
        text(3, head.trace_state.as_bytes(), out);
    }
    if let Some(parent) = head.parent_id {
        bytes(4, &parent.to_be_bytes(), out);
    }
    text(5, head.name.as_bytes(), out);
    number(6, u64::from(head.kind), out);
    fixed64(7, head.start, out);
    fixed64(8, head.end, out);
    out.extend_from_slice(attributes);
    if let Some(error) = head.error {
        message(15, out, |out| {
            text(2, error.as_bytes(), out);
            number(3, 2, out);
        });
    }
}

/// `ExportTraceServiceRequest` of one resource (its attributes, fields number 1, encoded) and one scope.
pub fn export(resource: &[u8], scope: &str, spans: &[Vec<u8>]) -> Vec<u8> {
    let all: usize = spans.iter().map(|span| span.len() + 6).sum();
    let mut scoped = Vec::with_capacity(all + 32);
    message(1, &mut scoped, |out| text(1, scope.as_bytes(), out));
    for span in spans {
        bytes(2, span, &mut scoped);
    }
    let mut of_resource = Vec::with_capacity(scoped.len() + resource.len() + 16);
    bytes(1, resource, &mut of_resource);
    bytes(2, &scoped, &mut of_resource);
    let mut out = Vec::with_capacity(of_resource.len() + 8);
    bytes(1, &of_resource, &mut out);
    out
}
