//! A request's head, whatever protocol version it came by.
use crate::h1::body::Framing;
use crate::headers::{Headers, Known, Span};
use crate::method::Method;
use crate::target;
use std::borrow::Cow;

/// Protocol version of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
    Http3,
}

impl Version {
    /// As in `$server_protocol`.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2.0",
            Version::Http3 => "HTTP/3.0",
        }
    }
}

/// A request head. Reused from request to request: [`Request::clear`] keeps the memory.
#[derive(Debug, Default, Clone)]
pub struct Request {
    pub headers: Headers,
    pub version: Version,
    pub method: Method,
    /// How the body is framed on the wire.
    pub framing: Framing,
    /// Whether the client lets the connection live on.
    pub keep_alive: bool,
    /// `Expect: 100-continue` was sent with HTTP/1.1.
    pub expects_continue: bool,
    /// The client asked for another protocol (`Upgrade` with `Connection: upgrade`).
    pub upgrade: bool,
    /// Bytes of the head as it came, and of the body so far: `$request_length`.
    pub received: u64,
    pub(crate) method_text: Span,
    pub(crate) target: Span,
    pub(crate) path: Span,
    pub(crate) query: Option<Span>,
    pub(crate) host: Span,
}

impl Request {
    /// Forgets the request, keeps the memory.
    pub fn clear(&mut self) {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        *self = Request { headers, ..Request::default() };
    }

    /// The method's token.
    pub fn method_text(&self) -> &str {
        match self.method {
            Method::Other => text(self.method_text.get(&self.headers.buf)),
            m => m.as_str(),
        }
    }
    /// Replaces the method.
    pub fn set_method(&mut self, token: &str) {
        self.method = Method::from_token(token.as_bytes());
        self.method_text = self.headers.store(token.as_bytes());
    }

    /// `$request_uri`: path and query as the client sent them.
    #[inline]
    pub fn target(&self) -> &str {
        text(self.target.get(&self.headers.buf))
    }
    /// [`Request::target`] as bytes, for what must not be blind to bytes that are not UTF-8.
    #[inline]
    pub fn target_bytes(&self) -> &[u8] {
        self.target.get(&self.headers.buf)
    }
    /// `$uri`: the path, decoded and normalised as nginx does (`//`, `.`, `..`, `%xx`). Bytes that are not UTF-8 are
    /// replaced by U+FFFD, so that such a path cannot slip past a route or rule; the upstream gets the target as sent.
    #[inline]
    pub fn path(&self) -> &str {
        text(self.path.get(&self.headers.buf))
    }
    /// [`Request::path`] as bytes.
    #[inline]
    pub fn path_bytes(&self) -> &[u8] {
        self.path.get(&self.headers.buf)
    }
    /// `$args`: the query without `?`.
    #[inline]
    pub fn query(&self) -> Option<&str> {
        self.query.map(|q| text(q.get(&self.headers.buf)))
    }
    /// `$host`: lower-case, without port.
    #[inline]
    pub fn host(&self) -> &str {
        text(self.host.get(&self.headers.buf))
    }

    /// Stores text; what is not UTF-8 is replaced by U+FFFD.
    fn store_text(&mut self, bytes: &[u8]) -> Span {
        self.headers.store(String::from_utf8_lossy(bytes).as_bytes())
    }

    /// Replaces the path (`$uri`) for what follows, such as matching and plugins; the target stays as it was sent.
    pub fn set_path(&mut self, path: &[u8]) {
        self.path = self.store_text(path);
    }
    /// Replaces the query (`$args`).
    pub fn set_query(&mut self, query: Option<&[u8]>) {
        self.query = query.map(|q| self.store_text(q));
    }
    /// Replaces the target (`$request_uri`).
    pub fn set_target(&mut self, target: &[u8]) {
        self.target = self.store_text(target);
    }
    /// Replaces the host name used for routing and `$host`.
    pub fn set_host(&mut self, host: &[u8]) {
        let lower = host.to_ascii_lowercase();
        self.host = self.store_text(&lower);
    }

