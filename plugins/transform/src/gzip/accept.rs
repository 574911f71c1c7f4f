//! Whether `Accept-Encoding` allows gzip, as nginx reads it (`ngx_http_gzip_accept_encoding`): `*` does not count, the
//! first `gzip` decides, and a quality must be well-formed and above 0 (RFC 9110, 12.4.2).

/// `value` is the field's content.
pub fn gzip(value: &[u8]) -> bool {
    // What nearly all clients send.
    if value.starts_with(b"gzip,") {
        return true;
    }
    let found = value.windows(4).enumerate().find(|(at, window)| {
        let starts = at.checked_sub(1).and_then(|before| value.get(before)).is_none_or(|b| matches!(b, b',' | b' '));
        starts && window.eq_ignore_ascii_case(b"gzip")
    });
    let Some((at, _)) = found else { return false };
    let rest = value.get(at + 4..).unwrap_or_default().trim_ascii_start();
    match rest.split_first() {
        None | Some((b',', _)) => true,
        Some((b';', parameters)) => quality(parameters.split(|b| *b == b',').next().unwrap_or_default().trim_ascii()),
        Some(_) => false,
    }
}

/// `q=0.5`; nothing at all is 1.
fn quality(parameter: &[u8]) -> bool {
    match parameter {
        [] => true,
        [b'q' | b'Q', b'=', value @ ..] => positive(value.split(|b| *b == b' ').next().unwrap_or_default()),
        _ => false,
    }
}

/// A number above 0, at most 1, of at most three decimals.
fn positive(value: &[u8]) -> bool {
    let (whole, decimals) = match value {
        [whole] => (whole, &[][..]),
        [whole, b'.', decimals @ ..] => (whole, decimals),
        _ => return false,
    };
    let zeros = decimals.iter().all(|b| *b == b'0');
    let digits = decimals.len() <= 3 && decimals.iter().all(u8::is_ascii_digit);
    digits && matches!((whole, zeros), (b'1', true) | (b'0', false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepted() {
        for value in [
            "gzip",
            "gzip, br",
            "br, gzip",
            "deflate,GZip",
            "gzip;q=1",
            "gzip ; q=0.001",
            "gzip;Q=1.000",
            "br;q=1.0, gzip;q=0.8, *;q=0.1",
            "gzip;",
            "gzip;q=0.5 , br",
        ] {
            assert!(gzip(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn refused() {
        for value in [
            "",
            "gzi",
            "*",
            "br",
            "x-gzip",
            "gzipped",
            "gzip;q=0",
            "gzip;q=0.000",
            "gzip;q=2",
            "gzip;q=1.001",
            "gzip;q=0.1234",
            "gzip;q=",
            "gzip;x=1",
            "gzip;q=a",
            "gzip;q=0, gzip",
        ] {
            assert!(!gzip(value.as_bytes()), "{value}");
        }
    }

    proptest! {
        #[test]
        fn quality_in_thousandths(q in 0u32..2000) {
            let value = format!("br, gzip;q={}.{:03}", q / 1000, q % 1000);
            prop_assert_eq!(gzip(value.as_bytes()), (1..=1000).contains(&q));
        }
    }
}
