//! The open loop: requests are due at fixed times whatever the proxy does, latency counts from the time a request was due.
//! No request waits for another: where all connections are busy, one more is opened.
//!
//! The surprise: a kept connection that the proxy closes before any byte of the answer makes the request go again on a new
//! one, once, as every HTTP client does (RFC 9112, section 9.3.1). These are counted apart.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::{Timespec, epoll};

use crate::client::Client;

/// After this long a client gives up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at most; what finds none is an error.
const CONNECTIONS: usize = 8192;
const REQUEST: &[u8] = b"GET /work HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: chaos\r\nAccept: */*\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// 200 with the whole body.
    Good,
    Status(u16),
    /// The connection ended in the middle of the answer, or before it.
    Broken,
    Refused,
    /// Nothing within [`PATIENCE`].
    Timeout,
}

impl Outcome {
    pub fn name(self) -> String {
        match self {
            Outcome::Good => "200".to_owned(),
            Outcome::Status(status) => status.to_string(),
            Outcome::Broken => "broken off".to_owned(),
            Outcome::Refused => "refused".to_owned(),
            Outcome::Timeout => "timeout".to_owned(),
        }
    }
}

/// One request: when it was due after the begin, how long it took from there.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    pub due: Duration,
    pub took: Duration,
    pub outcome: Outcome,
    /// Sent again because a kept connection was closed.
    pub resent: bool,
}

/// A request under way.
#[derive(Clone, Copy)]
struct Flight {
    due: Instant,
    resent: bool,
    /// On a connection that has served before.
    kept: bool,
}

struct Slot {
    client: Client,
    flight: Option<Flight>,
}

pub struct Load {
    addr: SocketAddr,
    epoll: OwnedFd,
    slots: Vec<Option<Slot>>,
    idle: Vec<usize>,
    vacant: Vec<usize>,
    records: Vec<Record>,
    begin: Instant,
    chunk: Vec<u8>,
}

