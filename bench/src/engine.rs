//! The loop of generator and upstream: one thread, one epoll, polled without ever sleeping.
//!
//! Closed loop (saturation) fires again as soon as an answer is complete. Open loop fires at fixed times and counts latency
//! from the time a request was due, so that a stall of the proxy shows in the percentiles (no coordinated omission).

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{Timespec, epoll};

use crate::client::Client;
use crate::h2::answerer::{self, Answerer};
use crate::h2::{self, Call};
use crate::upstream::{Answers, Connection, accept};
use crate::window::{Moment, Window};

const LISTENER: u64 = 0;
const CLIENT: u64 = 1 << 32;
const UPSTREAM: u64 = 2 << 32;
/// Connections of HTTP/2: of the generator, and to its upstream.
const SHARED: u64 = 4 << 32;
const CALLED: u64 = 8 << 32;
const CALLED_LISTENER: u64 = 16 << 32;
const INDEX: u64 = u32::MAX as u64;

pub struct Engine {
    epoll: OwnedFd,
    listener: TcpListener,
    answers: Answers,
    upstream: Vec<Option<Connection>>,
    /// The upstream for gRPC, where one is wanted.
    calls: Option<(TcpListener, Answerer)>,
    called: Vec<Option<answerer::Connection>>,
    clients: Vec<Client>,
    shared: Vec<h2::client::Client>,
    /// Clients; in HTTP/2 slots, counted through all connections.
    finished: Vec<usize>,
    chunk: Vec<u8>,
}

/// What is measured in one run.
pub struct Load<'a> {
    pub addr: SocketAddr,
    pub tls: Option<&'a Arc<rustls::ClientConfig>>,
    pub request: &'a [u8],
    /// In HTTP/2 instead of `request`, so many at once on a connection.
    pub shared: Option<(&'a Call, usize)>,
    /// Requests at once, each on its own connection but in HTTP/2.
    pub connections: usize,
    /// Requests per second; `None` saturates.
    pub rate: Option<f64>,
    pub seconds: f64,
    pub warm_up: f64,
    /// Processes whose CPU is counted.
    pub pids: &'a [u32],
}

/// The result of one run. Times in microseconds.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    pub rps: f64,
    /// CPU per request.
    pub cpu: f64,
    pub user: f64,
    pub system: f64,
    /// Share of its core that the proxy used.
    pub utilisation: f64,
    pub p50: f64,
    pub p99: f64,
    /// Answers other than 200, and connections that broke.
    pub bad: u64,
}

