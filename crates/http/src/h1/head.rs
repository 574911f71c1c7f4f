//! Request and response heads (RFC 9112 sections 2 to 6): parsed in place by `httparse`, kept as offsets.
//!
//! `httparse` is lenient where old clients were; a gateway must not be (request smuggling). This file refuses bare LF,
//! obs-fold, ambiguous framing, several or missing `Host`, and what does not belong into a target.
use super::body::Framing;
use crate::headers::{Headers, Known, Span};
use crate::method::Method;
use crate::request::{Request, Version};
use crate::response::Response;
use httparse::{Header, Status};
use std::mem::MaybeUninit;

/// Bounds of a head. Defaults are nginx's `large_client_header_buffers 4 8k`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the request line: 414 above.
    pub request_line: usize,
    /// Bytes of the whole head: 431 above (nginx: 400).
    pub head: usize,
    /// Number of fields, at most 128: 431 above.
    pub fields: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { request_line: 8192, head: 32768, fields: 100 }
    }
}

/// Why a request is refused: the status to answer with before closing, and one line for the client and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Reject {
    pub status: u16,
    pub reason: &'static str,
}

/// A response that must not be relayed: 502, and the upstream connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadResponse(pub &'static str);

const MAX_FIELDS: usize = 128;

pub(crate) const fn reject(status: u16, reason: &'static str) -> Reject {
    Reject { status, reason }
}

/// Parses a request head from the start of `data`. `Ok(None)`: more bytes are needed. `Ok(Some(n))`: the head took `n`
/// bytes and `request` describes it.
pub fn parse_request(data: &[u8], limits: &Limits, request: &mut Request) -> Result<Option<usize>, Reject> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let n = match httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, data, &mut fields) {
        Ok(Status::Complete(n)) => n,
        Ok(Status::Partial) => return incomplete(data, limits),
        Err(httparse::Error::TooManyHeaders) => return Err(reject(431, "too many header fields")),
        Err(httparse::Error::Version) if names_a_version(data) => {
            return Err(reject(505, "HTTP version not supported"));
        }
        Err(_) => return Err(reject(400, "malformed request head")),
    };
    let (Some(method), Some(path), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(reject(400, "malformed request line"));
    };
    if path.len() + method.len() + 11 > limits.request_line {
        return Err(reject(414, "request line too long"));
    }
    if n > limits.head {
        return Err(reject(431, "request head too large"));
    }
    if parsed.headers.len() > limits.fields {
        return Err(reject(431, "too many header fields"));
    }
    let base = data.as_ptr() as usize;
    let at = |s: &[u8]| Span::of(s.as_ptr() as usize - base, s.len());
    request.clear();
    request.headers.buf.extend_from_slice(&data[..n]);
    request.method = Method::from_token(method.as_bytes());
    request.method_text = at(method.as_bytes());
    request.version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    request.received = n as u64;
    let target = at(path.as_bytes());
    let first_line_end = target.start as usize + path.len() + " HTTP/1.1".len();
    if data.get(first_line_end..first_line_end + 2) != Some(b"\r\n") || data.first() == Some(&b'\n') {
        return Err(reject(400, "request line must end with CR LF"));
    }
    let scan = scan_fields(data, n, parsed.headers, minor == 1, &mut request.headers).map_err(|r| reject(400, r))?;
    adopt_request_target(path, target, request)?;
    match (scan.hosts, minor) {
        (0, 0) => {}
        (0, _) => return Err(reject(400, "missing Host")),
        // An absolute-form target's host stands in for the field's (RFC 9112 section 3.2.2).
        (1, _) if request.host.len == 0 && !request.adopt_host_at(scan.host) => {
            return Err(reject(400, "invalid Host"));
        }
        (1, _) => {}
        _ => return Err(reject(400, "several Host fields")),
    }
    if scan.chunked && minor == 0 {
        return Err(reject(400, "Transfer-Encoding in HTTP/1.0"));
    }
    request.framing = match (scan.chunked, scan.length) {
        (true, Some(_)) => return Err(reject(400, "both Content-Length and Transfer-Encoding")),
        (true, None) => Framing::Chunked,
        (false, Some(n)) if n > 0 => Framing::Length(n),
        (false, _) => Framing::None,
    };
    request.keep_alive = scan.keep_alive;
    request.upgrade = scan.upgrade && scan.connection_upgrade && minor == 1;
    request.expects_continue = scan.expects_continue && minor == 1;
    Ok(Some(n))
}

