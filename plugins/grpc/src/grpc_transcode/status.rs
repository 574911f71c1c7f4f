//! Statuses of gRPC in HTTP's terms (apisix/plugins/grpc-transcode.lua `status_rel`).

/// The status of HTTP for a `grpc-status` other than 0; 599 for what gRPC does not know.
pub(super) fn of_http(code: &[u8]) -> u16 {
    match code {
        b"1" => 499,
        b"2" | b"13" | b"15" => 500,
        b"3" | b"9" | b"11" => 400,
        b"4" => 504,
        b"5" => 404,
        b"6" | b"10" => 409,
        b"7" => 403,
        b"8" => 429,
        b"12" => 501,
        b"14" => 503,
        b"16" => 401,
        _ => 599,
    }
}
