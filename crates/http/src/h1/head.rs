//! Request and response heads (RFC 9112 sections 2 to 6): read once, from left to right, and kept as offsets.
//!
//! There is no leniency towards old clients, as it is what request smuggling lives on: this file refuses bare LF, obs-fold,
//! ambiguous framing, several or missing `Host`, and what does not belong into a target.
use super::body::Framing;
use super::tokens::{target_end, token_end, value_end};
use crate::headers::{Headers, Known, Span};
use crate::method::Method;
use crate::request::{Request, Version};
use crate::response::Response;

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

/// Fields of a response.
const MAX_FIELDS: usize = 128;

pub(crate) const fn reject(status: u16, reason: &'static str) -> Reject {
    Reject { status, reason }
}

/// The method, the target, where the fields begin, and whether the version is 1.1.
type RequestLine = (Span, Span, usize, bool);

/// Parses a request head from the start of `data`. `Ok(None)`: more bytes are needed. `Ok(Some(n))`: the head took `n`
/// bytes and `request` describes it.
pub fn parse_request(data: &[u8], limits: &Limits, request: &mut Request) -> Result<Option<usize>, Reject> {
    let Some((method, target, fields, http11)) = request_line(data)? else { return incomplete(data, limits) };
    if method.len as usize + target.len as usize + 11 > limits.request_line {
        return Err(reject(414, "request line too long"));
    }
    request.clear();
    let scan = match scan_fields(data, fields, http11, limits.fields, &mut request.headers) {
        Ok(Some(scan)) => scan,
        Ok(None) => return incomplete(data, limits),
        Err(TOO_MANY) => return Err(reject(431, TOO_MANY)),
        Err(reason) => return Err(reject(400, reason)),
    };
    let n = scan.end;
    if n > limits.head {
        return Err(reject(431, "request head too large"));
    }
    request.headers.buf.extend_from_slice(&data[..n]);
    if scan.nominated {
        request.headers.drop_nominated();
    }
    request.method = Method::from_token(method.get(data));
    request.method_text = method;
    request.version = if http11 { Version::Http11 } else { Version::Http10 };
    request.received = n as u64;
    adopt_request_target(target.get(data), target, request)?;
    match (scan.hosts, http11) {
        (0, false) => {}
        (0, true) => return Err(reject(400, "missing Host")),
        // An absolute-form target's host stands in for the field's (RFC 9112 section 3.2.2).
        (1, _) if request.host.len == 0 && !request.adopt_host_at(scan.host) => {
            return Err(reject(400, "invalid Host"));
        }
        (1, _) => {}
        _ => return Err(reject(400, "several Host fields")),
    }
    if scan.chunked && !http11 {
        return Err(reject(400, "Transfer-Encoding in HTTP/1.0"));
    }
    request.framing = match (scan.chunked, scan.length) {
        (true, Some(_)) => return Err(reject(400, "both Content-Length and Transfer-Encoding")),
        (true, None) => Framing::Chunked,
        (false, Some(n)) if n > 0 => Framing::Length(n),
        (false, _) => Framing::None,
    };
    request.keep_alive = scan.keep_alive;
    request.upgrade = scan.upgrade && scan.connection_upgrade && http11;
    request.expects_continue = scan.expects_continue && http11;
    Ok(Some(n))
}

