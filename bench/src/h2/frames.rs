//! Frames (RFC 9113 section 4), as far as constant messages need them.

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub const HEAD: usize = 9;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITY: u8 = 32;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const ENABLE_PUSH: u16 = 2;

/// What the other side may send on a stream, and on the connection before it hears more.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// After so many bytes the connection's window is opened by as many.
const TOP_UP: u32 = 4 << 20;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Our settings and the connection's window.
pub fn greeting(server: bool, out: &mut Vec<u8>) {
    let mut settings = Vec::new();
    let mut set = |id: u16, value: u32| {
        settings.extend_from_slice(&id.to_be_bytes());
        settings.extend_from_slice(&value.to_be_bytes());
    };
    match server {
        true => set(MAX_CONCURRENT_STREAMS, 1000),
        false => set(ENABLE_PUSH, 0),
    }
    set(INITIAL_WINDOW_SIZE, STREAM_WINDOW);
    frame(SETTINGS, 0, 0, &settings, out);
    frame(WINDOW_UPDATE, 0, 0, &(CONNECTION_WINDOW - 65_535).to_be_bytes(), out);
}

/// Names of the static table that are sent here (RFC 7541 appendix A).
const STATIC_NAMES: [(&str, u8); 7] = [
    (":authority", 1),
    (":path", 4),
    ("accept-encoding", 16),
    ("accept", 19),
    ("cache-control", 24),
    ("content-type", 31),
    ("user-agent", 58),
];

/// A field without Huffman's code and not to be put into a table (RFC 7541 section 6.2.2).
pub fn literal(name: &str, value: &str, block: &mut Vec<u8>) {
    let mut texts = vec![value];
    match STATIC_NAMES.iter().find(|(known, _)| *known == name) {
        Some((_, index @ 0..15)) => block.push(*index),
        Some((_, index)) => block.extend_from_slice(&[15, index - 15]),
        None => {
            block.push(0);
            texts.insert(0, name);
        }
    }
    for text in texts {
        // RFC 7541 section 5.1 with a prefix of seven bits; nothing here is longer than two bytes can say.
        match text.len() {
            short @ 0..127 => block.push(short as u8),
            long => block.extend_from_slice(&[127, ((long - 127) & 127) as u8 | 128, ((long - 127) >> 7) as u8]),
        }
        block.extend_from_slice(text.as_bytes());
    }
}

/// Frames of one message, with the places where a stream's number goes.
pub struct Message {
    bytes: Vec<u8>,
    streams: Vec<usize>,
}

impl Message {
    pub fn new() -> Self {
        Self { bytes: Vec::new(), streams: Vec::new() }
    }

    pub fn push(&mut self, kind: u8, flags: u8, payload: &[u8]) {
        self.streams.push(self.bytes.len() + 5);
        frame(kind, flags, 0, payload, &mut self.bytes);
    }

    pub fn write(&self, stream: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        for at in &self.streams {
            if let Some(place) = out.get_mut(start + at..start + at + 4) {
                place.copy_from_slice(&stream.to_be_bytes());
            }
        }
    }
}

/// A request, and the size of the answer that belongs to it.
pub struct Call {
    pub message: Message,
    /// Bytes in DATA frames of the answer.
    pub answer: usize,
}

impl Call {
    /// `fields` with the pseudo-fields first.
    pub fn new(fields: &[(&str, &str)], body: &[u8], answer: usize) -> Self {
        let mut block = Vec::new();
        for (name, value) in fields {
            // RFC 7541 appendix A: fields that are whole in the static table.
            match (*name, *value) {
                (":method", "GET") => block.push(0x82),
                (":method", "POST") => block.push(0x83),
                (":scheme", "http") => block.push(0x86),
                (":scheme", "https") => block.push(0x87),
                _ => literal(name, value, &mut block),
            }
        }
        let mut message = Message::new();
        let end = if body.is_empty() { END_STREAM } else { 0 };
        message.push(HEADERS, END_HEADERS | end, &block);
        if !body.is_empty() {
            message.push(DATA, END_STREAM, body);
        }
        Self { message, answer }
    }
}

#[derive(Clone, Copy)]
pub struct Head {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    length: usize,
}

fn head(bytes: &[u8]) -> Option<Head> {
    let &[a, b, c, kind, flags, s0, s1, s2, s3] = bytes.get(..HEAD)? else { return None };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    Some(Head { kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff, length })
}

/// Frames as they come, and the answers that every endpoint owes: to settings, pings and full windows.
#[derive(Default)]
pub struct Incoming {
    rest: Vec<u8>,
    received: u32,
}

impl Incoming {
    /// Hands over each whole frame in `bytes` and what was left of earlier ones.
    pub fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>, mut each: impl FnMut(Head, &[u8], &mut Vec<u8>)) {
        let mut rest = std::mem::take(&mut self.rest);
        let mut all = bytes;
        if !rest.is_empty() {
            rest.extend_from_slice(bytes);
            all = &rest;
        }
        while let Some(found) = head(all) {
            let Some(payload) = all.get(HEAD..HEAD + found.length) else { break };
            match found.kind {
                DATA => {
                    self.received += payload.len() as u32;
                    if self.received >= TOP_UP {
                        frame(WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes(), out);
                        self.received = 0;
                    }
                }
                SETTINGS if found.flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[], out),
                PING if found.flags & ACK == 0 => frame(PING, ACK, 0, payload, out),
                _ => {}
            }
            each(found, payload, out);
            all = all.get(HEAD + found.length..).unwrap_or_default();
        }
        if !all.is_empty() {
            self.rest = all.to_vec();
        }
    }
}

/// The field block in a HEADERS frame, without padding and priority.
pub fn block(flags: u8, payload: &[u8]) -> &[u8] {
    let skip = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
    payload.get(skip..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let mut bytes = Vec::new();
        greeting(true, &mut bytes);
        let call = Call::new(&[(":method", "GET"), ("x", &"y".repeat(200))], b"body", 1);
        call.message.write(5, &mut bytes);
        for cut in 1..bytes.len() {
            let (mut incoming, mut out, mut seen) = (Incoming::default(), Vec::new(), Vec::new());
            for part in bytes.chunks(cut) {
                incoming.take(part, &mut out, |head, payload, _| seen.push((head.kind, head.stream, payload.len())));
            }
            assert_eq!(seen, [(SETTINGS, 0, 12), (WINDOW_UPDATE, 0, 4), (HEADERS, 5, 207), (DATA, 5, 4)], "{cut}");
            assert_eq!(out, [0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn windows_are_topped_up_by_what_came() {
        let (mut incoming, mut out, mut data) = (Incoming::default(), Vec::new(), Vec::new());
        frame(DATA, 0, 1, &[0; 16_384], &mut data);
        for _ in 0..TOP_UP / 16_384 {
            assert!(out.is_empty());
            incoming.take(&data, &mut out, |_, _, _| {});
        }
        assert_eq!(out[..HEAD], [0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 0]);
        assert_eq!(out[HEAD..], TOP_UP.to_be_bytes());
    }
}
