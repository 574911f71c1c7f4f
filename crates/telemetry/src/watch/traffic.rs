//! Requests added up by route, upstream and node, for `sluice top`. The surprise: each worker adds to a shard of its own, whose
//! lock nobody else wants but the one who takes the sums every few seconds.
use super::{Passing, Watch};
use foldhash::HashMap;
use serde::Serialize;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Routes, upstreams and nodes that are told apart, each; all others are one row.
const MAX_ROWS: usize = 2048;
const OTHERS: &str = "(others)";
const UNMATCHED: &str = "(no route)";

/// Microseconds in buckets of an eighth of a power of two: 12 % wide at most.
#[derive(Clone)]
struct Latencies([u32; Latencies::BUCKETS]);

impl Latencies {
    /// Up to 2^36 µs, 19 hours; what is longer is in the last.
    const BUCKETS: usize = 34 * 8 + 8;

    fn bucket(micros: u64) -> usize {
        if micros < 8 {
            return micros as usize;
        }
        let power = 63 - micros.leading_zeros() as usize;
        let eighth = (micros >> (power - 3)) as usize & 7;
        ((power - 2) * 8 + eighth).min(Latencies::BUCKETS - 1)
    }

    /// The middle of a bucket.
    fn value(bucket: usize) -> f64 {
        if bucket < 8 {
            return bucket as f64;
        }
        let width = 2_f64.powi(i32::try_from(bucket / 8).unwrap_or(0) - 1);
        (8 + bucket % 8) as f64 * width + width / 2.0
    }

    /// Milliseconds below which this share of the requests took.
    fn quantile(&self, share: f64) -> f64 {
        let all: u64 = self.0.iter().map(|n| u64::from(*n)).sum();
        let wanted = ((all as f64 * share).ceil() as u64).max(1);
        let mut sum = 0;
        for (bucket, n) in self.0.iter().enumerate() {
            sum += u64::from(*n);
            if sum >= wanted {
                return (Latencies::value(bucket) / 10.0).round() / 100.0;
            }
        }
        0.0
    }
}

/// What is added up.
#[derive(Clone)]
struct Sums {
    requests: u64,
    client_errors: u64,
    server_errors: u64,
    bytes: u64,
    latencies: Box<Latencies>,
}

impl Default for Sums {
    fn default() -> Sums {
        let latencies = Box::new(Latencies([0; Latencies::BUCKETS]));
        Sums { requests: 0, client_errors: 0, server_errors: 0, bytes: 0, latencies }
    }
}

impl Sums {
    fn add(&mut self, status: u16, bytes: u64, duration: Duration) {
        self.requests += 1;
        self.bytes += bytes;
        match status {
            400..500 => self.client_errors += 1,
            500.. => self.server_errors += 1,
            _ => {}
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if let Some(n) = self.latencies.0.get_mut(Latencies::bucket(micros)) {
            *n += 1;
        }
    }

    fn join(&mut self, other: &Sums) {
        self.requests += other.requests;
        self.client_errors += other.client_errors;
        self.server_errors += other.server_errors;
        self.bytes += other.bytes;
        self.latencies.0.iter_mut().zip(&other.latencies.0).for_each(|(own, more)| *own += more);
    }

    fn row(&self, name: String, within: Option<String>, seconds: f64) -> Row {
        let rate = |n: u64| (n as f64 / seconds * 100.0).round() / 100.0;
        Row {
            name,
            within,
            requests: self.requests,
            rate: rate(self.requests),
            client_errors: self.client_errors,
            server_errors: self.server_errors,
            bytes_rate: rate(self.bytes),
            p50_ms: self.latencies.quantile(0.5),
            p99_ms: self.latencies.quantile(0.99),
        }
    }
}

#[derive(Default)]
struct Shard {
    total: Sums,
    routes: HashMap<Arc<str>, Sums>,
    upstreams: HashMap<Arc<str>, Sums>,
    nodes: HashMap<(Arc<str>, SocketAddr), Sums>,
}

fn of<K: Eq + Hash>(all: &mut HashMap<K, Sums>, key: K, others: impl FnOnce() -> K) -> &mut Sums {
    let key = if all.len() < MAX_ROWS || all.contains_key(&key) { key } else { others() };
    all.entry(key).or_default()
}

/// One row: a route, an upstream, or a node of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    /// A node's upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
    pub requests: u64,
    /// Requests per second.
    pub rate: f64,
    /// Answers of 400 to 499.
    pub client_errors: u64,
    /// Answers of 500 and above; of a node also tries without an answer.
    pub server_errors: u64,
    pub bytes_rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// The sums of some seconds, busiest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interval {
    pub seconds: f64,
    pub total: Row,
    pub routes: Vec<Row>,
    pub upstreams: Vec<Row>,
    pub nodes: Vec<Row>,
}

