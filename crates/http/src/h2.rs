//! HTTP/2 heads (RFC 9113 section 8): between the types of the `h2` crate and those that the pipeline works on.
//!
//! `h2` has checked what makes a message malformed by itself (upper-case names, fields of the connection, order and number of
//! pseudo-fields). What could be misread behind a translation to HTTP/1 is refused here. The surprise: fields are stored as
//! the lines that HTTP/1 would have had, so that they pass to an HTTP/1 upstream in one copy.
use crate::h1::head::{content_length, reject};
use crate::h1::{Framing, Limits, Reject};
use crate::headers::{Headers, Known};
use crate::request::{Request, Version};
use crate::response::Response;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Uri};

/// Fills `request` from a head. `ended`: no body follows. `protocol`: that of an extended CONNECT (RFC 8441), which the
/// pipeline sees as HTTP/1's request to change to it.
pub fn request(
    head: &http::request::Parts,
    protocol: Option<&str>,
    ended: bool,
    limits: &Limits,
    request: &mut Request,
) -> Result<(), Reject> {
    request.clear();
    request.version = Version::Http2;
    request.keep_alive = true;
    let target = target(&head.uri, &head.method, protocol)?;
    if target.len() + head.method.as_str().len() + 11 > limits.request_line {
        return Err(reject(414, "request line too long"));
    }
    if head.headers.len() > limits.fields {
        return Err(reject(431, "too many header fields"));
    }
    let (mut length, mut cookies, mut total) = (None, 0, target.len());
    for (name, value) in &head.headers {
        total += name.as_str().len() + value.len() + 4;
        // RFC 9113 section 8.2.1. A parser of HTTP/1 would strip it, and see another value than the gateway's plugins did.
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value.as_bytes() {
            return Err(reject(400, "white space around a field's value"));
        }
        let known = Known::from_name(name.as_str().as_bytes());
        match known {
            Known::ContentLength => match (length, content_length(value.as_bytes())) {
                (None, Some(n)) => length = Some(n),
                _ => return Err(reject(400, "invalid Content-Length")),
            },
            Known::Expect => request.expects_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            _ if name == http::header::COOKIE => cookies += 1,
            _ => {}
        }
    }
    if total > limits.head {
        return Err(reject(431, "request head too large"));
    }
    request.received = total as u64;
    match protocol {
        None => request.set_method(head.method.as_str()),
        Some(_) => request.set_method("GET"),
    }
    request.target = request.headers.store(target.as_bytes());
    if !request.adopt_target(target.as_bytes()) {
        return Err(reject(400, "invalid request target"));
    }
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    let mut hosts = head.headers.get_all(http::header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(reject(400, "several Host fields"));
    }
    // RFC 9113 section 8.3.1: where both are there they must not differ.
    let host = match (authority, host) {
        (Some(a), Some(h)) if !a.as_bytes().eq_ignore_ascii_case(h.as_bytes()) => {
            return Err(reject(400, "Host differs from :authority"));
        }
        (Some(a), _) => a.as_bytes(),
        (None, Some(h)) => h.as_bytes(),
        (None, None) => return Err(reject(400, "missing Host")),
    };
    if host.contains(&b'@') {
        return Err(reject(400, "invalid Host"));
    }
    line(&mut request.headers, b"host", host, false);
    if !request.adopt_host(host) {
        return Err(reject(400, "invalid Host"));
    }
    for (name, value) in &head.headers {
        let single_cookie = name == http::header::COOKIE && cookies == 1;
        if name == http::header::HOST || name == http::header::COOKIE && !single_cookie {
            continue;
        }
        // What `te: trailers` promises is between us and the client.
        let known = Known::from_name(name.as_str().as_bytes());
        let hop = matches!(known, Known::Expect | Known::Te);
        known_line(&mut request.headers, known, name.as_str().as_bytes(), value.as_bytes(), hop);
    }
    if cookies > 1 {
        // RFC 9113 section 8.2.3: crumbs become one field again.
        let crumbs: Vec<&[u8]> = head.headers.get_all(http::header::COOKIE).iter().map(|v| v.as_bytes()).collect();
        line(&mut request.headers, b"cookie", &crumbs.join(&b"; "[..]), false);
    }
    if let Some(protocol) = protocol {
        line(&mut request.headers, b"upgrade", protocol.as_bytes(), true);
        request.upgrade = true;
    }
    request.framing = match (ended || protocol.is_some(), length) {
        (true, _) => Framing::None,
        (false, Some(n)) if n > 0 => Framing::Length(n),
        (false, Some(_)) => Framing::None,
        (false, None) => Framing::Close,
    };
    Ok(())
}

fn target<'a>(uri: &'a Uri, method: &http::Method, protocol: Option<&str>) -> Result<&'a str, Reject> {
    // `http` takes an empty one (RFC 3986 section 3.1 does not).
    if uri.scheme_str() == Some("") {
        return Err(reject(400, "invalid scheme"));
    }
    if *method == http::Method::CONNECT && protocol.is_none() {
        return Err(reject(405, "CONNECT is not served"));
    }
    match uri.path_and_query().map(http::uri::PathAndQuery::as_str) {
        Some(target) if target.starts_with('/') => Ok(target),
        Some("*") if *method == http::Method::OPTIONS => Ok("/"),
        _ => Err(reject(400, "invalid request target")),
    }
}

/// A field as a line of HTTP/1.
fn line(headers: &mut Headers, name: &[u8], value: &[u8], hop: bool) {
    known_line(headers, Known::from_name(name), name, value, hop);
}

