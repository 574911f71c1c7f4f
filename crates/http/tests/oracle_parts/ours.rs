//! Messages as this crate reads them, from pieces as a connection would bring them.
use sluice_http::h1::{BodyReader, Framing, Limits, parse_request, parse_response};
use sluice_http::{Request, Response, Version};
use std::collections::BTreeMap;

/// A message in a form that does not depend on who read it.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    /// Method and target, or status.
    pub start: String,
    pub http11: bool,
    /// Names in lower case; the values of a name in order.
    pub fields: BTreeMap<String, Vec<Vec<u8>>>,
    pub body: Vec<u8>,
}

fn fields<'a>(all: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut out = BTreeMap::<String, Vec<Vec<u8>>>::new();
    for (name, value) in all {
        out.entry(String::from_utf8_lossy(name).to_ascii_lowercase()).or_default().push(value.to_vec());
    }
    out
}

/// The body at the start of `pieces`, which loses it. None: malformed or cut off.
fn body(framing: Framing, pieces: &mut Vec<Vec<u8>>) -> Option<Vec<u8>> {
    let (mut reader, mut out) = (BodyReader::new(framing), Vec::new());
    while !reader.is_done() {
        let Some(piece) = pieces.first_mut() else {
            reader.end_of_input().ok()?;
            break;
        };
        let used = reader.decode(piece, &mut out).ok()?;
        piece.drain(..used);
        if piece.is_empty() {
            pieces.remove(0);
        }
    }
    Some(out)
}

/// Joins pieces at the front until `parse` has a head; takes it away. None: refused; Some(None): not whole.
fn head<T>(
    pieces: &mut Vec<Vec<u8>>,
    mut parse: impl FnMut(&[u8]) -> Result<Option<(usize, T)>, ()>,
) -> Option<Option<T>> {
    let mut gathered = Vec::new();
    loop {
        match parse(&gathered) {
            Err(()) => return None,
            Ok(Some((n, what))) => {
                gathered.drain(..n);
                if !gathered.is_empty() {
                    pieces.insert(0, gathered);
                }
                return Some(Some(what));
            }
            Ok(None) if pieces.is_empty() => return Some(None),
            Ok(None) => gathered.extend(pieces.remove(0)),
        }
    }
}

/// The requests of a connection until one is refused (true), one closes, or the input ends.
pub fn requests(pieces: &[Vec<u8>]) -> (Vec<Seen>, bool) {
    let (mut pieces, mut out) = (pieces.to_vec(), Vec::new());
    let mut request = Request::default();
    loop {
        let found = head(&mut pieces, |data| {
            let n = parse_request(data, &Limits::default(), &mut request).map_err(|_| ())?;
            Ok(n.map(|n| (n, ())))
        });
        match found {
            None => return (out, true),
            Some(None) => return (out, false),
            Some(Some(())) => {}
        }
        let Some(body) = body(request.framing, &mut pieces) else { return (out, true) };
        out.push(Seen {
            start: format!("{} {}", request.method_text(), request.target()),
            http11: request.version == Version::Http11,
            fields: fields(request.headers.iter()),
            body,
        });
        if !request.keep_alive {
            return (out, false);
        }
    }
}

/// The final response; None where it is refused or cut off.
pub fn response(pieces: &[Vec<u8>], to_head: bool) -> Option<Seen> {
    let mut pieces = pieces.to_vec();
    let mut response = Response::default();
    loop {
        head(&mut pieces, |data| {
            let n = parse_response(data, 1 << 16, to_head, &mut response).map_err(|_| ())?;
            Ok(n.map(|n| (n, ())))
        })??;
        if !response.is_interim() {
            break;
        }
    }
    let body = body(response.framing, &mut pieces)?;
    let start = response.status.to_string();
    Some(Seen { start, http11: response.version == Version::Http11, fields: fields(response.headers.iter()), body })
}
