//! Watching requests as they end: what `sluice tail` follows and `sluice top` adds up. The surprise: nothing is kept for those
//! who might come; a request that begins while nobody watches is not seen.
//!
//! What it guarantees: a watcher never delays a request. A tail that is slower than the requests it wants loses them and is
//! told how many; traffic is added up in a place of each worker's own, for a bounded number of routes and nodes.
mod filter;
mod traffic;

pub use filter::{Filter, FilterError};
pub use traffic::{Interval, Row, Traffic};

use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc;

/// A request that has ended, as watchers see it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Passing<'a> {
    /// Milliseconds since the epoch, of the request's end.
    pub time: u64,
    pub client: &'a str,
    pub method: &'a str,
    pub host: &'a str,
    /// Path and query as the client sent them.
    pub target: &'a str,
    pub status: u16,
    /// Milliseconds from the head to the last byte.
    #[serde(serialize_with = "millis")]
    pub duration: Duration,
    /// Bytes to the client, head included.
    pub bytes: u64,
    /// Who made the response: `upstream`, `apisix` (a plugin) or `nginx` (the gateway in place of an upstream).
    pub source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<&'a str>,
    /// As the Control API names it without its prefix: `upstreams/1`, `routes/1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Tried]>::is_empty")]
    pub attempts: &'a [Tried],
}

/// A try of a request on a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tried {
    pub node: std::net::SocketAddr,
    pub status: u16,
    #[serde(serialize_with = "millis")]
    pub duration: Duration,
}

fn millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e3)
}

/// Somebody who looks at requests.
pub trait Watch: Send + Sync {
    /// A request has ended on this worker. Must not block.
    fn passed(&self, worker: u16, passing: &Passing<'_>);
}

/// Lines for one `sluice tail`.
pub struct Tail {
    filter: Filter,
    lines: mpsc::Sender<Vec<u8>>,
    dropped: AtomicU64,
}

impl Tail {
    /// `waiting` lines may wait; more are dropped.
    pub fn new(filter: Filter, waiting: usize) -> (Arc<Tail>, mpsc::Receiver<Vec<u8>>) {
        let (lines, receiver) = mpsc::channel(waiting.max(1));
        (Arc::new(Tail { filter, lines, dropped: AtomicU64::new(0) }), receiver)
    }

    /// How many lines were dropped since this was asked last.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Relaxed)
    }
}

impl Watch for Tail {
    fn passed(&self, _worker: u16, passing: &Passing<'_>) {
        if !self.filter.wants(passing) {
            return;
        }
        // Room is asked for first, so that a slow reader does not cost the text.
        let Ok(place) = self.lines.try_reserve() else {
            self.dropped.fetch_add(1, Relaxed);
            return;
        };
        let mut line = serde_json::to_vec(passing).unwrap_or_default();
        line.push(b'\n');
        place.send(line);
    }
}

#[cfg(test)]
mod tests;
