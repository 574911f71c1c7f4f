//! Connections to one Memcached and the few commands of its text protocol that are needed (memcached's doc/protocol.txt).
//!
//! The surprise: threads do not share connections, as a socket belongs to the runtime it was opened on; and after a failure
//! nobody asks for a second.
use crate::store::StoreError;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Threads beyond this number share.
const SLOTS: usize = 64;
/// Idle connections that a thread keeps.
const IDLE: usize = 8;
/// After a failure nobody tries for so long.
const COOL_DOWN: Duration = Duration::from_secs(1);
/// Largest item that is believed.
const MAX_ITEM: usize = 128 << 20;

thread_local! {
    static SLOT: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS
    };
}

type Connection = BufReader<TcpStream>;

/// An item that was found.
#[derive(Debug)]
pub(super) struct Value {
    pub name: String,
    pub bytes: Bytes,
    pub unique: u64,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Pool {
    address: String,
    timeout: Duration,
    slots: Box<[Mutex<Vec<Connection>>]>,
    started: Instant,
    /// Milliseconds after [`Pool::started`] until which nobody tries.
    away_until: AtomicU64,
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "Memcached says something unexpected")
}

impl Pool {
    pub(super) fn new(address: &str, timeout: Duration) -> Pool {
        let slots = (0..SLOTS).map(|_| Mutex::default()).collect();
        Pool { address: address.to_owned(), timeout, slots, started: Instant::now(), away_until: AtomicU64::new(0) }
    }
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn slot(&self) -> MutexGuard<'_, Vec<Connection>> {
        let at = SLOT.with(|slot| *slot);
        self.slots[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a command and reads its answer. One on a connection that turns out to be closed is sent again.
    async fn run<T, F, A>(&self, command: &[u8], answer: A) -> Result<T, StoreError>
    where
        F: Future<Output = io::Result<(T, Connection)>>,
        A: Fn(Connection) -> F,
    {
        let now = self.started.elapsed().as_millis() as u64;
        if now < self.away_until.load(Ordering::Relaxed) {
            return Err(StoreError::Away(format!("Memcached at {} is away", self.address)));
        }
        let once = async |mut connection: Connection| -> io::Result<T> {
            let exchange = async {
                connection.get_mut().write_all(command).await?;
                answer(connection).await
            };
            let (value, connection) = tokio::time::timeout(self.timeout, exchange).await.map_err(io::Error::from)??;
            let mut slot = self.slot();
            if slot.len() < IDLE {
                slot.push(connection);
            }
            Ok(value)
        };
        let idle = self.slot().pop();
        if let Some(connection) = idle
            && let Ok(value) = once(connection).await
        {
            return Ok(value);
        }
        let fresh = async {
            let socket = tokio::time::timeout(self.timeout, TcpStream::connect(&self.address)).await;
            let socket = socket.map_err(io::Error::from)??;
            socket.set_nodelay(true)?;
            once(BufReader::new(socket)).await
        };
        fresh.await.map_err(|error| {
            self.slot().clear();
            self.away_until.store(now + COOL_DOWN.as_millis() as u64, Ordering::Relaxed);
            tracing::warn!(server = %self.address, %error, "Memcached is away");
            StoreError::Away(format!("Memcached at {}: {error}", self.address))
        })
    }

    /// The items among these that are there.
    pub(super) async fn get(&self, names: &[&str]) -> Result<Vec<Value>, StoreError> {
        let command = format!("gets {}\r\n", names.join(" "));
        self.run(command.as_bytes(), |mut connection| async move {
            let mut values = Vec::new();
            loop {
                let line = line(&mut connection).await?;
                if line == "END" {
                    return Ok((values, connection));
                }
                let mut words = line.split(' ');
                let (Some("VALUE"), Some(name), Some(_), Some(length), Some(unique)) =
                    (words.next(), words.next(), words.next(), words.next(), words.next())
                else {
                    return Err(malformed());
                };
                let length: usize = length.parse().map_err(|_| malformed())?;
                if length > MAX_ITEM {
                    return Err(malformed());
                }
                let mut bytes = vec![0; length + 2];
                connection.read_exact(&mut bytes).await?;
                if !bytes.ends_with(b"\r\n") {
                    return Err(malformed());
                }
                bytes.truncate(length);
                let unique = unique.parse().map_err(|_| malformed())?;
                values.push(Value { name: name.to_owned(), bytes: bytes.into(), unique });
            }
        })
        .await
    }

    /// Stores an item for so many seconds.
    pub(super) async fn set(&self, name: &str, keep: u64, bytes: &[u8]) -> Result<(), StoreError> {
        match self.say(&format!("set {name} 0 {keep} {}\r\n", bytes.len()), bytes).await?.as_str() {
            "STORED" => Ok(()),
            line if line.starts_with("SERVER_ERROR object too large") => Err(StoreError::TooLarge),
            line => Err(StoreError::Away(line.to_owned())),
        }
    }

    /// Replaces an item as it was when it was read, or adds one that was not there; false where somebody was faster.
    pub(super) async fn replace(&self, name: &str, unique: Option<u64>, bytes: &[u8]) -> Result<bool, StoreError> {
        let command = match unique {
            Some(unique) => format!("cas {name} 0 0 {} {unique}\r\n", bytes.len()),
            None => format!("add {name} 0 0 {}\r\n", bytes.len()),
        };
        match self.say(&command, bytes).await?.as_str() {
            "STORED" => Ok(true),
            "EXISTS" | "NOT_FOUND" | "NOT_STORED" => Ok(false),
            line => Err(StoreError::Away(line.to_owned())),
        }
    }

    /// Whether there was such an item.
    pub(super) async fn delete(&self, name: &str) -> Result<bool, StoreError> {
        let command = format!("delete {name}\r\n");
        let line = self
            .run(command.as_bytes(), |mut connection| async move { Ok((line(&mut connection).await?, connection)) });
        Ok(line.await? == "DELETED")
    }

    /// Sends a command with a value; gives the line that answers it.
    async fn say(&self, command: &str, bytes: &[u8]) -> Result<String, StoreError> {
        let whole = [command.as_bytes(), bytes, b"\r\n"].concat();
        self.run(&whole, |mut connection| async move { Ok((line(&mut connection).await?, connection)) }).await
    }
}

/// One line without its end; not endlessly long.
async fn line(connection: &mut Connection) -> io::Result<String> {
    let mut line = Vec::new();
    (&mut *connection).take(8192).read_until(b'\n', &mut line).await?;
    let line = line.strip_suffix(b"\r\n").ok_or_else(malformed)?;
    String::from_utf8(line.to_vec()).map_err(|_| malformed())
}