/// The sums since they were last taken.
pub struct Traffic {
    shards: Box<[Mutex<Shard>]>,
    since: Mutex<Instant>,
}

impl Traffic {
    pub fn new(workers: u16) -> Traffic {
        let shards = (0..workers.max(1)).map(|_| Mutex::default()).collect();
        Traffic { shards, since: Mutex::new(Instant::now()) }
    }

    /// Takes the sums and begins anew.
    pub fn take(&self) -> Interval {
        let mut all = Shard::default();
        for shard in &self.shards {
            let shard = std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            all.total.join(&shard.total);
            shard.routes.into_iter().for_each(|(key, sums)| all.routes.entry(key).or_default().join(&sums));
            shard.upstreams.into_iter().for_each(|(key, sums)| all.upstreams.entry(key).or_default().join(&sums));
            shard.nodes.into_iter().for_each(|(key, sums)| all.nodes.entry(key).or_default().join(&sums));
        }
        let before = std::mem::replace(&mut *self.since.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        let seconds = before.elapsed().as_secs_f64().max(0.001);
        let node = |(upstream, node): &(Arc<str>, SocketAddr), sums: &Sums| {
            sums.row(node.to_string(), Some(upstream.to_string()), seconds)
        };
        Interval {
            seconds: (seconds * 1000.0).round() / 1000.0,
            total: all.total.row("total".into(), None, seconds),
            routes: sorted(all.routes.iter().map(|(name, sums)| sums.row(name.to_string(), None, seconds))),
            upstreams: sorted(all.upstreams.iter().map(|(name, sums)| sums.row(name.to_string(), None, seconds))),
            nodes: sorted(all.nodes.iter().map(|(key, sums)| node(key, sums))),
        }
    }
}

fn sorted(rows: impl Iterator<Item = Row>) -> Vec<Row> {
    let mut rows: Vec<Row> = rows.collect();
    rows.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
    rows
}

impl Watch for Traffic {
    fn passed(&self, worker: u16, passing: &Passing<'_>) {
        let Some(shard) = self.shards.get(usize::from(worker) % self.shards.len().max(1)) else { return };
        let shard = &mut *shard.lock().unwrap_or_else(PoisonError::into_inner);
        let Passing { status, bytes, duration, .. } = *passing;
        shard.total.add(status, bytes, duration);
        let route = passing.route.unwrap_or(UNMATCHED).into();
        of(&mut shard.routes, route, || OTHERS.into()).add(status, bytes, duration);
        let Some(upstream) = passing.upstream.filter(|_| !passing.attempts.is_empty()) else { return };
        let upstream: Arc<str> = upstream.into();
        of(&mut shard.upstreams, upstream.clone(), || OTHERS.into()).add(status, bytes, duration);
        for tried in passing.attempts {
            let others = || (OTHERS.into(), SocketAddr::from(([0, 0, 0, 0], 0)));
            of(&mut shard.nodes, (upstream.clone(), tried.node), others).add(tried.status, 0, tried.duration);
        }
    }
}
