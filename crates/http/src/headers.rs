//! Header fields as offsets into the buffer they arrived in.
//!
//! The surprise: removing or replacing a field never moves bytes. A replaced value is appended to the buffer, and a run
//! of untouched wire lines is written out again with one copy.
use std::borrow::Cow;

/// A byte range of the head's buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    pub(crate) fn of(start: usize, len: usize) -> Span {
        Span { start: start as u32, len: len as u32 }
    }
    #[inline]
    pub(crate) fn get(self, buf: &[u8]) -> &[u8] {
        buf.get(self.start as usize..self.start as usize + self.len as usize).unwrap_or_default()
    }
}

/// Fields that the gateway itself reads; found without comparing names again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Known {
    Other,
    Host,
    Connection,
    ContentLength,
    ContentType,
    TransferEncoding,
    KeepAlive,
    ProxyConnection,
    Te,
    Trailer,
    Upgrade,
    Expect,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    XForwardedPort,
    XRealIp,
    Forwarded,
    Server,
    Date,
}

impl Known {
    /// Resolves a field name, whatever its case.
    #[inline]
    pub fn from_name(name: &[u8]) -> Known {
        let Some(first) = name.first() else { return Known::Other };
        // Length and first letter leave one candidate, so that most names cost no comparison at all.
        match (name.len(), first | 0x20) {
            (2, b't') => known_if(name, b"te", Known::Te),
            (4, b'h') => known_if(name, b"host", Known::Host),
            (4, b'd') => known_if(name, b"date", Known::Date),
            (6, b'e') => known_if(name, b"expect", Known::Expect),
            (6, b's') => known_if(name, b"server", Known::Server),
            (7, b'u') => known_if(name, b"upgrade", Known::Upgrade),
            (7, b't') => known_if(name, b"trailer", Known::Trailer),
            (9, b'x') => known_if(name, b"x-real-ip", Known::XRealIp),
            (9, b'f') => known_if(name, b"forwarded", Known::Forwarded),
            (10, b'c') => known_if(name, b"connection", Known::Connection),
            (10, b'k') => known_if(name, b"keep-alive", Known::KeepAlive),
            (12, b'c') => known_if(name, b"content-type", Known::ContentType),
            (14, b'c') => known_if(name, b"content-length", Known::ContentLength),
            (15, b'x') => known_if(name, b"x-forwarded-for", Known::XForwardedFor),
            (16, b'p') => known_if(name, b"proxy-connection", Known::ProxyConnection),
            (16, b'x') => match known_if(name, b"x-forwarded-host", Known::XForwardedHost) {
                Known::Other => known_if(name, b"x-forwarded-port", Known::XForwardedPort),
                host => host,
            },
            (17, b'x') => known_if(name, b"x-forwarded-proto", Known::XForwardedProto),
            (17, b't') => known_if(name, b"transfer-encoding", Known::TransferEncoding),
            _ => Known::Other,
        }
    }
}

/// `known` where the name is `lower`, whatever its case. A token has no byte that `| 0x20` would turn into one of `lower`'s but
/// its upper case (`-` could come from CR only, which no name holds). Without branches, so that it compiles to a few words' work.
#[inline(always)]
fn known_if<const N: usize>(name: &[u8], lower: &[u8; N], known: Known) -> Known {
    match <&[u8; N]>::try_from(name) {
        Ok(name) if name.iter().zip(lower).fold(0, |diff, (a, b)| diff | ((a | 0x20) ^ b)) == 0 => known,
        _ => Known::Other,
    }
}

const REMOVED: u8 = 1;
/// Hop-by-hop: visible to plugins and variables, never written to the other side (RFC 9110 section 7.6.1).
const HOP: u8 = 2;
/// The field still is the line `line_start..line_end` of the wire.
const WIRE: u8 = 4;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    name: u32,
    value: u32,
    value_len: u32,
    line_end: u32,
    name_len: u16,
    flags: u8,
    known: Known,
}