/// Whether the request line has three parts of which the last is some `HTTP/1.2`: an unknown version, not garbage.
fn names_a_version(data: &[u8]) -> bool {
    let line = data.split(|b| *b == b'\n').next().unwrap_or_default();
    let mut parts = line.trim_ascii_end().split(|b| *b == b' ').skip(2);
    let version = |v: &[u8]| matches!(v, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit());
    parts.next().is_some_and(version) && parts.next().is_none()
}

/// A head that is not whole yet may still be known to be too large.
fn incomplete(data: &[u8], limits: &Limits) -> Result<Option<usize>, Reject> {
    if data.len() > limits.request_line && !data[..limits.request_line].contains(&b'\n') {
        return Err(reject(414, "request line too long"));
    }
    if data.len() > limits.head {
        return Err(reject(431, "request head too large"));
    }
    Ok(None)
}

fn adopt_request_target(path: &str, span: Span, request: &mut Request) -> Result<(), Reject> {
    let raw = path.as_bytes();
    if raw.iter().any(|b| *b <= b' ' || *b == 0x7f || *b == b'#') {
        return Err(reject(400, "illegal character in the request target"));
    }
    request.target = span;
    let bad = reject(400, "invalid request target");
    if raw.first() == Some(&b'/') {
        return if request.adopt_target(raw) { Ok(()) } else { Err(bad) };
    }
    // absolute-form
    let lower = raw.get(..8).unwrap_or(raw).to_ascii_lowercase();
    let scheme = if lower.starts_with(b"http://") {
        7
    } else if lower.starts_with(b"https://") {
        8
    } else {
        return Err(bad);
    };
    let rest = raw.get(scheme..).unwrap_or_default();
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if authority.contains(&b'@') || !request.adopt_host(authority) {
        return Err(bad);
    }
    match tail.first() {
        Some(b'/') => request.target = Span::of(span.start as usize + scheme + end, tail.len()),
        _ => request.target = request.headers.store(&[b"/", tail].concat()),
    }
    let tail = request.target.get(&request.headers.buf).to_vec();
    if request.adopt_target(&tail) { Ok(()) } else { Err(bad) }
}

/// Parses a response head. `to_head` tells that the request was HEAD, so that no body follows whatever the head says.
pub fn parse_response(
    data: &[u8],
    max_head: usize,
    to_head: bool,
    response: &mut Response,
) -> Result<Option<usize>, BadResponse> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let n = match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, data, &mut fields) {
        Ok(Status::Complete(n)) => n,
        Ok(Status::Partial) if data.len() <= max_head => return Ok(None),
        Ok(Status::Partial) => return Err(BadResponse("response head too large")),
        Err(_) => return Err(BadResponse("malformed response head")),
    };
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(BadResponse("malformed status line"));
    };
    if code < 100 {
        return Err(BadResponse("invalid status"));
    }
    // `httparse` takes empty lines before the status line, and a bare LF at its end.
    let line_end = memchr::memchr(b'\n', data).unwrap_or(0);
    if !data.starts_with(b"HTTP/") || line_end.checked_sub(1).and_then(|i| data.get(i)) != Some(&b'\r') {
        return Err(BadResponse("status line must end with CR LF"));
    }
    let base = data.as_ptr() as usize;
    response.clear();
    response.headers.buf.extend_from_slice(&data[..n]);
    response.status = code;
    response.version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    if let Some(reason) = parsed.reason.filter(|r| !r.is_empty()) {
        response.reason = Span::of(reason.as_ptr() as usize - base, reason.len());
    }
    let scan = scan_fields(data, n, parsed.headers, minor == 1, &mut response.headers).map_err(BadResponse)?;
    if scan.chunked && scan.length.is_some() {
        return Err(BadResponse("both Content-Length and Transfer-Encoding"));
    }
    response.framing = if to_head || code < 200 || code == 204 || code == 304 {
        Framing::None
    } else if scan.chunked {
        Framing::Chunked
    } else {
        match scan.length {
            Some(0) => Framing::None,
            Some(n) => Framing::Length(n),
            None => Framing::Close,
        }
    };
    // Chunks from a node of HTTP/1.0: nobody on its way need have understood them, so the connection is not used again
    // (RFC 9112 section 6.1).
    response.keep_alive = scan.keep_alive && response.framing != Framing::Close && !(scan.chunked && minor == 0);
    Ok(Some(n))
}

