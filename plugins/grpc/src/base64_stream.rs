//! Base64 that is decoded as it arrives. The surprise: padding may stand in the middle, as a client of gRPC-Web may encode each
//! message by itself; a group of four characters is whole in any case.
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sluice_plugin::{BodyDecoder, Undecodable};

/// As nginx decodes: padding may be missing at the end.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A body under way.
#[derive(Debug, Default)]
pub struct Base64Stream {
    /// Fewer than four characters that wait for the rest of their group.
    group: Vec<u8>,
}

impl Base64Stream {
    /// Whole groups; only the last of `text` may be padded, or a part of one where nothing follows.
    fn decode(text: &[u8], out: &mut Vec<u8>) -> Result<(), Undecodable> {
        LENIENT.decode_vec(text, out).map_err(|_| Undecodable)
    }

    /// Whole groups of which any may be padded.
    fn groups(mut text: &[u8], out: &mut Vec<u8>) -> Result<(), Undecodable> {
        while let Some(at) = text.iter().position(|c| *c == b'=') {
            let (first, rest) = text.split_at((at / 4 + 1) * 4);
            Self::decode(first, out)?;
            text = rest;
        }
        Self::decode(text, out)
    }
}

impl BodyDecoder for Base64Stream {
    fn begin(&mut self) {
        self.group.clear();
    }

    fn piece(&mut self, payload: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), Undecodable> {
        // A line end behind the text is what tools add to it.
        self.group.extend(payload.iter().filter(|c| !matches!(c, b'\r' | b'\n')));
        let whole = if last { self.group.len() } else { self.group.len() / 4 * 4 };
        if whole % 4 == 0 {
            Self::groups(self.group.get(..whole).unwrap_or_default(), out)?;
        } else {
            // The end, without padding.
            let (first, end) = self.group.split_at(whole / 4 * 4);
            Self::groups(first, out)?;
            Self::decode(end, out)?;
        }
        self.group.drain(..whole);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    fn decode(pieces: &[&[u8]]) -> Result<Vec<u8>, Undecodable> {
        let mut stream = Base64Stream::default();
        let mut out = Vec::new();
        stream.begin();
        for (i, piece) in pieces.iter().enumerate() {
            stream.piece(piece, i + 1 == pieces.len(), &mut out)?;
        }
        Ok(out)
    }

    #[test]
    fn padding_may_be_anywhere_or_missing() {
        assert_eq!(decode(&[b"YQ==YmI=Y2Nj"]).unwrap(), b"abbccc");
        assert_eq!(decode(&[b"Y", b"Q", b"=", b"=Ym", b"I"]).unwrap(), b"abb");
        assert_eq!(decode(&[b"YQ==\r\n"]).unwrap(), b"a");
        assert_eq!(decode(&[b""]).unwrap(), b"");
        for wrong in [&b"Y"[..], b"YQ=a", b"Y===", b"Y Q=", b"hello", b"=", b"====", b"YQ==Y"] {
            assert!(decode(&[wrong]).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_was_encoded_comes_back(parts: Vec<Vec<u8>>, large in 0usize..10_000, cut in 1usize..5_000) {
            let mut parts = parts;
            parts.push(vec![b'x'; large]);
            let text: String = parts.iter().map(|part| STANDARD.encode(part)).collect();
            let mut pieces: Vec<&[u8]> = text.as_bytes().chunks(cut).collect();
            pieces.push(b"");
            prop_assert_eq!(decode(&pieces).unwrap(), parts.concat());
        }
    }
}