impl Load {
    pub fn new(addr: SocketAddr, begin: Instant) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (slots, idle, vacant, records) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Self { addr, epoll, slots, idle, vacant, records, begin, chunk: vec![0; 64 * 1024] })
    }

    /// Sends `rate` requests a second for `length` and waits for the answers of the last ones.
    pub fn run(mut self, rate: f64, length: Duration) -> Result<Vec<Record>> {
        let total = (rate * length.as_secs_f64()) as u64;
        let mut issued = 0;
        let mut looked = self.begin;
        loop {
            let now = Instant::now();
            let mut due = self.begin + Duration::from_secs_f64(issued as f64 / rate);
            while issued < total && due <= now {
                self.issue(Flight { due, resent: false, kept: false });
                issued += 1;
                due = self.begin + Duration::from_secs_f64(issued as f64 / rate);
            }
            if now.duration_since(looked) > Duration::from_millis(50) {
                looked = now;
                self.give_up(now);
            }
            if issued == total && self.records.len() as u64 >= total {
                return Ok(self.records);
            }
            let pause = if issued < total { due.saturating_duration_since(Instant::now()) } else { PATIENCE };
            self.turn(pause.min(Duration::from_millis(50)))?;
        }
    }

    fn record(&mut self, flight: Flight, outcome: Outcome) {
        let due = flight.due.duration_since(self.begin);
        self.records.push(Record { due, took: flight.due.elapsed(), outcome, resent: flight.resent });
    }

    /// Sends a request on an idle connection or a new one.
    fn issue(&mut self, mut flight: Flight) {
        let index = loop {
            // A request that goes again goes on a new connection.
            let idle = if flight.resent { None } else { self.idle.pop() };
            let Some(index) = idle else { break None };
            if self.slots.get(index).is_some_and(Option::is_some) {
                break Some(index);
            }
        };
        flight.kept = index.is_some();
        let index = match index {
            Some(index) => index,
            None => match self.open() {
                Some(index) => index,
                None => return self.record(flight, Outcome::Refused),
            },
        };
        if let Some(Some(slot)) = self.slots.get_mut(index) {
            slot.flight = Some(flight);
            slot.client.fire(REQUEST, flight.due);
            if slot.client.dead {
                self.broke(index);
            }
        }
    }

    fn open(&mut self) -> Option<usize> {
        if self.slots.len() - self.vacant.len() >= CONNECTIONS {
            return None;
        }
        let client = Client::connect(self.addr, None).ok()?;
        let index = self.vacant.pop().unwrap_or(self.slots.len());
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET | epoll::EventFlags::RDHUP;
        epoll::add(&self.epoll, &client.wire.stream, epoll::EventData::new_u64(index as u64), flags).ok()?;
        let slot = Some(Slot { client, flight: None });
        match self.slots.get_mut(index) {
            Some(place) => *place = slot,
            None => self.slots.push(slot),
        }
        Some(index)
    }

    fn close(&mut self, index: usize) -> Option<Slot> {
        let slot = self.slots.get_mut(index)?.take()?;
        self.idle.retain(|idle| *idle != index);
        self.vacant.push(index);
        Some(slot)
    }

    /// A connection ended: what was under way on it goes again or has failed.
    fn broke(&mut self, index: usize) {
        let Some(slot) = self.close(index) else { return };
        let Some(flight) = slot.flight else { return };
        match slot.client.answered() {
            false if flight.kept && !flight.resent => self.issue(Flight { resent: true, ..flight }),
            // An error page without a length ends with its connection.
            true if slot.client.status > 299 => self.record(flight, Outcome::Status(slot.client.status)),
            _ => self.record(flight, Outcome::Broken),
        }
    }

    fn give_up(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            let late = |slot: &Slot| slot.flight.is_some_and(|flight| now.duration_since(flight.due) > PATIENCE);
            if self.slots.get(index).and_then(Option::as_ref).is_some_and(late)
                && let Some(flight) = self.close(index).and_then(|slot| slot.flight)
            {
                self.record(flight, Outcome::Timeout);
            }
        }
    }

    fn turn(&mut self, pause: Duration) -> Result<()> {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 256];
        let pause = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
        let end = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        let ready: Vec<(usize, bool)> = match epoll::wait(&self.epoll, &mut events, Some(&pause)) {
            Ok((ready, _)) => ready.iter().map(|e| (e.data.u64() as usize, { e.flags }.intersects(end))).collect(),
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        for (index, ended) in ready {
            let Some(Some(slot)) = self.slots.get_mut(index) else { continue };
            slot.client.write(REQUEST);
            let mut complete = slot.client.read(&mut self.chunk);
            // A short read leaves an end that came with the last bytes unseen, and its edge will not come again.
            if ended && !slot.client.dead {
                complete |= slot.client.read(&mut self.chunk);
            }
            if complete && let Some(flight) = slot.flight.take() {
                let status = slot.client.status;
                let dead = slot.client.dead || slot.client.closes();
                self.record(flight, if status == 200 { Outcome::Good } else { Outcome::Status(status) });
                if dead {
                    self.close(index);
                } else {
                    self.idle.push(index);
                }
            } else if slot.client.dead {
                self.broke(index);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Serves connections one after another with these bytes per request, closing after each list.
    fn server(script: Vec<Vec<&'static str>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for answers in script {
                let (mut stream, _) = listener.accept().unwrap();
                for answer in answers {
                    let mut chunk = [0; 4096];
                    if stream.read(&mut chunk).unwrap_or(0) == 0 {
                        break;
                    }
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        addr
    }

    fn outcomes(script: Vec<Vec<&'static str>>, requests: u64) -> Vec<(Outcome, bool)> {
        let load = Load::new(server(script), Instant::now()).unwrap();
        let records = load.run(20.0, Duration::from_millis(requests * 50)).unwrap();
        records.iter().map(|record| (record.outcome, record.resent)).collect()
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    #[test]
    fn broken_answers_are_errors_and_closed_kept_connections_are_not() {
        assert_eq!(
            outcomes(vec![vec!["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]], 1),
            [(Outcome::Broken, false)]
        );
        assert_eq!(outcomes(vec![vec![""]], 1), [(Outcome::Broken, false)]);
        let bad = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(outcomes(vec![vec![OK, bad]], 2), [(Outcome::Good, false), (Outcome::Status(502), false)]);
        // A connection that says it ends is not used again.
        let last = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(outcomes(vec![vec![last, ""], vec![OK]], 2), [(Outcome::Good, false), (Outcome::Good, false)]);
        // The second request meets a connection that closes without a byte.
        assert_eq!(outcomes(vec![vec![OK, ""], vec![OK]], 2), [(Outcome::Good, false), (Outcome::Good, true)]);
        assert_eq!(outcomes(vec![vec![OK, ""], vec![""]], 2), [(Outcome::Good, false), (Outcome::Broken, true)]);
    }

    #[test]
    fn a_stall_counts_for_every_request_that_was_due_in_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let mut chunk = [0; 4096];
                    while stream.read(&mut chunk).unwrap_or(0) > 0 {
                        stream.write_all(OK.as_bytes()).unwrap();
                    }
                });
            }
        });
        let records = Load::new(addr, Instant::now()).unwrap().run(50.0, Duration::from_millis(200)).unwrap();
        assert_eq!(records.len(), 10);
        for record in records {
            assert_eq!(record.outcome, Outcome::Good);
            assert!(record.due + record.took >= Duration::from_millis(290), "{record:?}");
        }
    }
}
