//! Body framing (RFC 9112 sections 6 and 7).
//!
//! One state machine serves both uses: bytes that pass untouched are only checked, and bytes that a plugin reads are
//! handed out without their chunk framing. Bare LF, signs, spaces in sizes and unbounded extensions are refused.

/// How a message's end is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    #[default]
    None,
    /// `Content-Length`, in bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the connection closes (responses only).
    Close,
}

/// A chunk size may have this many hexadecimal digits (2^60 bytes).
const MAX_DIGITS: u8 = 15;
/// Bytes of extensions after one chunk size.
const MAX_EXTENSION: u16 = 256;
/// Bytes of trailers after the last chunk.
const MAX_TRAILERS: u16 = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    SizeSpace,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// A body that is not framed as RFC 9112 demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunked body")]
pub struct BadBody;

/// Follows a body through the bytes of a connection.
#[derive(Clone, Copy, Debug)]
pub struct BodyReader {
    framing: Framing,
    state: State,
    left: u64,
    digits: u8,
    extra: u16,
    payload: u64,
}

/// A piece of a body found by [`BodyReader::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Payload within the input.
    pub start: usize,
    pub end: usize,
    /// Input bytes consumed, framing included.
    pub consumed: usize,
    /// The body ended here.
    pub done: bool,
}

impl BodyReader {
    pub fn new(framing: Framing) -> BodyReader {
        let (state, left) = match framing {
            Framing::None => (State::Done, 0),
            Framing::Length(0) => (State::Done, 0),
            Framing::Length(n) => (State::Data, n),
            Framing::Chunked => (State::Size, 0),
            Framing::Close => (State::Data, u64::MAX),
        };
        BodyReader { framing, state, left, digits: 0, extra: 0, payload: 0 }
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the whole body has passed.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Payload bytes that have passed, without their chunk framing.
    pub fn payload(&self) -> u64 {
        self.payload
    }

    /// Bytes that must still come, where the framing tells.
    pub fn remaining(&self) -> Option<u64> {
        match self.framing {
            Framing::None => Some(0),
            Framing::Length(_) => Some(self.left),
            Framing::Chunked | Framing::Close => None,
        }
    }

    /// What the end of the connection means here: fine only for a body that ends with it.
    pub fn end_of_input(&mut self) -> Result<(), BadBody> {
        match self.framing {
            Framing::Close => {
                self.state = State::Done;
                Ok(())
            }
            _ if self.is_done() => Ok(()),
            _ => Err(BadBody),
        }
    }

    /// Consumes input up to and including the next run of payload. `start == end` means that only framing was there.
    pub fn next(&mut self, input: &[u8]) -> Result<Piece, BadBody> {
        let mut i = 0;
        while let Some(&b) = input.get(i) {
            match self.state {
                State::Done => break,
                State::Data => {
                    let n = self.left.min((input.len() - i) as u64) as usize;
                    self.payload += n as u64;
                    if self.framing != Framing::Close {
                        self.left -= n as u64;
                    }
                    if self.left == 0 {
                        self.state = if self.framing == Framing::Chunked { State::DataCr } else { State::Done };
                    }
                    return Ok(Piece { start: i, end: i + n, consumed: i + n, done: self.is_done() });
                }
                _ => self.step(b)?,
            }
            i += 1;
            if self.state == State::TrailerStart {
                break;
            }
        }
        Ok(Piece { start: i, end: i, consumed: i, done: self.is_done() })
    }

    /// Consumes and checks all input that belongs to the body: for bytes that pass with their framing.
    #[inline]
    pub fn scan(&mut self, input: &[u8]) -> Result<usize, BadBody> {
        let mut used = 0;
        while used < input.len() && !self.is_done() {
            used += self.next(input.get(used..).unwrap_or_default())?.consumed;
        }
        Ok(used)
    }

    /// As [`BodyReader::scan`], and appends the payload to `out`.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, BadBody> {
        let mut used = 0;
        while used < input.len() && !self.is_done() {
            let rest = input.get(used..).unwrap_or_default();
            let piece = self.next(rest)?;
            out.extend_from_slice(rest.get(piece.start..piece.end).unwrap_or_default());
            used += piece.consumed;
        }
        Ok(used)
    }

    /// As [`BodyReader::decode`], and appends the lines behind the last chunk to `trailers`: at most 8 KiB and line ends.
    pub fn decode_trailed(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        trailers: &mut Vec<u8>,
    ) -> Result<usize, BadBody> {
        let mut used = 0;
        while used < input.len() && !self.is_done() {
            let rest = input.get(used..).unwrap_or_default();
            let trailing =
                matches!(self.state, State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf);
            let piece = self.next(rest)?;
            if trailing {
                trailers.extend_from_slice(rest.get(..piece.consumed).unwrap_or_default());
            } else {
                out.extend_from_slice(rest.get(piece.start..piece.end).unwrap_or_default());
            }
            used += piece.consumed;
        }
        Ok(used)
    }