/// `None`: it is not whole yet.
#[inline]
fn request_line(data: &[u8]) -> Result<Option<RequestLine>, Reject> {
    let malformed = reject(400, "malformed request line");
    let mut start = 0;
    // A server should overlook empty lines in front (RFC 9112 section 2.2).
    while data.get(start) == Some(&b'\r') {
        match data.get(start + 1) {
            Some(b'\n') => start += 2,
            Some(_) => return Err(malformed),
            None => return Ok(None),
        }
    }
    let method = token_end(data, start);
    match data.get(method) {
        None => return Ok(None),
        Some(b' ') if method > start => {}
        Some(_) => return Err(malformed),
    }
    let target = target_end(data, method + 1);
    match data.get(target) {
        None => return Ok(None),
        Some(b' ') if target > method + 1 => {}
        Some(b'#' | 0..=0x20 | 0x7f) if target > method + 1 => {
            return Err(reject(400, "illegal character in the request target"));
        }
        Some(_) => return Err(malformed),
    }
    let line = data.get(target + 1..).unwrap_or_default();
    let http11 = match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b'\r', b'\n', ..] => true,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0', b'\r', b'\n', ..] => false,
        _ if b"HTTP/1.1\r\n".starts_with(line) || b"HTTP/1.0\r\n".starts_with(line) => return Ok(None),
        _ if line.starts_with(b"HTTP/1.1") || line.starts_with(b"HTTP/1.0") => {
            return Err(reject(400, "request line must end with CR LF"));
        }
        _ if names_a_version(data) => return Err(reject(505, "HTTP version not supported")),
        _ => return Err(malformed),
    };
    let span = |from: usize, to: usize| Span::of(from, to - from);
    Ok(Some((span(start, method), span(method + 1, target), target + 11, http11)))
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

fn adopt_request_target(raw: &[u8], span: Span, request: &mut Request) -> Result<(), Reject> {
    let bad = reject(400, "invalid request target");
    if !raw.is_ascii() && std::str::from_utf8(raw).is_err() {
        return Err(bad);
    }
    request.target = span;
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
    let Some((code, reason, fields, http11)) = status_line(data)? else {
        return response_incomplete(data, max_head);
    };
    response.clear();
    let scan = scan_fields(data, fields, http11, MAX_FIELDS, &mut response.headers).map_err(BadResponse)?;
    let Some(scan) = scan else { return response_incomplete(data, max_head) };
    let n = scan.end;
    response.headers.buf.extend_from_slice(&data[..n]);
    if scan.nominated {
        response.headers.drop_nominated();
    }
    response.status = code;
    response.version = if http11 { Version::Http11 } else { Version::Http10 };
    if reason.len > 0 && reason.get(data).is_ascii() {
        response.reason = reason;
    }
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
    response.keep_alive = scan.keep_alive && response.framing != Framing::Close && (http11 || !scan.chunked);
    Ok(Some(n))
}

fn response_incomplete(data: &[u8], max_head: usize) -> Result<Option<usize>, BadResponse> {
    if data.len() <= max_head { Ok(None) } else { Err(BadResponse("response head too large")) }
}

/// The status, the reason, where the fields begin, and whether the version is 1.1. `None`: the line is not whole yet.
#[inline]
fn status_line(data: &[u8]) -> Result<Option<(u16, Span, usize, bool)>, BadResponse> {
    let malformed = BadResponse("malformed status line");
    let digit = |b: u8| b.is_ascii_digit().then(|| u16::from(b - b'0')).ok_or(malformed);
    let (minor, a, b, c) = match *data {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor, b' ', a, b, c, _, ..] => (minor, a, b, c),
        _ if data.len() < 13 && b"HTTP/1.".starts_with(data.get(..7).unwrap_or(data)) => return Ok(None),
        _ => return Err(malformed),
    };
    let http11 = match minor {
        b'1' => true,
        b'0' => false,
        _ => return Err(malformed),
    };
    let code = digit(a)? * 100 + digit(b)? * 10 + digit(c)?;
    if code < 100 {
        return Err(BadResponse("invalid status"));
    }
    let start = match data.get(12) {
        Some(b' ') => 13,
        _ => 12,
    };
    let end = value_end(data, start);
    match (data.get(end), data.get(end + 1)) {
        (Some(b'\r'), Some(b'\n')) if start == 13 || end == 12 => {
            Ok(Some((code, Span::of(start, end - start), end + 2, http11)))
        }
        (None, _) | (Some(b'\r'), None) => Ok(None),
        _ => Err(BadResponse("status line must end with CR LF")),
    }
}

