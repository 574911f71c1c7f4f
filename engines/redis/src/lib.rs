//! The Redis client that plugins share: one server, a cluster, or a master that sentinels name, by the crate `redis`.
//!
//! Each thread has one multiplexed connection of its own, made on first use, so a request waits for no other thread. The
//! surprise: a breaker stands before it. When Redis is away the first requests learn it by their own time-out; after that
//! all get the answer at once, and one request per cool-down tries again.
mod breaker;
mod connect;
mod error;
mod reply;
mod script;
mod settings;

pub use error::RedisError;
pub use reply::Reply;
pub use script::Script;
pub use settings::{Role, Servers, Settings, Tls};

use breaker::Breaker;
use connect::Connection;
use error::Kind;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// Threads beyond this number share connections.
const SLOTS: usize = 64;

/// A client of one Redis. Cloning shares it; the connections go with the last clone.
#[derive(Clone)]
pub struct Redis(Arc<Client>);

struct Client {
    settings: Settings,
    breaker: Breaker,
    /// One per thread.
    slots: Box<[Mutex<Slot>]>,
    /// Numbers connections, so that only the one that failed is given up.
    made: AtomicU64,
}

enum Slot {
    Empty,
    Connecting(Outcome),
    Ready(Live),
}

/// The end of an attempt to connect; all who wait for it share it.
type Outcome = watch::Receiver<Option<Result<Live, RedisError>>>;

#[derive(Clone)]
struct Live {
    connection: Connection,
    number: u64,
    used: Instant,
}

thread_local! {
    static SLOT: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS
    };
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(&self.0.settings.servers).finish()
    }
}

impl Redis {
    /// Connects to nothing yet.
    pub fn new(settings: Settings) -> Redis {
        let slots = (0..SLOTS).map(|_| Mutex::new(Slot::Empty)).collect();
        let breaker = Breaker::new(&settings);
        Redis(Arc::new(Client { settings, breaker, slots, made: AtomicU64::new(0) }))
    }

    /// Runs a command: its name, then its arguments. It is repeated once where a connection turns out to be closed that had
    /// served before.
    pub async fn command(&self, words: &[&[u8]]) -> Result<Reply, RedisError> {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        self.run(&command).await
    }

    /// Runs a script on these keys, which a cluster wants in one slot.
    pub async fn script(&self, script: &Script, keys: &[&[u8]], arguments: &[&[u8]]) -> Result<Reply, RedisError> {
        match self.run(&script.by_hash(keys, arguments)).await {
            Err(e) if e.kind() == Kind::UnknownScript => self.run(&script.whole(keys, arguments)).await,
            other => other,
        }
    }

    async fn run(&self, command: &redis::Cmd) -> Result<Reply, RedisError> {
        self.0.breaker.admit()?;
        let result = match self.once(command).await {
            Err((e, true)) if e.kind() == Kind::Closed => self.once(command).await,
            other => other,
        };
        match &result {
            Err((e, _)) if e.kind() != Kind::Server && e.kind() != Kind::UnknownScript => {
                self.0.breaker.failed(e, &self.0.settings.servers);
            }
            _ => self.0.breaker.succeeded(&self.0.settings.servers),
        }
        result.map_err(|(e, _)| e)
    }

    /// The error comes with whether the connection had served before.
    async fn once(&self, command: &redis::Cmd) -> Result<Reply, (RedisError, bool)> {
        let (mut live, reused) = Box::pin(self.live()).await.map_err(|e| (e, false))?;
        match live.connection.send(command).await {
            Ok(value) => Ok(Reply::from(value)),
            Err(e) => {
                let e = RedisError::from(e);
                if e.kind() != Kind::Server && e.kind() != Kind::UnknownScript {
                    self.give_up(live.number);
                }
                Err((e, reused))
            }
        }
    }

    /// This thread's connection, and whether it has served before.
    async fn live(&self) -> Result<(Live, bool), RedisError> {
        let mut outcome = {
            let mut slot = self.slot();
            match &mut *slot {
                Slot::Ready(live) if live.used.elapsed() < self.0.settings.idle => {
                    live.used = Instant::now();
                    return Ok((live.clone(), true));
                }
                // Closed and still nothing: its runtime has ended.
                Slot::Connecting(outcome) if outcome.has_changed().is_ok() || outcome.borrow().is_some() => {
                    outcome.clone()
                }
                _ => {
                    let (tell, outcome) = watch::channel(None);
                    *slot = Slot::Connecting(outcome.clone());
                    // A task of its own: who waits for it may give up, and others wait too.
                    tokio::spawn(self.clone().connect(SLOT.with(|s| *s), tell));
                    outcome
                }
            }
        };
        match outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Ok(live))) => Ok((live.clone(), false)),
            Ok(Some(Err(e))) => Err(e.clone()),
            _ => Err(RedisError::closed()),
        }
    }

    async fn connect(self, slot: usize, tell: watch::Sender<Option<Result<Live, RedisError>>>) {
        let result = Connection::open(&self.0.settings).await.map(|connection| Live {
            connection,
            number: self.0.made.fetch_add(1, Ordering::Relaxed),
            used: Instant::now(),
        });
        if let Some(slot) = self.0.slots.get(slot) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = match &result {
                Ok(live) => Slot::Ready(live.clone()),
                Err(_) => Slot::Empty,
            };
        }
        let _ = tell.send(Some(result));
    }

    fn give_up(&self, number: u64) {
        let mut slot = self.slot();
        if matches!(&*slot, Slot::Ready(live) if live.number == number) {
            *slot = Slot::Empty;
        }
    }

    #[allow(clippy::indexing_slicing, reason = "the index is taken modulo the length")]
    fn slot(&self) -> MutexGuard<'_, Slot> {
        SLOT.with(|s| self.0.slots[*s].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
