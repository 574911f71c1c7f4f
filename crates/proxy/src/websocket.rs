//! Where WebSocket frames end in what a tunnel passes on (RFC 6455 section 5.2), so that a Close frame of the gateway's own never
//! stands within another.
//!
//! The surprise: bytes are not held back, copied or unmasked for it; a read costs a look at the two to fourteen bytes of each
//! frame's head, and an idle socket some sixty bytes of memory.

/// The gateway goes away, and the client is to come back (RFC 6455 section 7.4.2 and IANA's registry: "Service Restart").
const SERVICE_RESTART: [u8; 2] = 1012u16.to_be_bytes();
const CLOSE: u8 = 8;
/// The longest head: two bytes, a length of eight, a mask of four.
const LONGEST: usize = 14;

/// Whether `Upgrade` names it.
pub(crate) fn is_named(upgrade: &[u8]) -> bool {
    upgrade.eq_ignore_ascii_case(b"websocket")
}

/// The frames of one direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frames {
    /// Bytes to come of the frame under way.
    left: u64,
    head: [u8; LONGEST],
    have: u8,
    closed: bool,
}

impl Frames {
    /// Whether the last frame that began is whole.
    pub fn is_boundary(&self) -> bool {
        self.left == 0 && self.have == 0
    }

    /// Whether a Close frame has been seen: its sender says no more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Follows all of these bytes.
    #[inline]
    pub fn follow(&mut self, data: &[u8]) {
        // Most reads are the middle of a large frame, or one small one.
        if (data.len() as u64) < self.left {
            self.left -= data.len() as u64;
            return;
        }
        let mut at = 0;
        while at < data.len() {
            at += self.step(data.get(at..).unwrap_or_default());
        }
    }

    /// Follows up to the end of the frame under way; says how many bytes that took. Not to be asked at a boundary.
    pub fn finish(&mut self, data: &[u8]) -> usize {
        let mut at = 0;
        while at < data.len() {
            at += self.step(data.get(at..).unwrap_or_default());
            if self.is_boundary() {
                break;
            }
        }
        at
    }

    /// Takes what is there of one frame's payload, or one byte of its head.
    fn step(&mut self, data: &[u8]) -> usize {
        if self.left > 0 {
            let n = self.left.min(data.len() as u64);
            self.left -= n;
            return n as usize;
        }
        let Some(first) = data.first() else { return 0 };
        if let Some(place) = self.head.get_mut(usize::from(self.have)) {
            *place = *first;
        }
        self.have += 1;
        let [start, length, rest @ ..] = &self.head;
        let extended = match length & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if length & 0x80 == 0 { 0 } else { 4 };
        if self.have >= 2 && self.have == 2 + extended + mask {
            let long = rest.iter().take(usize::from(extended)).fold(0u64, |n, byte| n << 8 | u64::from(*byte));
            self.left = if extended == 0 { u64::from(length & 0x7f) } else { long };
            self.closed |= start & 0x0f == CLOSE;
            self.have = 0;
        }
        1
    }
}

/// A Close frame; what goes to a server is masked, with a key that nobody can foresee.
fn close(mask: Option<u32>, out: &mut Vec<u8>) {
    let [a, b] = SERVICE_RESTART;
    match mask {
        None => out.extend_from_slice(&[0x80 | CLOSE, 2, a, b]),
        Some(key) => {
            let [k, l, m, n] = key.to_be_bytes();
            out.extend_from_slice(&[0x80 | CLOSE, 0x80 | 2, k, l, m, n, a ^ k, b ^ l]);
        }
    }
}

/// One direction of a tunnel, for its end by the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    frames: Frames,
    /// For frames to the node.
    mask: Option<u32>,
    /// The gateway's own last word has been said.
    ended: bool,
}

impl Way {
    fn new(mask: Option<u32>, first: &[u8]) -> Way {
        let mut frames = Frames::default();
        frames.follow(first);
        Way { frames, mask, ended: false }
    }

    #[inline]
    pub fn follow(&mut self, data: &[u8]) {
        self.frames.follow(data);
    }

