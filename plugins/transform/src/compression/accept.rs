//! What `Accept-Encoding` says of a coding (RFC 9110, 12.5.3). The first mention of a coding decides. The surprise: a quality
//! that cannot be read counts as 0, as in nginx.

/// What a client says of one coding. Qualities are in thousandths; 0 refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accept {
    /// By its name.
    Named(u16),
    /// By `*`.
    Any(u16),
    /// Not at all.
    Unnamed,
}

impl Accept {
    /// Whether the coding is named and not refused.
    pub(crate) fn by_name(self) -> bool {
        matches!(self, Accept::Named(1..))
    }
    /// The quality, where it is not refused.
    pub(crate) fn quality(self) -> Option<u16> {
        match self {
            Accept::Named(q) | Accept::Any(q) if q > 0 => Some(q),
            _ => None,
        }
    }
}

/// `value` is the field's content.
pub(crate) fn quality(value: &[u8], coding: &[u8]) -> Accept {
    let mut any = Accept::Unnamed;
    for item in value.split(|b| *b == b',') {
        let mut parts = item.splitn(2, |b| *b == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let mut weight = || parts.next().map_or(1000, weight);
        if name.eq_ignore_ascii_case(coding) {
            return Accept::Named(weight());
        }
        if name == b"*" && any == Accept::Unnamed {
            any = Accept::Any(weight());
        }
    }
    any
}

/// `q=0.5`, in thousandths; nothing at all is 1.
fn weight(parameter: &[u8]) -> u16 {
    let value = match parameter {
        [] => return 1000,
        [b'q' | b'Q', b'=', value @ ..] => value,
        _ => return 0,
    };
    let (whole, decimals) = match value {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', decimals @ ..] => (whole, decimals),
        _ => return 0,
    };
    if decimals.len() > 3 || !decimals.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    let digit = |i: usize| decimals.get(i).map_or(0, |d| u16::from(d - b'0'));
    let thousandths = u16::from(whole - b'0') * 1000 + digit(0) * 100 + digit(1) * 10 + digit(2);
    if thousandths > 1000 { 0 } else { thousandths }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_mention_decides() {
        let says = |value: &str| quality(value.as_bytes(), b"gzip");
        for (value, expected) in [
            ("gzip", Accept::Named(1000)),
            ("deflate,GZip", Accept::Named(1000)),
            ("gzip ; q=0.001", Accept::Named(1)),
            ("gzip;Q=1.000", Accept::Named(1000)),
            ("gzip;", Accept::Named(1000)),
            ("gzip;q=0.5 , br", Accept::Named(500)),
            ("*;q=0.1, gzip;q=0.8", Accept::Named(800)),
            ("gzip;q=0, gzip", Accept::Named(0)),
            ("br, *;q=0.25", Accept::Any(250)),
            ("*;q=0", Accept::Any(0)),
            ("", Accept::Unnamed),
            ("gzi, x-gzip, gzipped, br", Accept::Unnamed),
        ] {
            assert_eq!(says(value), expected, "{value}");
        }
    }

    #[test]
    fn what_cannot_be_read_refuses() {
        for q in ["0", "0.000", "2", "1.001", "0.1234", "", "a", ".5", "inf", "-1", "0.5;x=1"] {
            assert_eq!(quality(format!("gzip;q={q}").as_bytes(), b"gzip"), Accept::Named(0), "{q}");
        }
        assert_eq!(quality(b"gzip;x=1", b"gzip"), Accept::Named(0));
    }

    proptest! {
        #[test]
        fn quality_in_thousandths(q in 0u16..2000) {
            let value = format!("br, gzip;q={}.{:03}, *", q / 1000, q % 1000);
            let expected = if q <= 1000 { q } else { 0 };
            prop_assert_eq!(quality(value.as_bytes(), b"gzip"), Accept::Named(expected));
        }
    }
}
