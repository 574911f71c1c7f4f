//! Whether `Accept-Encoding` allows Brotli (RFC 9110, 12.5.3). `br` decides where it is named; else `*` does, as in
//! apisix/plugins/brotli.lua. A quality that cannot be read refuses.

/// `value` is the field's content.
pub fn brotli(value: &[u8]) -> bool {
    let mut any = false;
    for item in value.split(|b| *b == b',') {
        let mut parts = item.split(|b| *b == b';').map(<[u8]>::trim_ascii);
        let coding = parts.next().unwrap_or_default();
        let mut allowed = || parts.next().is_none_or(quality);
        if coding.eq_ignore_ascii_case(b"br") {
            return allowed();
        }
        if coding == b"*" {
            any = allowed();
        }
    }
    any
}

/// `q=0.5`, above 0 and at most 1; nothing at all is 1.
fn quality(parameter: &[u8]) -> bool {
    let value = match parameter {
        [] => return true,
        [b'q' | b'Q', b'=', value @ ..] => value,
        _ => return false,
    };
    let number = std::str::from_utf8(value).ok().filter(|_| value.iter().all(|b| b.is_ascii_digit() || *b == b'.'));
    number.and_then(|text| text.parse::<f32>().ok()).is_some_and(|q| q > 0.0 && q <= 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepted() {
        let values = [
            "br",
            "*",
            "gzip, br",
            "gzip, *",
            "gzip;q=0.5, br;q=0.6",
            "gzip;q=0.8, *;q=0.1",
            "BR ; q=1",
            "br;",
            "*;q=0, br",
        ];
        for value in values {
            assert!(brotli(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn refused() {
        let values = [
            "",
            "gzip",
            "gzip, deflate",
            "gzip;q=0.5, br;q=0",
            "br;q=0.000",
            "br; q=0",
            "*;q=0",
            "br;q=0, *",
            "x-br",
            "brr",
            "br;q=2",
            "br;q=x",
            "br;q=inf",
            "br;x=1",
        ];
        for value in values {
            assert!(!brotli(value.as_bytes()), "{value}");
        }
    }

    proptest! {
        #[test]
        fn quality_in_thousandths(q in 0u32..2000) {
            let value = format!("gzip, br;q={}.{:03}, *", q / 1000, q % 1000);
            prop_assert_eq!(brotli(value.as_bytes()), (1..=1000).contains(&q));
        }
    }
}
