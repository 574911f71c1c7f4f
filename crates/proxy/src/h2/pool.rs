//! Connections of one worker to upstreams that speak HTTP/2. Each carries many requests at once.
//!
//! The surprise: a connection is never taken out to be used; requests share it until it is full, old, idle for too long or
//! broken, and those under way on it end undisturbed.
use super::gathered::Gathered;
use super::{CONNECTION_WINDOW, SEND_BUFFER, WINDOW};
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

/// Requests at once on a connection, until its peer says how many it takes.
const STREAMS: usize = 100;
/// Connections to one node, beyond which requests wait for a place.
const CONNECTIONS: usize = 32;

struct Held {
    sender: SendRequest<Bytes>,
    active: Arc<AtomicUsize>,
    requests: u64,
    idle_timeout: Duration,
    used: Instant,
}

/// A place for one request on a connection, given back when it goes.
pub(crate) struct Place {
    pub sender: SendRequest<Bytes>,
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
        Place { sender: self.sender.clone(), active: self.active.clone() }
    }

    fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    fn is_alive(&mut self) -> bool {
        !matches!(self.sender.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
    }
}

/// See the file's head.
#[derive(Default)]
pub struct Pool {
    held: HashMap<PoolKey, Vec<Held>>,
    /// Who opens a connection to a node; others wait for it instead of opening their own.
    opening: HashMap<PoolKey, Rc<tokio::sync::Mutex<()>>>,
}

impl Pool {
    pub fn new() -> Pool {
        Pool { held: HashMap::new(), opening: HashMap::new() }
    }

    /// A connection with room for one more request; where all are full and no more may be opened, the least busy one.
    pub fn take(&mut self, key: &PoolKey, settings: &PoolSettings, now: Instant) -> Option<Place> {
        let list = self.held.get_mut(key)?;
        list.retain_mut(|held| (settings.requests == 0 || held.requests < settings.requests) && held.is_alive());
        let full = list.len() >= CONNECTIONS;
        let free = |held: &&mut Held| full || held.active() < held.sender.current_max_send_streams();
        let held = list.iter_mut().filter(free).min_by_key(|held| held.active())?;
        held.used = now;
        Some(held.place())
    }

    /// The right to open a connection.
    pub fn opening(&mut self, key: &PoolKey) -> Rc<tokio::sync::Mutex<()>> {
        self.opening.entry(key.clone()).or_default().clone()
    }

    /// Keeps a new connection, and gives its first place.
    pub fn put(&mut self, key: &PoolKey, sender: SendRequest<Bytes>, settings: &PoolSettings, now: Instant) -> Place {
        let mut held =
            Held { sender, active: Arc::default(), requests: 0, idle_timeout: settings.idle_timeout, used: now };
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
    }
}

/// Opens HTTP/2 on a connection. A task of the worker keeps it moving until nobody needs it.
pub(crate) async fn open(connection: Pooled) -> Result<SendRequest<Bytes>, h2::Error> {
    let mut builder = client::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(STREAMS)
        .enable_push(false);
    let Pooled { stream, open, .. } = connection;
    let io = Gathered::new(Vec::new(), stream);
    let (sender, mut connection) = builder.handshake::<_, Bytes>(io.clone()).await?;
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
    Ok(sender)
}
