//! Fields behind a body (RFC 9110 section 6.5), as they pass between versions of HTTP.
//!
//! The surprise: fields that frame, route or control a message are left out on the way from or to HTTP/1 (section 6.5.1), so that
//! a trailer can never be taken for one of them by whoever merges it into the head. Within HTTP/2 trailers pass as they are.
use crate::headers::{Headers, Known};

/// Fields that have no meaning, or a dangerous one, behind a body; those of [`Known`] beside them.
const BARRED: &[&str] = &[
    "authorization",
    "cache-control",
    "content-encoding",
    "content-range",
    "cookie",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "set-cookie",
    "www-authenticate",
];

/// Whether a field may stand behind a body.
pub fn may_trail(known: Known, name: &[u8]) -> bool {
    match known {
        // No other field that the gateway reads itself may.
        Known::Date | Known::Server => true,
        Known::Other => !name.starts_with(b":") && !BARRED.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes())),
        _ => false,
    }
}

/// Reads the lines that may trail of those that [`crate::h1::BodyReader::decode_trailed`] has collected. The reader has checked their form.
pub fn parse(lines: &[u8]) -> Headers {
    let mut trailers = Headers::default();
    for (name, value) in crate::headers::lines(lines) {
        if let Ok(text) = std::str::from_utf8(name)
            && may_trail(Known::from_name(name), name)
        {
            trailers.append(text, value);
        }
    }
    trailers
}

/// The last chunk with these behind it.
pub fn last_chunk(trailers: &Headers, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (known, name, value) in trailers.passing() {
        if may_trail(known, name) {
            crate::h1::write::field(name, value.get(&trailers.buf), out);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a request says that its sender reads trailers (RFC 9110 section 10.1.4).
pub fn are_read(headers: &Headers) -> bool {
    headers.may_have(Known::Te)
        && headers.get_all("te").any(|value| {
            value.split(|b| *b == b',').any(|word| {
                let word = word.split(|b| *b == b';').next().unwrap_or_default();
                word.trim_ascii().eq_ignore_ascii_case(b"trailers")
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{BodyReader, Framing};

    #[test]
    fn they_pass_but_for_what_they_must_not_say() {
        let wire = b"3\r\nabc\r\n0\r\nX-Sum: 1 \r\nContent-Length: 9\r\nHost:evil\r\nCookie: a\r\nx-sum: 2\r\n\r\nGET";
        for cut in 1..wire.len() {
            let (mut reader, mut body, mut lines) = (BodyReader::new(Framing::Chunked), Vec::new(), Vec::new());
            let used: usize =
                wire.chunks(cut).map(|part| reader.decode_trailed(part, &mut body, &mut lines).unwrap()).sum();
            assert_eq!((used, reader.is_done(), &body[..]), (wire.len() - 3, true, &b"abc"[..]), "{cut}");
            let trailers = parse(&lines);
            assert_eq!(trailers.get_all("x-sum").collect::<Vec<_>>(), [b"1", b"2"]);
            let mut out = Vec::new();
            last_chunk(&trailers, &mut out);
            assert_eq!(out, b"0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n");
        }
    }

    #[test]
    fn readers_say_so() {
        for (value, wanted) in
            [("trailers", true), ("gzip, Trailers;q=1", true), ("deflate", false), ("trailersx", false), ("", false)]
        {
            let mut headers = Headers::default();
            headers.append("TE", value);
            assert_eq!(are_read(&headers), wanted, "{value}");
        }
        assert!(!are_read(&Headers::default()));
    }
}
