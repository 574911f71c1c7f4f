//! What the pipeline knows of gRPC beyond HTTP/2: deadlines, and statuses of its own errors. Surprise: the status of HTTP stays
//! what it would have been, so that logs, metrics and plugins see no difference.
use sluice_http::Known;
use sluice_plugin::Context;
use std::time::Duration;

/// The time that the client gives a call (`grpc-timeout`: at most eight digits and a unit).
pub(crate) fn deadline(cx: &Context) -> Option<Duration> {
    parse(cx.request.headers.get("grpc-timeout")?)
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let n = digits.iter().fold(0u64, |n, digit| n * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(n * 3600),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_micros(n),
        b'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

/// Whether a request is a call whose client reads statuses of gRPC.
pub(crate) fn is_call(cx: &Context) -> bool {
    let kind = cx.request.headers.known(Known::ContentType);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc") && !kind.starts_with(b"application/grpc-web"))
}

/// Adds the gateway's own error in gRPC's terms to the response ("HTTP to gRPC Status Code Mapping" of gRPC's documentation). `late`:
/// the client's deadline has passed. True where that was done: a call that failed has no body.
pub(crate) fn tell_status(cx: &mut Context, late: bool) -> bool {
    if cx.response.status < 400 || !is_call(cx) {
        return false;
    }
    let (status, message) = match cx.response.status {
        504 if late => ("4", "Deadline Exceeded"),
        status => (of_http(status), sluice_http::status::reason(status)),
    };
    if !cx.response.headers.contains("grpc-status") {
        cx.response.headers.append("grpc-status", status);
        cx.response.headers.append("grpc-message", message);
    }
    cx.response.headers.set("Content-Type", "application/grpc");
    true
}

fn of_http(status: u16) -> &'static str {
    match status {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502..=504 => "14",
        _ => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines() {
        for (value, millis) in
            [("1H", 3_600_000), ("2M", 120_000), ("3S", 3_000), ("4m", 4), ("5000u", 5), ("6000000n", 6)]
        {
            assert_eq!(parse(value.as_bytes()), Some(Duration::from_millis(millis)), "{value}");
        }
        for value in ["", "1", "S", "-1S", "1 S", "123456789S", "1h", "1.5S"] {
            assert_eq!(parse(value.as_bytes()), None, "{value}");
        }
    }
}