    /// One byte of chunk framing.
    fn step(&mut self, b: u8) -> Result<(), BadBody> {
        self.state = match (self.state, b) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.digits < MAX_DIGITS => {
                self.left = self.left << 4 | u64::from((b as char).to_digit(16).unwrap_or(0));
                self.digits += 1;
                State::Size
            }
            (State::Size, b'\r') if self.digits > 0 => State::SizeLf,
            // RFC 9112 section 7.1.1: white space may stand before an extension; a second number may not.
            (State::Size, b' ' | b'\t') if self.digits > 0 => {
                self.extra = 0;
                State::SizeSpace
            }
            (State::SizeSpace, b' ' | b'\t') if self.extra < MAX_EXTENSION => {
                self.extra += 1;
                State::SizeSpace
            }
            (State::SizeSpace, b'\r') => State::SizeLf,
            (State::Size | State::SizeSpace, b';') if self.digits > 0 => {
                self.extra = 0;
                State::Extension
            }
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.extra += 1;
                if self.extra > MAX_EXTENSION {
                    return Err(BadBody);
                }
                State::Extension
            }
            (State::SizeLf, b'\n') => {
                self.digits = 0;
                self.extra = 0;
                if self.left == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::TrailerName, b) if is_token(b) => {
                self.count_trailer()?;
                State::TrailerName
            }
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count_trailer()?;
                State::TrailerValue
            }
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            _ => return Err(BadBody),
        };
        Ok(())
    }

    fn count_trailer(&mut self) -> Result<(), BadBody> {
        self.extra += 1;
        if self.extra > MAX_TRAILERS { Err(BadBody) } else { Ok(()) }
    }
}

/// A token character (RFC 9110 section 5.6.2).
pub(crate) fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(framing: Framing, input: &[u8]) -> Result<(usize, Vec<u8>, bool), BadBody> {
        let mut reader = BodyReader::new(framing);
        let mut out = Vec::new();
        let used = reader.decode(input, &mut out)?;
        Ok((used, out, reader.is_done()))
    }

    #[test]
    fn chunked_bodies() {
        assert_eq!(whole(Framing::Chunked, b"3\r\nabc\r\n0\r\n\r\nGET"), Ok((13, b"abc".to_vec(), true)));
        assert_eq!(whole(Framing::Chunked, b"3;a=b\r\nabc\r\n00\r\nX: 1\r\n\r\n"), Ok((24, b"abc".to_vec(), true)));
        assert_eq!(whole(Framing::Chunked, b"3 \t;a\r\nabc\r\n0  \r\n\r\n"), Ok((19, b"abc".to_vec(), true)));
        assert_eq!(whole(Framing::Chunked, b"A\r\n01234"), Ok((8, b"01234".to_vec(), false)));
        for bad in [
            "\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            "1 1\r\n",
            "1\t;a\n",
            " 1\r\n",
            "1\nab",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1\r\na\r\n0\n\n",
            "1;a\nb\r\n",
            "1;\x01\r\n",
            "0\r\nX : 1\r\n\r\n",
            "0\r\n: 1\r\n\r\n",
            "0\r\nX: 1\n\r\n",
            "0\r\n\rX",
            "1234567890123456\r\n",
            "g\r\n",
        ] {
            assert_eq!(whole(Framing::Chunked, bad.as_bytes()), Err(BadBody), "{bad:?}");
        }
        let long = format!("1;{}\r\n", "x".repeat(300));
        assert_eq!(whole(Framing::Chunked, long.as_bytes()), Err(BadBody));
        let trailers = format!("0\r\n{}\r\n", "a: 1\r\n".repeat(3000));
        assert_eq!(whole(Framing::Chunked, trailers.as_bytes()), Err(BadBody));
    }

    #[test]
    fn lengths_and_ends() {
        assert_eq!(whole(Framing::Length(3), b"abcdef"), Ok((3, b"abc".to_vec(), true)));
        assert_eq!(whole(Framing::None, b"abc"), Ok((0, vec![], true)));
        let mut close = BodyReader::new(Framing::Close);
        assert_eq!(close.scan(b"abc"), Ok(3));
        assert!(!close.is_done());
        assert!(close.end_of_input().is_ok() && close.is_done());
        assert!(BodyReader::new(Framing::Length(1)).end_of_input().is_err());
        assert!(BodyReader::new(Framing::Chunked).end_of_input().is_err());
    }

    proptest! {
        /// However the input is cut, the payload and the end are the same.
        #[test]
        fn cuts_do_not_matter(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6), cuts in prop::collection::vec(1usize..20, 1..60)) {
            let mut wire = Vec::new();
            for c in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", c.len()).as_bytes());
                wire.extend_from_slice(c);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let end = wire.len();
            wire.extend_from_slice(b"NEXT");
            let mut reader = BodyReader::new(Framing::Chunked);
            let (mut at, mut out) = (0, Vec::new());
            let mut cut = cuts.iter().cycle();
            while !reader.is_done() {
                let upto = (at + cut.next().unwrap()).min(wire.len());
                at += reader.decode(&wire[at..upto], &mut out).unwrap();
            }
            prop_assert_eq!(at, end);
            prop_assert_eq!(out, chunks.concat());
        }

        /// Arbitrary bytes never panic.
        #[test]
        fn garbage_is_refused_or_read(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = BodyReader::new(Framing::Chunked);
            let _ = reader.scan(&input);
        }
    }
}
