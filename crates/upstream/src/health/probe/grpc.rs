//! `grpc`: `grpc.health.v1.Health/Check` over HTTP/2. The two messages have one field each and are written and read by hand
//! (grpc/health/v1/health.proto).
use std::io;

use bytes::Bytes;
use sluice_net::Stream;

use super::{Verdict, http2};
use crate::health::checks::Active;

const SERVING: u64 = 1;
/// A `HealthCheckResponse` has a handful of bytes.
const MAX_ANSWER: usize = 1024;

pub(super) async fn ask(active: &Active, host: &str, stream: Stream) -> io::Result<Verdict> {
    let scheme = if stream.is_tls() { "https" } else { "http" };
    http2::over(stream, |client| exchange(active, scheme, host, client)).await
}

async fn exchange(
    active: &Active,
    scheme: &str,
    host: &str,
    client: h2::client::SendRequest<Bytes>,
) -> io::Result<Verdict> {
    let mut client = client.ready().await.map_err(io::Error::other)?;
    let request = http::Request::post(format!("{scheme}://{host}/grpc.health.v1.Health/Check"))
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(io::Error::other)?;
    let (response, mut body) = client.send_request(request, false).map_err(io::Error::other)?;
    body.send_data(Bytes::from(message(&active.grpc_service)), true).map_err(io::Error::other)?;
    let response = response.await.map_err(io::Error::other)?;
    if response.status() != 200 {
        return Ok(Verdict::Bad);
    }
    let mut body = response.into_body();
    let mut answer = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(io::Error::other)?;
        let _ = body.flow_control().release_capacity(piece.len());
        answer.extend_from_slice(&piece);
        if answer.len() > MAX_ANSWER {
            return Ok(Verdict::Bad);
        }
    }
    // an error (service not known, not implemented) comes without a message
    Ok(if status(&answer) == Some(SERVING) { Verdict::Good } else { Verdict::Bad })
}

/// A framed `HealthCheckRequest { service }`.
fn message(service: &str) -> Vec<u8> {
    let mut inner = Vec::new();
    if !service.is_empty() {
        inner.push(0x0a);
        varint(service.len() as u64, &mut inner);
        inner.extend_from_slice(service.as_bytes());
    }
    let mut out = vec![0];
    out.extend_from_slice(&(inner.len() as u32).to_be_bytes());
    out.extend_from_slice(&inner);
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// `status` of a framed, uncompressed `HealthCheckResponse`; absent is 0, `UNKNOWN`.
fn status(answer: &[u8]) -> Option<u64> {
    let (head, rest) = answer.split_at_checked(5)?;
    let [0, length @ ..] = head else { return None };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    let mut message = rest.get(..usize::try_from(length).ok()?)?;
    let mut status = 0;
    while !message.is_empty() {
        let tag = read_varint(&mut message)?;
        match tag & 7 {
            0 => {
                let value = read_varint(&mut message)?;
                if tag == 8 {
                    status = value;
                }
            }
            // fields to come are passed over
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(read_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_protobuf() {
        assert_eq!(message(""), [0, 0, 0, 0, 0]);
        assert_eq!(message("a.B"), [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        assert_eq!(message(&"x".repeat(200))[..8], [0, 0, 0, 0, 203, 0x0a, 200, 1]);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 2]), Some(2));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed");
        assert_eq!(status(&[0, 0, 0, 0, 5, 0x12, 1, b'x', 8, 1]), Some(SERVING), "another field before");
        assert_eq!(status(&[]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn any_answer_is_read_without_panic(answer in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = status(&answer);
        }
    }
}