    /// The first query argument of this name, percent-decoded; an argument without `=` has an empty value.
    pub fn arg(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        target::args(self.query()?.as_bytes()).find(|(k, _)| k.as_ref() == name.as_bytes()).map(|(_, v)| v)
    }

    /// The first query argument as nginx's `$arg_NAME` has it: not decoded, any case of the name.
    pub fn raw_arg(&self, name: &str) -> Option<&[u8]> {
        target::raw_arg(self.query()?.as_bytes(), name.as_bytes())
    }

    /// A cookie's value as it was sent.
    pub fn cookie(&self, name: &str) -> Option<&[u8]> {
        self.headers.get_all("cookie").find_map(|line| target::cookie(line, name.as_bytes()))
    }

    /// Fills the request from parts, for tests and for protocols that are not HTTP/1. `target` is origin-form.
    pub fn assemble(&mut self, method: &str, target: &str, host: &str, headers: &[(&str, &str)]) {
        self.clear();
        self.set_method(method);
        self.set_target(target.as_bytes());
        self.keep_alive = true;
        let raw = self.target.get(&self.headers.buf).to_vec();
        self.adopt_target(&raw);
        self.headers.append("Host", host);
        self.adopt_host(host.as_bytes());
        for (n, v) in headers {
            self.headers.append(n, v);
        }
        self.framing = match self.headers.known(Known::ContentLength).and_then(|v| text(v).parse().ok()) {
            Some(n) if n > 0 => Framing::Length(n),
            _ => Framing::None,
        };
    }

    /// Splits an origin-form target into path and query and normalises the path. False where the path climbs above `/`
    /// or has a broken escape.
    pub(crate) fn adopt_target(&mut self, raw: &[u8]) -> bool {
        let (path, query) = target::split(raw);
        let start = self.target.start as usize;
        self.query = query.map(|q| Span::of(start + path.len() + 1, q.len()));
        match target::normalize(path) {
            Ok(None) => self.path = Span::of(start, path.len()),
            // A path that is not UTF-8 once decoded must still be matched: what cannot be shown is replaced.
            Ok(Some(normal)) => self.path = self.store_text(&normal),
            Err(()) => return false,
        }
        true
    }

    /// Takes the `Host` value: validates it, cuts the port, lower-cases. False where it is not a host.
    pub(crate) fn adopt_host(&mut self, value: &[u8]) -> bool {
        let at = self.headers.store(value);
        self.adopt_host_at(at)
    }

    /// As [`Request::adopt_host`], for a value that already stands in the head's buffer.
    pub(crate) fn adopt_host_at(&mut self, at: Span) -> bool {
        let value = at.get(&self.headers.buf);
        match target::host_name(value) {
            None => false,
            Some(name) if name.iter().fold(false, |upper, b| upper | b.is_ascii_uppercase()) => {
                let lower = name.to_ascii_lowercase();
                self.host = self.headers.store(&lower);
                true
            }
            Some(name) => {
                // A name is where its value begins.
                self.host = Span { start: at.start, len: name.len() as u32 };
                true
            }
        }
    }
}

/// Bytes of the head's buffer that are known to be text.
#[inline]
#[allow(unsafe_code, reason = "checking again what was checked when it was stored costs 1 % of a request")]
fn text(bytes: &[u8]) -> &str {
    debug_assert!(std::str::from_utf8(bytes).is_ok());
    // SAFETY: spans handed to this function come from three places. The target was checked by `adopt_request_target`, and path and query
    // are parts of it cut at ASCII bytes; the host is ASCII, as `target::host_name` has checked; everything else went through
    // `store_text`, which replaces what is not UTF-8. The buffer is only ever appended to while a span of it is in use.
    unsafe { std::str::from_utf8_unchecked(bytes) }
}