/// The fields of one head, and the buffer that holds them.
#[derive(Debug, Default, Clone)]
pub struct Headers {
    pub(crate) buf: Vec<u8>,
    fields: Vec<Field>,
    /// A bit per [`Known`] that was ever added: a cheap no before a search.
    seen: u32,
}

impl Headers {
    /// Forgets all fields, keeps the memory (up to a bound, so that one huge head does not stay for ever).
    pub fn clear(&mut self) {
        self.buf.clear();
        self.fields.clear();
        self.seen = 0;
        if self.buf.capacity() > 16 * 1024 {
            self.buf.shrink_to(4096);
        }
    }

    pub(crate) fn push_wire(&mut self, name: Span, value: Span, line_end: usize, known: Known, hop: bool) {
        self.seen |= 1 << known as u32;
        self.fields.push(Field {
            name: name.start,
            name_len: name.len as u16,
            value: value.start,
            value_len: value.len,
            line_end: line_end as u32,
            flags: WIRE | if hop { HOP } else { 0 },
            known,
        });
    }

    /// Appends bytes that a [`Span`] can refer to.
    pub(crate) fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.buf.len();
        self.buf.extend_from_slice(bytes);
        Span::of(start, bytes.len())
    }

    #[inline]
    fn name_of(&self, f: &Field) -> &[u8] {
        Span { start: f.name, len: u32::from(f.name_len) }.get(&self.buf)
    }
    #[inline]
    fn value_of(&self, f: &Field) -> &[u8] {
        Span { start: f.value, len: f.value_len }.get(&self.buf)
    }
    /// Whether a field has this name; `known` is the name's own.
    #[inline]
    fn is(&self, f: &Field, name: &[u8], known: Known) -> bool {
        match known {
            Known::Other => {
                f.known == Known::Other
                    && usize::from(f.name_len) == name.len()
                    && self.name_of(f).eq_ignore_ascii_case(name)
            }
            known => f.known == known,
        }
    }
    #[inline]
    fn live(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|f| f.flags & REMOVED == 0)
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.live().count()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first value of a field, without its surrounding white space. Any case of `name`.
    #[inline]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let name = name.as_bytes();
        let known = Known::from_name(name);
        if known != Known::Other && !self.may_have(known) {
            return None;
        }
        self.live().find(|f| self.is(f, name, known)).map(|f| self.value_of(f))
    }

    /// The first value, if it is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// The first value of a field that the gateway itself knows.
    #[inline]
    pub fn known(&self, known: Known) -> Option<&[u8]> {
        if !self.may_have(known) {
            return None;
        }
        self.live().find(|f| f.known == known).map(|f| self.value_of(f))
    }

    /// Whether a field that the gateway knows may be there; false is certain.
    #[inline]
    pub fn may_have(&self, known: Known) -> bool {
        self.seen & (1 << known as u32) != 0
    }

    /// All values of a field in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.live().filter(move |f| self.name_of(f).eq_ignore_ascii_case(name.as_bytes())).map(|f| self.value_of(f))
    }

    /// All values joined by `, `, as nginx's `$http_name` has them for repeated fields (`; ` for Cookie).
    pub fn joined(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.join(name, |own| own.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// As [`Headers::joined`] for an nginx variable (`http_NAME`), which does not tell `-` from `_` in a field's name
    /// (ngx_http_variable_unknown_header). `name` is written with `-`.
    pub fn joined_for_variable(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let bare = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        self.join(name, |own| own.len() == name.len() && own.iter().map(bare).eq(name.bytes().map(|b| bare(&b))))
    }

    fn join(&self, name: &str, is: impl Fn(&[u8]) -> bool) -> Option<Cow<'_, [u8]>> {
        let mut all = self.live().filter(|f| is(self.name_of(f)));
        let first = self.value_of(all.next()?);
        let Some(second) = all.next() else { return Some(Cow::Borrowed(first)) };
        let separator: &[u8] = if name.eq_ignore_ascii_case("cookie") { b"; " } else { b", " };
        let mut joined = first.to_vec();
        for f in std::iter::once(second).chain(all) {
            joined.extend_from_slice(separator);
            joined.extend_from_slice(self.value_of(f));
        }
        Some(Cow::Owned(joined))
    }

    /// Whether a field with this name is present.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All fields in order: name as it came, value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.live().map(|f| (self.name_of(f), self.value_of(f)))
    }

    /// The fields that may go to the other side: not those of the connection.
    pub(crate) fn passing(&self) -> impl Iterator<Item = (Known, &[u8], Span)> {
        let own = self.live().filter(|f| f.flags & HOP == 0);
        own.map(|f| (f.known, self.name_of(f), Span { start: f.value, len: f.value_len }))
    }

    /// Not fewer than there are.
    pub(crate) fn fields_at_most(&self) -> usize {
        self.fields.len()
    }

    /// Adds a field after the others. Names and values with CR, LF or NUL are not representable on the wire: they are
    /// cut at the first such byte, so that no plugin can be made to split a message.
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let name = clean(name.as_bytes());
        if name.is_empty() || name.len() > usize::from(u16::MAX) {
            return;
        }
        let known = Known::from_name(name);
        self.seen |= 1 << known as u32;
        let name = self.store(name);
        let value = self.store(clean(value.as_ref()));
        self.fields.push(Field {
            name: name.start,
            name_len: name.len as u16,
            value: value.start,
            value_len: value.len,
            line_end: 0,
            flags: 0,
            known,
        });
    }

    /// Replaces the field's first value in place and removes the others; adds it if it is missing.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let wanted = clean(name.as_bytes());
        let known = Known::from_name(wanted);
        if known != Known::Other && !self.may_have(known) {
            return self.append(name, value);
        }
        let mut found = None;
        for i in 0..self.fields.len() {
            let f = self.fields[i];
            if f.flags & REMOVED == 0 && self.is(&f, wanted, known) {
                match found {
                    None => found = Some(i),
                    Some(_) => self.fields[i].flags |= REMOVED,
                }
            }
        }
        let Some(i) = found else { return self.append(name, value) };
        let value = self.store(clean(value.as_ref()));
        let f = &mut self.fields[i];
        f.value = value.start;
        f.value_len = value.len;
        f.flags &= !WIRE;
    }

    /// Removes every field of this name; says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let known = Known::from_name(name.as_bytes());
        if known != Known::Other && !self.may_have(known) {
            return false;
        }
        let mut removed = false;
        for i in 0..self.fields.len() {
            let f = self.fields[i];
            if f.flags & REMOVED == 0 && self.is(&f, name.as_bytes(), known) {
                self.fields[i].flags |= REMOVED;
                removed = true;
            }
        }
        removed
    }

    /// Marks the fields that `Connection` names as hop-by-hop, but never those that frame or route the message.
    pub(crate) fn drop_nominated(&mut self) {
        let mut nominated: Vec<Vec<u8>> = Vec::new();
        for f in self.live().filter(|f| f.known == Known::Connection) {
            for token in self.value_of(f).split(|b| *b == b',').map(|t| t.trim_ascii()) {
                if !token.is_empty() {
                    nominated.push(token.to_vec());
                }
            }
        }
        for i in 0..self.fields.len() {
            let f = self.fields[i];
            let keep = matches!(f.known, Known::Host | Known::ContentLength | Known::TransferEncoding);
            if !keep && nominated.iter().any(|n| self.name_of(&f).eq_ignore_ascii_case(n)) {
                self.fields[i].flags |= HOP;
            }
        }
    }

    /// Lets a hop-by-hop field pass to the other side (`Upgrade` where a route allows WebSocket).
    pub fn unhop(&mut self, known: Known) {
        for f in &mut self.fields {
            if f.known == known {
                f.flags &= !HOP;
            }
        }
    }

    /// Keeps all fields from the other side; they can still be read.
    pub fn withhold(&mut self) {
        self.fields.iter_mut().for_each(|f| f.flags |= HOP);
    }

    /// Whether nothing of it passes to the other side.
    pub fn is_withheld(&self) -> bool {
        self.passing().next().is_none()
    }

    /// Writes `name: value CRLF` for each field that may pass and that `skip` does not claim.
    #[inline]
    pub fn write_to(&self, out: &mut Vec<u8>, skip: impl Fn(Known) -> bool) {
        let (mut run, mut end) = (0usize, 0usize);
        for f in &self.fields {
            if f.flags & (REMOVED | HOP) != 0 || skip(f.known) {
                continue;
            }
            if f.flags & WIRE != 0 {
                if f.name as usize != end {
                    out.extend_from_slice(self.buf.get(run..end).unwrap_or_default());
                    run = f.name as usize;
                }
                end = f.line_end as usize;
            } else {
                out.extend_from_slice(self.buf.get(run..end).unwrap_or_default());
                (run, end) = (0, 0);
                out.extend_from_slice(self.name_of(f));
                out.extend_from_slice(b": ");
                out.extend_from_slice(self.value_of(f));
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(self.buf.get(run..end).unwrap_or_default());
    }
}

/// Names and values of lines in the form of HTTP/1; a line without a colon, such as the empty one at the end, is none.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        Some((line.get(..colon)?, line.get(colon + 1..)?.trim_ascii()))
    })
}

