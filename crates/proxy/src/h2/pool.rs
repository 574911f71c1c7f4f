//! Connections of one worker to upstreams that speak HTTP/2. Each carries many requests at once.
//!
//! The surprise: a connection is never taken out to be used; requests share it until it is full, old, idle for too long or
//! broken, and those under way on it end undisturbed.
use super::gathered::Gathered;
use crate::settings::Http2Settings;
use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};
use h2::client::{self, SendRequest};
use sluice_upstream::pool::{PoolKey, PoolSettings, Pooled};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How long it is remembered that a node does not agree to HTTP/2.
const REMEMBERED: Duration = Duration::from_secs(60);
/// What all streams of a connection may hold unread: no limit but their own windows. With one, a few clients that do not read would hold
/// up everybody whose requests share the connection.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

struct Held {
    /// Counts up: a newer connection has a larger one.
    number: u64,
    sender: SendRequest<Bytes>,
    active: Arc<AtomicUsize>,
    requests: u64,
    idle_timeout: Duration,
    used: Instant,
}

/// A place for one request on a connection, given back when it goes.
pub(crate) struct Place {
    pub sender: SendRequest<Bytes>,
    /// Its connection's, for [`Pool::take`].
    pub number: u64,
    active: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Held {
    fn place(&mut self) -> Place {
        self.requests += 1;
        self.active.fetch_add(1, Ordering::Relaxed);
        Place { sender: self.sender.clone(), number: self.number, active: self.active.clone() }
    }

    fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    fn is_alive(&mut self) -> bool {
        !matches!(self.sender.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
    }
}

/// See the file's head.
pub struct Pool {
    held: HashMap<PoolKey, Vec<Held>>,
    /// Who opens a connection to a node; others wait for it instead of opening their own.
    opening: HashMap<PoolKey, Rc<tokio::sync::Mutex<()>>>,
    /// Nodes that did not agree to HTTP/2 when last asked.
    old: HashMap<PoolKey, Instant>,
    /// Of the newest connection.
    number: u64,
    /// Connections to one node.
    most: usize,
}

impl Pool {
    pub fn new(settings: &Http2Settings) -> Pool {
        Pool {
            held: HashMap::new(),
            opening: HashMap::new(),
            old: HashMap::new(),
            number: 0,
            most: settings.upstream_connections,
        }
    }

    /// A connection with room for one more request; where all are full and no more may be opened, the least busy one. Only
    /// those that are newer than `after`: one that has failed is not taken again.
    pub fn take(&mut self, key: &PoolKey, settings: &PoolSettings, after: u64, now: Instant) -> Option<Place> {
        let list = self.held.get_mut(key)?;
        list.retain_mut(|held| (settings.requests == 0 || held.requests < settings.requests) && held.is_alive());
        let full = list.len() >= self.most;
        // Where no more may be opened, one that has failed before is better than none.
        let after = if full && !list.iter().any(|held| held.number > after) { 0 } else { after };
        let free =
            |held: &&mut Held| held.number > after && (full || held.active() < held.sender.current_max_send_streams());
        let held = list.iter_mut().filter(free).min_by_key(|held| held.active())?;
        held.used = now;
        Some(held.place())
    }

    /// The right to open a connection.
    pub fn opening(&mut self, key: &PoolKey) -> Rc<tokio::sync::Mutex<()>> {
        self.opening.entry(key.clone()).or_default().clone()
    }

    /// Whether the node is known to speak HTTP/1.1 alone.
    pub fn is_old(&self, key: &PoolKey, now: Instant) -> bool {
        self.old.get(key).is_some_and(|since| now.saturating_duration_since(*since) < REMEMBERED)
    }

    /// Remembers what the node agreed to.
    pub fn set_old(&mut self, key: &PoolKey, old: bool, now: Instant) {
        match old {
            true => drop(self.old.insert(key.clone(), now)),
            false => drop(self.old.remove(key)),
        }
    }

    /// Keeps a new connection, and gives its first place.
    pub fn put(&mut self, key: &PoolKey, sender: SendRequest<Bytes>, settings: &PoolSettings, now: Instant) -> Place {
        self.number += 1;
        let mut held = Held {
            number: self.number,
            sender,
            active: Arc::default(),
            requests: 0,
            idle_timeout: settings.idle_timeout,
            used: now,
        };
        let place = held.place();
        if settings.size > 0 {
            self.held.entry(key.clone()).or_default().push(held);
        }
        place
    }

    /// Closes what has been idle for too long, or is broken.
    pub fn sweep(&mut self, now: Instant) {
        self.held.retain(|_, list| {
            list.retain_mut(|held| {
                held.is_alive() && (held.active() > 0 || now.saturating_duration_since(held.used) < held.idle_timeout)
            });
            !list.is_empty()
        });
        self.opening.retain(|_, lock| Rc::strong_count(lock) > 1);
        self.old.retain(|_, since| now.saturating_duration_since(*since) < REMEMBERED);
    }
}

/// Opens HTTP/2 on a connection. A task of the worker keeps it moving until nobody needs it. `head`: bytes of an answer's head.
/// `hears`: waits until the node has said what it takes, as no tunnel may be asked for before.
pub(crate) async fn open(
    connection: Pooled,
    settings: &Http2Settings,
    head: usize,
    hears: bool,
) -> Result<SendRequest<Bytes>, h2::Error> {
    let mut builder = client::Builder::new();
    builder
        .initial_window_size(settings.window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(settings.send_buffer)
        .initial_max_send_streams(settings.upstream_streams)
        .max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX))
        .enable_push(false);
    let Pooled { stream, open, .. } = connection;
    let io = Gathered::new(Vec::new(), stream);
    let (sender, mut connection) = builder.handshake::<_, Bytes>(io.clone()).await?;
    let ping = hears.then(|| connection.ping_pong()).flatten();
    tokio::task::spawn_local(async move {
        let _open = open;
        let ended = poll_fn(|task| match Pin::new(&mut connection).poll(task) {
            Poll::Pending => match io.poll_send(task) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error.to_string())),
                _ => Poll::Pending,
            },
            Poll::Ready(ended) => Poll::Ready(ended.map_err(|error| error.to_string())),
        });
        if let Err(error) = ended.await {
            tracing::debug!(%error, "a connection to an upstream ended");
        }
    });
    if let Some(mut ping) = ping {
        // Its settings come before its answer to this.
        ping.ping(h2::Ping::opaque()).await?;
    }
    Ok(sender)
}
