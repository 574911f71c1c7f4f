//! One HTTP/2 connection of the generator: several requests at once, each in a slot.
//!
//! The surprise: of an answer's fields only the first is looked at, which is `:status`; whether the answer is whole is told by its
//! length and the end of its stream.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;

use super::frames::{self, Call, Incoming};
use crate::wire::Wire;

/// `:status: 200` in the static table.
const STATUS_200: u8 = 0x88;

/// A request under way, or the last one.
#[derive(Clone, Copy)]
pub struct Slot {
    /// 0: none is under way.
    stream: u32,
    pub start: Instant,
    received: usize,
    /// 200, or 0 for anything else.
    pub status: u16,
}

pub struct Client {
    pub wire: Wire,
    incoming: Incoming,
    out: Vec<u8>,
    sent: usize,
    next: u32,
    pub slots: Vec<Slot>,
    pub dead: bool,
}

impl Client {
    pub fn connect(addr: SocketAddr, tls: Option<&Arc<rustls::ClientConfig>>, streams: usize) -> Result<Self> {
        let wire = Wire::connect(addr, tls)?;
        let mut out = frames::PREFACE.to_vec();
        frames::greeting(false, &mut out);
        let slots = vec![Slot { stream: 0, start: Instant::now(), received: 0, status: 0 }; streams];
        Ok(Self { wire, incoming: Incoming::default(), out, sent: 0, next: 1, slots, dead: false })
    }

    /// Puts a request behind what is to be sent; [`Client::flush`] sends it.
    pub fn fire(&mut self, slot: usize, call: &Call, start: Instant) {
        let Some(slot) = self.slots.get_mut(slot) else { return };
        *slot = Slot { stream: self.next, start, received: 0, status: 0 };
        call.message.write(self.next, &mut self.out);
        self.next += 2;
    }

    /// Sends as far as the socket takes it.
    pub fn flush(&mut self) {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.wire.write(rest) {
                Ok(n) if n > 0 => self.sent += n,
                Err(e) if e.kind() != ErrorKind::WouldBlock => self.dead = true,
                _ => {}
            }
            self.dead |= self.wire.flush().is_err();
            if self.dead || self.wire.tls.as_ref().is_some_and(|tls| tls.wants_write()) {
                return;
            }
        }
        self.dead |= self.wire.flush().is_err();
        self.out.clear();
        self.sent = 0;
    }

    /// Reads until the socket is empty, and hands over each slot whose answer has ended.
    pub fn read(&mut self, chunk: &mut [u8], call: &Call, mut ended: impl FnMut(usize)) {
        loop {
            let n = match self.wire.read(chunk) {
                Ok(0) => {
                    self.dead = true;
                    return;
                }
                Ok(n) => n,
                Err(e) => {
                    self.dead |= e.kind() != ErrorKind::WouldBlock;
                    return;
                }
            };
            let (slots, dead) = (&mut self.slots, &mut self.dead);
            self.incoming.take(chunk.get(..n).unwrap_or_default(), &mut self.out, |head, payload, _| {
                if head.kind == frames::GOAWAY {
                    *dead = true;
                }
                if !matches!(head.kind, frames::DATA | frames::HEADERS | frames::RST_STREAM) {
                    return;
                }
                let Some(index) = slots.iter().position(|slot| slot.stream == head.stream && head.stream != 0) else {
                    return;
                };
                let Some(slot) = slots.get_mut(index) else { return };
                match head.kind {
                    frames::DATA => slot.received += payload.len(),
                    frames::HEADERS if slot.received == 0 => {
                        // An update of the table's size may stand before it (RFC 7541 section 6.3).
                        let block = frames::block(head.flags, payload);
                        let first = block.iter().find(|byte| **byte & 0xe0 != 0x20);
                        slot.status = if first == Some(&STATUS_200) { 200 } else { 0 };
                    }
                    frames::HEADERS => {}
                    _ => slot.received = usize::MAX,
                }
                if head.kind == frames::RST_STREAM || head.flags & frames::END_STREAM != 0 {
                    slot.stream = 0;
                    if slot.received != call.answer {
                        slot.status = 0;
                    }
                    ended(index);
                }
            });
            if self.dead || (self.wire.tls.is_none() && n < chunk.len()) {
                return;
            }
        }
    }
}
