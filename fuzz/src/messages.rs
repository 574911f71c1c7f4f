//! HTTP/1 from the wire: heads and chunked bodies. Whatever comes, there is no panic, and what is taken is one message that
//! ends where it seems to end.

use sluice_http::h1::{BodyReader, Framing, Limits, parse_request, parse_response};
use sluice_http::{Request, Response};

pub fn request_head(data: &[u8]) {
    let mut request = Request::default();
    let limits = Limits::default();
    if let Ok(Some(n)) = parse_request(data, &limits, &mut request) {
        assert!(n <= data.len() && n <= limits.head);
        assert!(data[..n].ends_with(b"\r\n\r\n"), "a head ends with an empty line");
        assert!(request.target().starts_with('/') && request.path_bytes().starts_with(b"/"));
        assert!(request.headers.len() <= limits.fields);
        clean(request.headers.iter());
        // What goes to the other side is no more than one line per field.
        let mut out = Vec::new();
        request.headers.write_to(&mut out, |_| false);
        assert!(out.is_empty() || out.ends_with(b"\r\n"));
        assert!(!out.windows(4).any(|w| w == b"\r\n\r\n") && !out.starts_with(b"\r\n"));
        // More bytes behind a head change nothing about it.
        let mut again = Request::default();
        assert_eq!(parse_request(&data[..n], &limits, &mut again), Ok(Some(n)));
        assert_eq!(
            (again.target(), again.framing, again.keep_alive),
            (request.target(), request.framing, request.keep_alive)
        );
    }
    let mut response = Response::default();
    for to_head in [false, true] {
        if let Ok(Some(n)) = parse_response(data, limits.head, to_head, &mut response) {
            assert!(n <= data.len() && data[..n].ends_with(b"\r\n\r\n"));
            assert!(!to_head || response.framing == Framing::None);
            clean(response.headers.iter());
        }
    }
}

fn clean<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
    for (name, value) in fields {
        assert!(!name.is_empty() && !name.iter().any(|b| *b <= b' ' || *b == b':'));
        assert!(!value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
    }
}

/// The first byte says where the rest is cut: the payload, the end and the refusal do not depend on it.
pub fn chunked_body(data: &[u8]) {
    let Some((cut, wire)) = data.split_first() else { return };
    let size = usize::from(*cut).max(1);
    let mut whole = BodyReader::new(Framing::Chunked);
    let mut payload = Vec::new();
    let used = whole.decode(wire, &mut payload);
    let mut reader = BodyReader::new(Framing::Chunked);
    let (mut pieces, mut at, mut refused) = (Vec::new(), 0, false);
    for piece in wire.chunks(size) {
        match reader.decode(piece, &mut pieces) {
            Ok(n) => at += n,
            Err(_) => {
                refused = true;
                break;
            }
        }
        if reader.is_done() {
            break;
        }
    }
    assert_eq!(used.is_err(), refused);
    if let Ok(used) = used {
        assert_eq!((used, &payload, whole.is_done()), (at, &pieces, reader.is_done()));
        assert_eq!(BodyReader::new(Framing::Chunked).scan(wire), Ok(used));
    }
}
