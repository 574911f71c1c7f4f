//! The constant gRPC upstream: the same answer to every call, whatever it was. In HTTP/2 without TLS, hosted by the generator's
//! loop like the one of HTTP/1.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use super::frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, Incoming, Message};

/// A message of gRPC: not compressed, its length, these bytes.
pub fn message(length: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&(length as u32).to_be_bytes());
    bytes.extend((0..length).map(|i| b'a' + (i % 26) as u8));
    bytes
}

pub struct Answerer {
    answer: Message,
}

pub struct Connection {
    pub stream: TcpStream,
    incoming: Incoming,
    /// Bytes of the preface that are still to come.
    preface: usize,
    out: Vec<u8>,
    sent: usize,
}

impl Answerer {
    /// Answers with a message of this many bytes.
    pub fn new(length: usize) -> Self {
        let mut answer = Message::new();
        // `:status: 200` is whole in the static table.
        let mut head = vec![0x88];
        frames::literal("content-type", "application/grpc", &mut head);
        answer.push(HEADERS, END_HEADERS, &head);
        answer.push(DATA, 0, &message(length));
        let mut trailers = Vec::new();
        frames::literal("grpc-status", "0", &mut trailers);
        answer.push(HEADERS, END_HEADERS | END_STREAM, &trailers);
        Self { answer }
    }

    pub fn accept(&self, listener: &TcpListener) -> Option<Connection> {
        let (stream, _) = listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        stream.set_nodelay(true).ok()?;
        let mut out = Vec::new();
        frames::greeting(true, &mut out);
        Some(Connection { stream, incoming: Incoming::default(), preface: frames::PREFACE.len(), out, sent: 0 })
    }

    /// Reads, answers, and says whether the connection is to be kept.
    pub fn serve(&self, c: &mut Connection, chunk: &mut [u8]) -> bool {
        loop {
            if !flush(c) {
                return false;
            }
            let n = match c.stream.read(chunk) {
                Ok(0) => return false,
                Ok(n) => n,
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            };
            let skip = c.preface.min(n);
            c.preface -= skip;
            let bytes = chunk.get(skip..n).unwrap_or_default();
            c.incoming.take(bytes, &mut c.out, |head, _, out| {
                if matches!(head.kind, HEADERS | DATA) && head.flags & END_STREAM != 0 {
                    self.answer.write(head.stream, out);
                }
            });
            // A short read has emptied the socket: the edge will come again.
            if n < chunk.len() {
                return flush(c);
            }
        }
    }
}

fn flush(c: &mut Connection) -> bool {
    while let Some(rest) = c.out.get(c.sent..).filter(|rest| !rest.is_empty()) {
        match c.stream.write(rest) {
            Ok(n) => c.sent += n,
            Err(e) => return e.kind() == ErrorKind::WouldBlock,
        }
    }
    c.out.clear();
    c.sent = 0;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h2::Call;
    use crate::h2::client::Client;
    use std::time::{Duration, Instant};

    #[test]
    fn calls_are_answered_on_their_streams() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let call = Call::new(&[(":method", "POST"), (":path", "/a")], &message(3), 5 + 7);
        let mut client = Client::connect(addr, None, 3).unwrap();
        let answerer = Answerer::new(7);
        let mut served = answerer.accept(&listener).unwrap();
        let mut chunk = vec![0; 4096];
        let (mut ended, until) = (Vec::new(), Instant::now() + Duration::from_secs(10));
        for slot in 0..3 {
            client.fire(slot, &call, Instant::now());
        }
        while ended.len() < 3 && Instant::now() < until {
            client.flush();
            assert!(answerer.serve(&mut served, &mut chunk));
            client.read(&mut chunk, &call, |slot| ended.push(slot));
        }
        assert_eq!(ended, [0, 1, 2]);
        assert!(client.slots.iter().all(|slot| slot.status == 200) && !client.dead);
        let other = Call { answer: 1, ..Call::new(&[(":method", "GET")], &[], 0) };
        client.fire(1, &other, Instant::now());
        client.flush();
        while ended.len() < 4 && Instant::now() < until {
            assert!(answerer.serve(&mut served, &mut chunk));
            client.read(&mut chunk, &other, |slot| ended.push(slot));
        }
        assert_eq!(client.slots.iter().map(|slot| slot.status).collect::<Vec<_>>(), [200, 0, 200]);
    }
}