/// Cuts at the first byte that could end a line.
fn clean(bytes: &[u8]) -> &[u8] {
    match memchr::memchr3(b'\r', b'\n', 0, bytes) {
        Some(n) => &bytes[..n],
        None => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(h: &Headers) -> String {
        let mut out = Vec::new();
        h.write_to(&mut out, |_| false);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn edits_keep_order_and_other_fields() {
        let mut h = Headers::default();
        h.append("A", "1");
        h.append("B", "2");
        h.append("a", "3");
        h.set("A", "9");
        h.append("C", "x");
        assert!(h.remove("b"));
        assert!(!h.remove("b"));
        assert_eq!(written(&h), "A: 9\r\nC: x\r\n");
        assert_eq!(h.len(), 2);
        assert_eq!(h.get("c"), Some(&b"x"[..]));
    }

    #[test]
    fn known_names_are_found_in_any_case() {
        for name in [
            "te",
            "host",
            "date",
            "expect",
            "server",
            "upgrade",
            "trailer",
            "x-real-ip",
            "forwarded",
            "connection",
            "keep-alive",
            "content-type",
            "content-length",
            "x-forwarded-for",
            "proxy-connection",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-proto",
            "transfer-encoding",
        ] {
            assert_ne!(Known::from_name(name.as_bytes()), Known::Other, "{name}");
            assert_eq!(Known::from_name(name.as_bytes()), Known::from_name(name.to_uppercase().as_bytes()), "{name}");
        }
        for name in ["", "x", "hosf", "x-forwarded-hast", "x-forwarded-tort", "user-agent", "accept"] {
            assert_eq!(Known::from_name(name.as_bytes()), Known::Other, "{name}");
        }
    }

    #[test]
    fn line_breaks_cannot_be_injected() {
        let mut h = Headers::default();
        h.append("X", "a\r\nEvil: 1");
        h.set("Y\r\nZ", "b\nc");
        assert_eq!(written(&h), "X: a\r\nY: b\r\n");
    }

    #[test]
    fn repeated_fields_join() {
        let mut h = Headers::default();
        h.append("Cookie", "a=1");
        h.append("Cookie", "b=2");
        h.append("X", "1");
        h.append("x", "2");
        assert_eq!(h.joined("cookie").unwrap().as_ref(), b"a=1; b=2");
        assert_eq!(h.joined("x").unwrap().as_ref(), b"1, 2");
        assert_eq!(h.joined("none"), None);
    }

    #[test]
    fn variables_do_not_tell_hyphens_from_underscores() {
        let mut h = Headers::default();
        h.append("time_window", "1");
        h.append("Time-Window", "2");
        assert_eq!(h.joined_for_variable("time-window").unwrap().as_ref(), b"1, 2");
        assert_eq!(h.joined("time-window").unwrap().as_ref(), b"2");
        assert_eq!(h.joined_for_variable("time-windo"), None);
    }
}