impl Engine {
    /// The upstream listens on this port of 127.0.0.1.
    pub fn new(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("upstream port {port}"))?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            answers: Answers::new(),
            upstream: Vec::new(),
            calls: None,
            called: Vec::new(),
            clients: Vec::new(),
            shared: Vec::new(),
            finished: Vec::new(),
            chunk: vec![0; 256 * 1024],
        })
    }

    /// Answers calls of gRPC on this port of 127.0.0.1 too, with a message of so many bytes.
    pub fn answer_calls(&mut self, port: u16, length: usize) -> Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("upstream port {port}"))?;
        listener.set_nonblocking(true)?;
        epoll::add(&self.epoll, &listener, epoll::EventData::new_u64(CALLED_LISTENER), epoll::EventFlags::IN)?;
        self.calls = Some((listener, Answerer::new(length)));
        Ok(())
    }

    fn edges() -> epoll::EventFlags {
        epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET | epoll::EventFlags::RDHUP
    }

    /// Opens one client connection; its number.
    pub fn connect(&mut self, addr: SocketAddr, tls: Option<&Arc<rustls::ClientConfig>>) -> Result<usize> {
        let client = Client::connect(addr, tls)?;
        let index = self.clients.len();
        epoll::add(&self.epoll, &client.wire.stream, epoll::EventData::new_u64(CLIENT | index as u64), Self::edges())?;
        self.clients.push(client);
        Ok(index)
    }

    /// Opens one that carries so many requests at once.
    fn connect_shared(
        &mut self,
        addr: SocketAddr,
        tls: Option<&Arc<rustls::ClientConfig>>,
        streams: usize,
    ) -> Result<()> {
        let client = h2::client::Client::connect(addr, tls, streams)?;
        let data = epoll::EventData::new_u64(SHARED | self.shared.len() as u64);
        epoll::add(&self.epoll, &client.wire.stream, data, Self::edges())?;
        self.shared.push(client);
        Ok(())
    }

    /// Closes every client connection.
    pub fn hang_up(&mut self) {
        self.clients.clear();
        self.shared.clear();
        self.finished.clear();
    }

    /// Handles what is ready now; completed clients are in `finished` afterwards.
    fn turn(&mut self, request: &[u8], shared: Option<(&Call, usize)>) -> Result<()> {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 256];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let (ready, _) = epoll::wait(&self.epoll, &mut events, Some(&now))?;
        for event in ready.iter() {
            let token = event.data.u64();
            let index = (token & INDEX) as usize;
            if token & CLIENT != 0 {
                let Some(client) = self.clients.get_mut(index) else { continue };
                if client.dead {
                    continue;
                }
                client.write(request);
                if client.read(&mut self.chunk) {
                    self.finished.push(index);
                }
            } else if token & SHARED != 0 {
                let (Some(client), Some((call, streams))) = (self.shared.get_mut(index), shared) else { continue };
                client.read(&mut self.chunk, call, |slot| self.finished.push(index * streams + slot));
                client.flush();
            } else if token & CALLED != 0 {
                if let Some((_, answerer)) = &self.calls
                    && let Some(slot) = self.called.get_mut(index)
                    && let Some(connection) = slot
                    && !answerer.serve(connection, &mut self.chunk)
                {
                    *slot = None;
                }
            } else if token & CALLED_LISTENER != 0 {
                let Some((listener, answerer)) = &self.calls else { continue };
                while let Some(connection) = answerer.accept(listener) {
                    let index = vacant(&mut self.called);
                    let data = epoll::EventData::new_u64(CALLED | index as u64);
                    epoll::add(&self.epoll, &connection.stream, data, Self::edges())?;
                    if let Some(slot) = self.called.get_mut(index) {
                        *slot = Some(connection);
                    }
                }
            } else if token & UPSTREAM != 0 {
                if let Some(slot) = self.upstream.get_mut(index)
                    && let Some(connection) = slot
                    && !self.answers.serve(connection)
                {
                    *slot = None;
                }
            } else {
                while let Some(connection) = accept(&self.listener) {
                    let index = vacant(&mut self.upstream);
                    let data = epoll::EventData::new_u64(UPSTREAM | index as u64);
                    epoll::add(&self.epoll, &connection.stream, data, Self::edges())?;
                    if let Some(slot) = self.upstream.get_mut(index) {
                        *slot = Some(connection);
                    }
                }
            }
        }
        Ok(())
    }

    /// One request on one connection; its status. An error when it does not come in time or the connection breaks.
    pub fn ask(&mut self, index: usize, request: &[u8], limit: Duration) -> Result<u16> {
        let start = Instant::now();
        self.clients.get_mut(index).context("client")?.fire(request, start);
        loop {
            self.turn(request, None)?;
            if self.finished.contains(&index) {
                self.finished.clear();
                return Ok(self.clients.get(index).map_or(0, |c| c.status));
            }
            ensure!(!self.clients.get(index).is_none_or(|c| c.dead), "the connection broke");
            ensure!(start.elapsed() < limit, "no answer within {limit:?}");
        }
    }

    /// One request on the first connection of HTTP/2; its status.
    fn call(&mut self, load: &Load<'_>) -> Result<u16> {
        let Some((call, _)) = load.shared else { return Ok(0) };
        let start = Instant::now();
        self.shared.first_mut().context("connection")?.fire(0, call, start);
        loop {
            self.flush_shared();
            self.turn(load.request, load.shared)?;
            let first = self.shared.first().context("connection")?;
            if self.finished.contains(&0) {
                self.finished.clear();
                return Ok(first.slots.first().map_or(0, |slot| slot.status));
            }
            ensure!(!first.dead, "the connection broke");
            ensure!(start.elapsed() < Duration::from_secs(5), "no answer in time");
        }
    }

    /// Requests on one connection of HTTP/2, so many in one piece and the next once all of these are answered with 200.
    pub fn batches(&mut self, addr: SocketAddr, call: &Call, batch: usize, requests: usize) -> Result<()> {
        self.hang_up();
        self.connect_shared(addr, None, batch)?;
        for _ in 0..requests.div_ceil(batch) {
            let (start, mut answered) = (Instant::now(), 0);
            let client = self.shared.first_mut().context("connection")?;
            (0..batch).for_each(|slot| client.fire(slot, call, start));
            while answered < batch {
                self.flush_shared();
                self.turn(&[], Some((call, batch)))?;
                answered += std::mem::take(&mut self.finished).len();
                let client = self.shared.first().context("connection")?;
                ensure!(!client.dead, "the connection broke");
                ensure!(start.elapsed() < Duration::from_secs(20), "no answer in time");
            }
            let client = self.shared.first().context("connection")?;
            ensure!(client.slots.iter().all(|slot| slot.status == 200), "answers something else than was expected");
        }
        Ok(())
    }

    fn flush_shared(&mut self) {
        for client in &mut self.shared {
            client.flush();
        }
    }

    /// Sends a request. False where its connection is broken.
    fn fire(&mut self, load: &Load<'_>, index: usize, start: Instant) -> bool {
        match load.shared {
            None => {
                let client = self.clients.get_mut(index).filter(|c| !c.dead);
                client.map(|client| client.fire(load.request, start)).is_some()
            }
            Some((call, streams)) => {
                let client = self.shared.get_mut(index / streams).filter(|c| !c.dead);
                client.map(|client| client.fire(index % streams, call, start)).is_some()
            }
        }
    }

    /// When the last request began there, its status, and whether another can be sent.
    fn ended(&self, load: &Load<'_>, index: usize) -> Option<(Instant, u16, bool)> {
        match load.shared {
            None => self.clients.get(index).map(|c| (c.start, c.status, !c.dead)),
            Some((_, streams)) => {
                let client = self.shared.get(index / streams)?;
                client.slots.get(index % streams).map(|slot| (slot.start, slot.status, !client.dead))
            }
        }
    }

    /// Runs a load and closes its connections.
    pub fn run(&mut self, load: &Load<'_>) -> Result<Sample> {
        self.hang_up();
        if let Some((_, streams)) = load.shared {
            for _ in 0..load.connections.div_ceil(streams.max(1)) {
                self.connect_shared(load.addr, load.tls, streams)?;
            }
            let status = self.call(load)?;
            ensure!(status == 200, "answers something else than was expected");
            let result = self.measure(load);
            self.hang_up();
            return result;
        }
        let first = self.connect(load.addr, load.tls)?;
        // One answer before the clock runs: the proxy has opened its first upstream connection and is known to work.
        let status = self.ask(first, load.request, Duration::from_secs(5))?;
        ensure!(status == 200, "answers {status}");
        for _ in 1..load.connections {
            self.connect(load.addr, load.tls)?;
        }
        let result = self.measure(load);
        self.hang_up();
        result
    }

    fn measure(&mut self, load: &Load<'_>) -> Result<Sample> {
        const BUCKETS: usize = 2_000_000;
        let mut histogram = vec![0u32; BUCKETS];
        let (mut done, mut bad) = (0u64, 0u64);
        let places = self.clients.len() + self.shared.iter().map(|client| client.slots.len()).sum::<usize>();
        let mut idle: VecDeque<usize> = (0..places).collect();
        let mut window = Window::open(load);
        let mut due = Instant::now();
        let step = load.rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
        loop {
            let now = Instant::now();
            match window.look(now)? {
                Moment::Within => {}
                Moment::Over => break,
                Moment::Begins => {
                    (done, bad) = (0, 0);
                    histogram.fill(0);
                }
            }
            while let Some(&index) = idle.front() {
                let start = match step {
                    Some(step) if due <= now => {
                        let start = due;
                        due += step;
                        start
                    }
                    Some(_) => break,
                    None => now,
                };
                idle.pop_front();
                self.fire(load, index, start);
            }
            self.flush_shared();
            self.turn(load.request, load.shared)?;
            let finished = std::mem::take(&mut self.finished);
            let now = Instant::now();
            for &index in &finished {
                let Some((start, status, usable)) = self.ended(load, index) else { continue };
                let micros = now.saturating_duration_since(start).as_micros() as usize;
                if let Some(bucket) = histogram.get_mut(micros.min(BUCKETS - 1)) {
                    *bucket += 1;
                }
                done += 1;
                bad += u64::from(status != 200);
                if usable {
                    idle.push_back(index);
                }
            }
            self.finished = finished;
            self.finished.clear();
        }
        bad += self.clients.iter().filter(|c| c.dead).count() as u64;
        bad += self.shared.iter().filter(|c| c.dead).count() as u64;
        ensure!(done > 0, "no answer in the measured time");
        let (p50, p99) = (percentile(&histogram, done, 0.5), percentile(&histogram, done, 0.99));
        Ok(Sample { p50, p99, bad, ..window.sample(done)? })
    }
}

/// The first vacant place; one is added where there is none.
fn vacant<T>(places: &mut Vec<Option<T>>) -> usize {
    places.iter().position(Option::is_none).unwrap_or_else(|| {
        places.push(None);
        places.len() - 1
    })
}

fn percentile(histogram: &[u32], count: u64, share: f64) -> f64 {
    let wanted = (count as f64 * share).ceil() as u64;
    let mut passed = 0;
    for (micros, n) in histogram.iter().enumerate() {
        passed += u64::from(*n);
        if passed >= wanted {
            return micros as f64;
        }
    }
    histogram.len() as f64
}

#[cfg(test)]
mod tests {
    #[test]
    fn percentiles_are_the_first_bucket_that_covers_the_share() {
        let histogram = [0, 98, 0, 1, 1];
        assert_eq!(super::percentile(&histogram, 100, 0.5), 1.0);
        assert_eq!(super::percentile(&histogram, 100, 0.99), 3.0);
        assert_eq!(super::percentile(&histogram, 100, 1.0), 4.0);
    }
}