    /// The tunnel ends: says so, once and behind a whole frame. Behind a Close frame of the other side nothing more is said.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if !self.ended && self.frames.is_boundary() {
            self.ended = true;
            if !self.frames.is_closed() {
                close(self.mask, out);
            }
        }
    }

    /// What of these bytes still passes while the tunnel ends: the rest of the frame under way.
    pub fn rest(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let mut used = 0;
        if !self.ended {
            used = self.frames.finish(data);
            out.extend_from_slice(data.get(..used).unwrap_or_default());
            self.end(out);
        }
        // Whether it answers the Close of the gateway is all that matters now.
        self.frames.follow(data.get(used..).unwrap_or_default());
    }

    /// Both have said their last word: the gateway to this side, and the other one.
    pub fn is_over(&self) -> bool {
        self.ended && self.frames.is_closed()
    }
}

/// Both directions of a tunnel that carries WebSocket.
#[derive(Clone, Debug)]
pub(crate) struct WebSocket {
    pub up: Way,
    pub down: Way,
}

impl WebSocket {
    /// What the node and the client had sent already, and random bits for a mask.
    pub fn new(of_node: &[u8], of_client: &[u8], random: u64) -> WebSocket {
        WebSocket { up: Way::new(Some(random as u32), of_client), down: Way::new(None, of_node) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(opcode: u8, masked: bool, length: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65_536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend([1, 2, 3, 4]);
        }
        frame.resize(frame.len() + length, 0x88);
        frame
    }

    #[test]
    fn a_close_stands_behind_a_whole_frame() {
        let text = frame(1, false, 300);
        let mut way = Way::new(None, b"");
        way.follow(&text[..100]);
        let mut out = Vec::new();
        way.end(&mut out);
        assert!(out.is_empty(), "within a frame");
        let rest = [&text[100..], &frame(1, false, 5)].concat();
        way.rest(&rest, &mut out);
        assert_eq!(out, [&text[100..], &[0x88, 2, 3, 0xf4]].concat(), "its rest, the Close, and nothing more");
        out.clear();
        way.end(&mut out);
        way.rest(&frame(1, false, 9), &mut out);
        assert!(out.is_empty() && !way.is_over());
        way.rest(&frame(CLOSE, false, 2), &mut out);
        assert!(out.is_empty() && way.is_over());
    }

    #[test]
    fn to_a_node_it_is_masked() {
        let mut way = Way::new(Some(0x01020304), &frame(1, true, 4));
        let mut out = Vec::new();
        way.end(&mut out);
        assert_eq!(out, [0x88, 0x82, 1, 2, 3, 4, 3 ^ 1, 0xf4 ^ 2]);
    }

    #[test]
    fn behind_a_close_nothing_is_said() {
        let mut way = Way::new(None, &frame(CLOSE, false, 0));
        let mut out = Vec::new();
        way.end(&mut out);
        assert!(out.is_empty() && way.is_over());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// However the bytes are cut, boundaries are where frames end and nowhere else.
        #[test]
        fn boundaries(frames in prop::collection::vec((0u8..8, any::<bool>(), prop_oneof![0usize..130, Just(70_000usize)]), 1..6), cut in 1usize..200) {
            let all: Vec<Vec<u8>> = frames.iter().map(|(o, m, n)| frame(*o, *m, *n)).collect();
            let mut ends = vec![0];
            all.iter().for_each(|one| ends.push(ends[ends.len() - 1] + one.len()));
            let bytes = all.concat();
            let (mut follower, mut at) = (Frames::default(), 0);
            for piece in bytes.chunks(cut) {
                follower.follow(piece);
                at += piece.len();
                prop_assert_eq!(follower.is_boundary(), ends.contains(&at), "at {}", at);
                if !follower.is_boundary() {
                    let used = follower.clone().finish(&bytes[at..]);
                    prop_assert!(ends.contains(&(at + used)));
                }
            }
            prop_assert!(!follower.is_closed());
        }
    }
}
