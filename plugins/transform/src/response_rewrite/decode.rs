//! Unpacks compressed response bodies (apisix/utils/content-decode.lua: gzip and br; here zstd too), up to a limit.
use std::io::Read;

/// zstd's largest window, as a power of two (RFC 9659: 8 MiB).
const WINDOW: u32 = 23;

#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("due to unsupported compression encoding type: {0}")]
    Unsupported(String),
    #[error("as the body cannot be unpacked: {0}")]
    Broken(#[from] std::io::Error),
}

/// The unpacked body, at most `limit` bytes of it.
pub(super) fn decode(encoding: &[u8], body: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    let mut out = Vec::new();
    if encoding.eq_ignore_ascii_case(b"gzip") {
        flate2::read::MultiGzDecoder::new(body).take(limit).read_to_end(&mut out)?;
    } else if encoding.eq_ignore_ascii_case(b"br") {
        brotli_decompressor::Decompressor::new(body, 4096).take(limit).read_to_end(&mut out)?;
    } else if encoding.eq_ignore_ascii_case(b"zstd") {
        let mut decoder = zstd::stream::read::Decoder::new(body)?;
        decoder.window_log_max(WINDOW)?;
        decoder.take(limit).read_to_end(&mut out)?;
    } else {
        return Err(DecodeError::Unsupported(String::from_utf8_lossy(encoding).into_owned()));
    }
    Ok(out)
}