fn known_line(headers: &mut Headers, known: Known, name: &[u8], value: &[u8], hop: bool) {
    headers.buf.reserve(name.len() + value.len() + 4);
    let name = headers.store(name);
    headers.store(b": ");
    let value = headers.store(value);
    headers.store(b"\r\n");
    let end = headers.buf.len();
    headers.push_wire(name, value, end, known, hop);
}

/// A response's head for a client. Fields that cannot stand in HTTP/2 are left out.
pub fn response_head(response: &Response) -> http::Response<()> {
    let mut head = http::Response::new(());
    // A status of three digits is all that the types can say; plugins may have chosen worse.
    *head.status_mut() = http::StatusCode::from_u16(response.status).unwrap_or(http::StatusCode::BAD_GATEWAY);
    fields(&response.headers, head.headers_mut(), |_| false);
    head
}

/// Copies fields that may pass and that `skip` does not claim.
pub fn fields(from: &Headers, to: &mut HeaderMap, skip: impl Fn(Known) -> bool) {
    // All values share one copy of the head. Not of a large one: what is kept of it in a table of HPACK keeps all of it.
    let whole = (from.buf.len() <= SHARED_HEAD).then(|| Bytes::copy_from_slice(&from.buf));
    to.reserve(from.fields_at_most().min(64));
    for (known, name, at) in from.passing() {
        let of_connection = matches!(
            known,
            Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::TransferEncoding | Known::Upgrade
        );
        if of_connection || skip(known) {
            continue;
        }
        let range = at.start as usize..(at.start + at.len) as usize;
        let value = match &whole {
            Some(whole) if range.end <= whole.len() => HeaderValue::from_maybe_shared(whole.slice(range)),
            _ => HeaderValue::from_bytes(at.get(&from.buf)),
        };
        if let (Some(name), Ok(value)) = (header_name(known, name), value) {
            to.append(name, value);
        }
    }
}

/// Adds lines of HTTP/1 that the gateway itself has written.
pub fn append_lines(lines: &[u8], to: &mut HeaderMap) {
    for (name, value) in crate::headers::lines(lines) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            to.append(name, value);
        }
    }
}

/// Bytes of a head that its values may share.
const SHARED_HEAD: usize = 2048;

/// The name of a field; those that are known are neither checked nor copied.
fn header_name(known: Known, name: &[u8]) -> Option<HeaderName> {
    use http::header;
    Some(match known {
        Known::Host => header::HOST,
        Known::ContentLength => header::CONTENT_LENGTH,
        Known::ContentType => header::CONTENT_TYPE,
        Known::Te => header::TE,
        Known::Trailer => header::TRAILER,
        Known::Expect => header::EXPECT,
        Known::XForwardedFor => const { HeaderName::from_static("x-forwarded-for") },
        Known::XForwardedProto => const { HeaderName::from_static("x-forwarded-proto") },
        Known::XForwardedHost => const { HeaderName::from_static("x-forwarded-host") },
        Known::XForwardedPort => const { HeaderName::from_static("x-forwarded-port") },
        Known::XRealIp => const { HeaderName::from_static("x-real-ip") },
        Known::Forwarded => header::FORWARDED,
        Known::Server => header::SERVER,
        Known::Date => header::DATE,
        _ => return HeaderName::from_bytes(name).ok(),
    })
}

/// Fills `response` from an upstream's head. `ended`: no body follows.
pub fn response(head: &http::response::Parts, ended: bool, to_head: bool, response: &mut Response) {
    response.clear();
    response.status = head.status.as_u16();
    response.version = Version::Http2;
    response.keep_alive = true;
    for (name, value) in &head.headers {
        line(&mut response.headers, name.as_str().as_bytes(), value.as_bytes(), false);
    }
    let bodiless = to_head || matches!(response.status, 100..200 | 204 | 304);
    // Whatever `content-length` says: trailers may come behind the body, so that its end is what counts.
    response.framing = if ended || bodiless { Framing::None } else { Framing::Close };
}

/// Trailers as fields.
pub fn trailers(from: &HeaderMap) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in from {
        line(&mut headers, name.as_str().as_bytes(), value.as_bytes(), false);
    }
    headers
}

/// Fields as trailers.
pub fn trailer_map(from: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    fields(from, &mut map, |_| false);
    map
}

/// Makes a response that opened a tunnel (RFC 8441) what it is in HTTP/1; `accept`: the proof of its handshake.
pub fn switch(response: &mut Response, accept: Option<&str>) {
    response.set_status(101);
    line(&mut response.headers, b"upgrade", b"websocket", true);
    if let Some(accept) = accept {
        response.headers.set("Sec-WebSocket-Accept", accept);
    }
}

/// The head of a request to an upstream; `host` and `target` are what it is to see. `None` where they cannot stand in a head.
pub fn request_head(method: &str, https: bool, host: &[u8], target: &[u8]) -> Option<http::Request<()>> {
    let mut head = http::Request::new(());
    *head.method_mut() = http::Method::from_bytes(method.as_bytes()).ok()?;
    let uri = Uri::builder().scheme(if https { "https" } else { "http" }).authority(host).path_and_query(target);
    *head.uri_mut() = uri.build().ok()?;
    *head.version_mut() = http::Version::HTTP_2;
    Some(head)
}

#[cfg(test)]
#[path = "h2_tests.rs"]
mod tests;
