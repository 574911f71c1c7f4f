//! `http` and `https`: one request, and of the answer only its status line (lua-resty-healthcheck, `run_single_check`).
use std::io;

use sluice_net::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Verdict;
use crate::health::checks::Active;

/// Longest status line read.
const MAX_LINE: usize = 4096;

pub(super) async fn ask(active: &Active, host: &str, stream: &mut Stream) -> io::Result<Verdict> {
    stream.write_all(&request(active, host)).await?;
    stream.flush().await?;
    let mut line = Vec::with_capacity(256);
    while !line.contains(&b'\n') {
        if line.len() > MAX_LINE {
            return Ok(Verdict::Bad);
        }
        if stream.read_buf(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(status(&line).map_or(Verdict::Bad, Verdict::Status))
}

fn request(active: &Active, host: &str) -> Vec<u8> {
    let (method, path) = (&active.http_method, &active.http_path);
    let mut out = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    for line in &active.req_headers {
        out.push_str(line);
        out.push_str("\r\n");
    }
    if !active.http_req_body.is_empty() {
        out.push_str(&format!("Content-Length: {}\r\n", active.http_req_body.len()));
    }
    out.push_str(&format!("Host: {host}\r\n\r\n"));
    out.push_str(&active.http_req_body);
    out.into_bytes()
}

/// The status of `HTTP/<digits>.<digits> <status>`.
fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|b| *b == b'\n').next()?).ok()?;
    let (version, rest) = line.trim_end().split_once(char::is_whitespace)?;
    let numbers = version.get(..5).filter(|name| name.eq_ignore_ascii_case("HTTP/")).and(version.get(5..))?;
    let (major, minor) = numbers.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let code = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
    (digits(major) && digits(minor)).then(|| code.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::checks::Checks;
    use serde_json::json;

    #[test]
    fn status_lines_are_read_leniently_but_not_guessed() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("http/1.0  503\r\n", Some(503)),
            ("HTTP/1.1 204\n", Some(204)),
            ("HTTP/2 200\r\n", None),
            ("HTTP/1.1 OK\r\n", None),
            ("SSH-2.0-x\r\n", None),
            ("HTTP/1.1 99999999\r\n", None),
        ] {
            assert_eq!(status(line.as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn the_request_is_apisix_with_method_and_body() {
        let text = |active: serde_json::Value| {
            let active = Checks::read(&json!({ "active": active })).unwrap().active.unwrap();
            String::from_utf8(request(&active, "foo.com")).unwrap()
        };
        let plain = text(json!({"http_path": "/status", "req_headers": ["User-Agent: curl/7.29.0"]}));
        assert_eq!(
            plain,
            "GET /status HTTP/1.1\r\nConnection: close\r\nUser-Agent: curl/7.29.0\r\nHost: foo.com\r\n\r\n"
        );
        let post = text(json!({"http_method": "POST", "http_req_body": "{}"}));
        assert_eq!(post, "POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\nHost: foo.com\r\n\r\n{}");
    }
}