const TOO_MANY: &str = "too many header fields";

#[derive(Default)]
struct Scan {
    /// Bytes up to the end of the head.
    end: usize,
    /// `Connection` names fields.
    nominated: bool,
    length: Option<u64>,
    chunked: bool,
    keep_alive: bool,
    hosts: u32,
    host: Span,
    upgrade: bool,
    connection_upgrade: bool,
    expects_continue: bool,
}

/// One pass over the fields: names, values, line ends, framing, hop-by-hop, connection options. `None`: more bytes are needed.
/// Spans are those of `data`; the fields' buffer is the caller's to fill.
#[inline]
fn scan_fields(
    data: &[u8],
    mut at: usize,
    http11: bool,
    most: usize,
    headers: &mut Headers,
) -> Result<Option<Scan>, &'static str> {
    let mut scan = Scan { keep_alive: http11, ..Scan::default() };
    let (mut count, mut closing) = (0, false);
    loop {
        let name_end = token_end(data, at);
        if data.get(name_end) != Some(&b':') || name_end == at {
            match (data.get(at), data.get(at + 1)) {
                (Some(b'\r'), Some(b'\n')) => break,
                (None, _) | (Some(b'\r'), None) => return Ok(None),
                (Some(b'\r' | b'\n'), _) => return Err("head must end with CR LF"),
                _ if name_end == data.len() => return Ok(None),
                _ => return Err("malformed header field"),
            }
        }
        let mut start = name_end + 1;
        while matches!(data.get(start), Some(b' ' | b'\t')) {
            start += 1;
        }
        let line = value_end(data, start);
        if data.get(line..line + 2) != Some(b"\r\n") {
            return match (data.get(line), data.get(line + 1)) {
                (None, _) | (Some(b'\r'), None) => Ok(None),
                (Some(b'\r' | b'\n'), _) => Err("header field must end with CR LF"),
                _ => Err("malformed header field"),
            };
        }
        count += 1;
        if count > most {
            return Err(TOO_MANY);
        }
        let (Some(name), Some(mut value)) = (data.get(at..name_end), data.get(start..line)) else { return Ok(None) };
        while let [rest @ .., b' ' | b'\t'] = value {
            value = rest;
        }
        if name.len() > usize::from(u16::MAX) {
            return Err("header name too long");
        }
        let (name_at, value_at) = (Span::of(at, name.len()), Span::of(start, value.len()));
        at = line + 2;
        let known = Known::from_name(name);
        let mut hop = false;
        match known {
            Known::Host => {
                scan.hosts += 1;
                scan.host = value_at;
            }
            Known::Connection if http11 && matches!(value, b"keep-alive" | b"Keep-Alive") => hop = true,
            Known::Connection => {
                hop = true;
                for token in value.split(|b| *b == b',').map(|t| t.trim_ascii()) {
                    if token.eq_ignore_ascii_case(b"close") {
                        closing = true;
                    } else if token.eq_ignore_ascii_case(b"upgrade") {
                        scan.connection_upgrade = true;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") {
                        scan.keep_alive |= !http11;
                    } else if !token.is_empty() {
                        scan.nominated = true;
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
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err("unknown expectation");
                }
                scan.expects_continue = true;
            }
            Known::ContentLength => match (scan.length, content_length(value)) {
                (None, Some(n)) => scan.length = Some(n),
                _ => return Err("invalid Content-Length"),
            },
            Known::TransferEncoding => {
                hop = true;
                if scan.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err("invalid Transfer-Encoding");
                }
                scan.chunked = true;
            }
            _ => {}
        }
        headers.push_wire(name_at, value_at, at, known, hop);
    }
    scan.end = at + 2;
    // Whatever another line says: whoever wants to close, closes.
    scan.keep_alive &= !closing;
    Ok(Some(scan))
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
