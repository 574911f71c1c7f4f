//! gRPC's frames: a flag, four bytes of length, a message (gRPC over HTTP2, "Length-Prefixed-Message"). The surprise: a message
//! over the limit is known by its first five bytes, so that none of it is kept.

/// Bytes before a message.
const PREFIX: usize = 5;

/// A message with its prefix.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(PREFIX + message.len());
    framed.push(0);
    // More than 4 GiB is no message; what a client may send is bounded far below.
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// What cannot be a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a message of {0} bytes is over the limit")]
    TooLarge(usize),
    #[error("a message is compressed, which nobody asked for")]
    Compressed,
}

/// Takes a body piece by piece, gives it message by message.
#[derive(Debug)]
pub struct Frames {
    pending: Vec<u8>,
    /// Bytes of `pending` that were given.
    start: usize,
    /// Bytes of the largest message.
    limit: usize,
}

impl Frames {
    pub fn new(limit: usize) -> Frames {
        Frames { pending: Vec::new(), start: 0, limit }
    }

    /// The next piece of the body.
    pub fn push(&mut self, piece: &[u8]) {
        if self.start > 0 {
            self.pending.drain(..self.start);
            self.start = 0;
        }
        self.pending.extend_from_slice(piece);
    }

    /// The next message that is whole.
    pub fn message(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let rest = self.pending.get(self.start..).unwrap_or_default();
        let Some((&[flag, a, b, c, d], body)) = rest.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.limit {
            return Err(FrameError::TooLarge(length));
        }
        if flag != 0 {
            return Err(FrameError::Compressed);
        }
        let Some(message) = body.get(..length) else { return Ok(None) };
        self.start += PREFIX + length;
        Ok(Some(message))
    }

    /// Whether nothing is left of a message that was begun.
    pub fn is_empty(&self) -> bool {
        self.pending.len() == self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_whole_however_the_body_is_cut() {
        let body = [frame(b"first"), frame(b""), frame(&[b'x'; 300])].concat();
        for size in [1, 2, 5, 7, 400] {
            let mut frames = Frames::new(300);
            let mut all = Vec::new();
            for piece in body.chunks(size) {
                frames.push(piece);
                while let Some(message) = frames.message().unwrap() {
                    all.push(message.to_vec());
                }
            }
            assert!(frames.is_empty());
            assert_eq!(all, [b"first".to_vec(), Vec::new(), vec![b'x'; 300]], "{size}");
        }
    }

    #[test]
    fn bounds_hold_before_a_message_is_there() {
        let mut frames = Frames::new(10);
        frames.push(&[0, 0, 0, 0, 11]);
        assert_eq!(frames.message(), Err(FrameError::TooLarge(11)));
        let mut frames = Frames::new(10);
        frames.push(&[1, 0, 0, 0, 1, 0]);
        assert_eq!(frames.message(), Err(FrameError::Compressed));
        frames = Frames::new(10);
        frames.push(&[0, 0, 0, 0, 2, 1]);
        assert_eq!(frames.message(), Ok(None));
        assert!(!frames.is_empty());
    }
}