#[derive(Default)]
struct Scan {
    length: Option<u64>,
    chunked: bool,
    keep_alive: bool,
    hosts: u32,
    host: Span,
    upgrade: bool,
    connection_upgrade: bool,
    expects_continue: bool,
}

/// One pass over the fields: line ends, framing, hop-by-hop, connection options.
#[inline]
fn scan_fields(
    data: &[u8],
    head: usize,
    fields: &[Header<'_>],
    http11: bool,
    headers: &mut Headers,
) -> Result<Scan, &'static str> {
    let base = data.as_ptr() as usize;
    let mut scan = Scan { keep_alive: http11, ..Scan::default() };
    let (mut nominated, mut closing) = (false, false);
    for (i, field) in fields.iter().enumerate() {
        let name = Span::of(field.name.as_ptr() as usize - base, field.name.len());
        let value_start = match field.value.len() {
            0 => name.start as usize + field.name.len() + 1,
            _ => field.value.as_ptr() as usize - base,
        };
        let value = Span::of(value_start, field.value.len());
        let line_end = match fields.get(i + 1) {
            Some(next) => next.name.as_ptr() as usize - base,
            None => head - 2,
        };
        // Between the value and the next line stand only white space and the line end: it must be CR LF, once.
        let tail = data.get(value_start + field.value.len()..line_end).ok_or("malformed header field")?;
        if !tail.ends_with(b"\r\n")
            || tail.len() > 2 && tail[..tail.len() - 2].iter().any(|b| matches!(b, b'\r' | b'\n'))
        {
            return Err("header field must end with CR LF");
        }
        if field.name.len() > usize::from(u16::MAX) {
            return Err("header name too long");
        }
        let known = Known::from_name(field.name.as_bytes());
        let mut hop = false;
        match known {
            Known::Host => {
                scan.hosts += 1;
                scan.host = value;
            }
            Known::Connection if http11 && matches!(field.value, b"keep-alive" | b"Keep-Alive") => hop = true,
            Known::Connection => {
                hop = true;
                for token in field.value.split(|b| *b == b',').map(|t| t.trim_ascii()) {
                    if token.eq_ignore_ascii_case(b"close") {
                        closing = true;
                    } else if token.eq_ignore_ascii_case(b"upgrade") {
                        scan.connection_upgrade = true;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") {
                        scan.keep_alive |= !http11;
                    } else if !token.is_empty() {
                        nominated = true;
                    }
                }
            }
            Known::KeepAlive | Known::ProxyConnection | Known::Te => hop = true,
            Known::Upgrade => {
                hop = true;
                scan.upgrade = true;
            }
            Known::Expect => {
                hop = true;
                if !field.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err("unknown expectation");
                }
                scan.expects_continue = true;
            }
            Known::ContentLength => match (scan.length, content_length(field.value)) {
                (None, Some(n)) => scan.length = Some(n),
                _ => return Err("invalid Content-Length"),
            },
            Known::TransferEncoding => {
                hop = true;
                if scan.chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                    return Err("invalid Transfer-Encoding");
                }
                scan.chunked = true;
            }
            _ => {}
        }
        headers.push_wire(name, value, line_end, known, hop);
    }
    if data.get(head - 2..head) != Some(b"\r\n") {
        return Err("head must end with CR LF");
    }
    // Whatever another line says: whoever wants to close, closes.
    scan.keep_alive &= !closing;
    if nominated {
        headers.drop_nominated();
    }
    Ok(scan)
}

/// Digits only, at most 18 of them: no sign, no list, no space (RFC 9112 section 6.3, item 5).
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0u64, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
