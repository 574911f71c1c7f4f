//! Counts the frames of a client that are about no request: a `PING` or `SETTINGS` costs the gateway an answer and the client
//! nothing (CVE-2019-9512, CVE-2019-9515).
//!
//! The surprise: it reads frames' heads beside the `h2` crate, which does not tell of them. Only nine bytes of each are looked at.
use sluice_net::timer;
use std::time::{Duration, Instant};

/// The client's preface (RFC 9113 section 3.4), bytes.
const PREFACE: usize = 24;
const HEAD: usize = 9;
const PERIOD: Duration = Duration::from_secs(10);
/// What a frame of a request makes up for.
const USEFUL: u32 = 4;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

/// See the file's head.
#[derive(Debug)]
pub(super) struct Flood {
    /// 0: no limit.
    limit: u32,
    count: u32,
    since: Option<Instant>,
    /// Bytes to pass over before the next head.
    skip: usize,
    head: [u8; HEAD],
    have: usize,
}

impl Flood {
    pub fn new(limit: u32) -> Flood {
        Flood { limit, count: 0, since: None, skip: PREFACE, head: [0; HEAD], have: 0 }
    }

    /// Looks at what was read; true where it is too much.
    pub fn is_reached(&mut self, mut data: &[u8]) -> bool {
        if self.limit == 0 {
            return false;
        }
        while !data.is_empty() {
            if self.skip > 0 {
                let n = self.skip.min(data.len());
                self.skip -= n;
                data = data.get(n..).unwrap_or_default();
                continue;
            }
            let n = (HEAD - self.have).min(data.len());
            let (part, rest) = data.split_at(n);
            if let Some(place) = self.head.get_mut(self.have..self.have + n) {
                place.copy_from_slice(part);
            }
            self.have += n;
            data = rest;
            if self.have == HEAD {
                self.have = 0;
                let [a, b, c, kind, ..] = self.head;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                if self.count(kind) {
                    return true;
                }
            }
        }
        false
    }

    fn count(&mut self, kind: u8) -> bool {
        match kind {
            DATA | HEADERS => self.count = self.count.saturating_sub(USEFUL),
            PRIORITY | RST_STREAM | SETTINGS | PING => {
                let now = timer::now_coarse();
                if self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD) {
                    self.since = Some(now);
                    self.count = 0;
                }
                self.count += 1;
            }
            _ => {}
        }
        self.count > self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, 0, 0, 0, 0, 0];
        frame.resize(HEAD + length, PING);
        frame
    }

    #[test]
    fn frames_about_no_request_are_counted() {
        let mut flood = Flood::new(3);
        assert!(!flood.is_reached(&[PING; PREFACE]));
        for _ in 0..3 {
            assert!(!flood.is_reached(&frame(PING, 8)));
        }
        // A request makes up for them.
        assert!(!flood.is_reached(&frame(HEADERS, 300)) && !flood.is_reached(&frame(DATA, 0)));
        assert!(!flood.is_reached(&[frame(PING, 8), frame(SETTINGS, 0), frame(RST_STREAM, 4)].concat()));
        assert!(!flood.is_reached(&frame(8, 4)), "a window update is not counted");
        assert!(flood.is_reached(&frame(PRIORITY, 5)));
        let mut free = Flood::new(0);
        assert!(!free.is_reached(&[vec![0; PREFACE], frame(PING, 8).repeat(100)].concat()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// However reads cut the bytes, the same frame is the one too many.
        #[test]
        fn cuts_do_not_matter(kinds in prop::collection::vec((0u8..10, 0usize..40), 0..60), cut in 1usize..50) {
            let bytes: Vec<u8> = [vec![b'x'; PREFACE]].into_iter().chain(kinds.iter().map(|(k, n)| frame(*k, *n))).flatten().collect();
            let (mut whole, mut pieces) = (Flood::new(20), Flood::new(20));
            let reached = whole.is_reached(&bytes);
            prop_assert_eq!(bytes.chunks(cut).any(|piece| pieces.is_reached(piece)), reached);
        }
    }
}
