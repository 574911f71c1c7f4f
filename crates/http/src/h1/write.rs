//! Writing heads and chunks. The caller decides which fields the gateway adds; this file knows only the wire's form.
use crate::request::Request;
use crate::response::Response;

/// `METHOD target HTTP/1.1 CRLF`.
pub fn request_line(request: &Request, target: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(request.method_text().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// `HTTP/1.1 status reason CRLF`.
pub fn status_line(response: &Response, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    number(u64::from(response.status), out);
    out.push(b' ');
    out.extend_from_slice(response.reason());
    out.extend_from_slice(b"\r\n");
}

/// `name: value CRLF`.
#[inline]
pub fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A decimal number.
#[inline]
pub fn number(n: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// One chunk; nothing for no data, as an empty chunk would end the body.
pub fn chunk(data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0u8; 16];
    let (mut n, mut at) = (data.len(), 16);
    while n > 0 {
        at -= 1;
        digits[at] = HEX[n & 15];
        n >>= 4;
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// The last chunk, without trailers; with some see [`crate::trailers::last_chunk`].
pub fn last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks() {
        let mut out = Vec::new();
        chunk(b"", &mut out);
        chunk(&[b'x'; 26], &mut out);
        last_chunk(&mut out);
        assert_eq!(out, [b"1a\r\n", &[b'x'; 26][..], b"\r\n0\r\n\r\n"].concat());
    }
}
