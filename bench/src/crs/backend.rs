//! The server behind the proxies, which answers as the Core Rule Set's tests expect theirs to (github.com/coreruleset/albedo): 200
//! without a body, and on `POST /reflect` the answer that the request's JSON describes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::Result;
use base64::Engine as _;
use serde_json::Value;

/// Bytes of a request body at most.
const BODY: u64 = 16 << 20;

/// Serves until the process ends.
pub fn start() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || while serve(&stream).unwrap_or(false) {});
        }
    });
    Ok(address)
}

/// One request; whether another may follow.
fn serve(stream: &TcpStream) -> Result<bool> {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(false);
    }
    let first = String::from_utf8_lossy(&line).into_owned();
    let (mut length, mut chunked) = (0u64, false);
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        let text = String::from_utf8_lossy(&line).trim().to_ascii_lowercase();
        match text.split_once(':') {
            Some(("content-length", n)) => length = n.trim().parse()?,
            Some(("transfer-encoding", how)) => chunked = how.contains("chunked"),
            _ if text.is_empty() => break,
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim().split(';').next().unwrap_or_default(), 16)?;
            (&mut reader).take(size.min(BODY)).read_to_end(&mut body)?;
            reader.read_line(&mut String::new())?;
            if size == 0 {
                break;
            }
        }
    } else {
        (&mut reader).take(length.min(BODY)).read_to_end(&mut body)?;
    }
    let mut stream = stream;
    stream.write_all(&answer(&first, &body))?;
    Ok(!first.contains("HTTP/1.0"))
}

fn answer(first: &str, body: &[u8]) -> Vec<u8> {
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    if method != "POST" || path.trim_end_matches('/') != "/reflect" {
        return written(200, "", if method == "HEAD" { None } else { Some(b"") });
    }
    let Ok(wanted) = serde_json::from_slice::<Value>(body) else {
        return written(400, "", Some(b"Invalid JSON in request body"));
    };
    let body = match (wanted["body"].as_str(), wanted["encodedBody"].as_str()) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(text)) => base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default(),
        (None, None) => Vec::new(),
    };
    let mut fields = String::new();
    let mut typed = body.is_empty();
    for (name, value) in wanted["headers"].as_object().into_iter().flatten() {
        typed |= name.eq_ignore_ascii_case("content-type");
        fields.push_str(&format!("{name}: {}\r\n", value.as_str().unwrap_or_default()));
    }
    if !typed {
        fields.push_str(&format!("Content-Type: {}\r\n", guessed(&body)));
    }
    let status = wanted["status"].as_u64().and_then(|s| u16::try_from(s).ok()).filter(|s| *s != 0).unwrap_or(200);
    written(status, &fields, Some(&body))
}

fn written(status: u16, fields: &str, body: Option<&[u8]>) -> Vec<u8> {
    let length = body.map_or(0, <[u8]>::len);
    let mut out = format!("HTTP/1.1 {status} Answer\r\n{fields}Content-Length: {length}\r\n\r\n").into_bytes();
    out.extend_from_slice(body.unwrap_or_default());
    out
}

/// The media type as a browser would guess it (WHATWG MIME Sniffing, section 7), as far as the tests need it.
fn guessed(body: &[u8]) -> &'static str {
    let start = body.trim_ascii_start();
    let begins = |text: &str| start.get(..text.len()).is_some_and(|s| s.eq_ignore_ascii_case(text.as_bytes()));
    let html =
        ["<!doctype html", "<html", "<head", "<script", "<iframe", "<h1", "<div", "<font", "<table", "<a", "<style"];
    let html_too = ["<title", "<b", "<body", "<br", "<p", "<!--"];
    let tag = |text: &&str| begins(text) && matches!(start.get(text.len()), Some(b' ' | b'>'));
    if html.iter().chain(&html_too).any(tag) {
        return "text/html; charset=utf-8";
    }
    if begins("<?xml") {
        return "text/xml; charset=utf-8";
    }
    for (magic, kind) in [
        (&b"%PDF-"[..], "application/pdf"),
        (b"\x1f\x8b\x08", "application/x-gzip"),
        (b"PK\x03\x04", "application/zip"),
    ] {
        if body.starts_with(magic) {
            return kind;
        }
    }
    let binary = |b: &u8| matches!(b, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    if body.iter().take(512).any(binary) { "application/octet-stream" } else { "text/plain; charset=utf-8" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_what_it_is_told_to() {
        let told = br#"{"status": 503, "headers": {"X-A": "b"}, "encodedBody": "aGk="}"#;
        let text = String::from_utf8(answer("POST /reflect HTTP/1.1\r\n", told)).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 503 Answer\r\nX-A: b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\n\r\nhi"
        );
        assert!(answer("GET /reflect HTTP/1.1\r\n", told).ends_with(b"Content-Length: 0\r\n\r\n"));
        assert_eq!(guessed(b" <HTML ><p>"), "text/html; charset=utf-8");
    }
}
