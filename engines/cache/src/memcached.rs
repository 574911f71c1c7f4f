//! Records in Memcached, by its text protocol. With several servers each key has one of them (the highest random weight), so that
//! one that is away takes only its own keys along.
//!
//! The surprise: Memcached cannot tell what it holds. A purge of a prefix, a tag or all is a line in one small item, the bans,
//! which every look-up reads together with its record; a record older than a ban that hits it is none.
mod bans;
mod connection;
#[cfg(test)]
mod tests;

use crate::codec;
use crate::store::{Done, Look, Purge, Store, StoreError, Usage, Wait, tags};
use crate::stored::Record;
use bans::Bans;
use connection::{Pool, Value};
use md5::{Digest, Md5};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes that may be on their way to Memcached.
const PENDING: u64 = 64 << 20;
/// Longest time that Memcached takes as one; more is a date to it. Seconds.
const MAX_KEEP: u64 = 30 * 86_400 - 1;

/// Where Memcached is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemcachedSettings {
    /// `host:port`, at least one.
    pub servers: Vec<String>,
    /// For connecting and for an answer.
    pub timeout: Duration,
    pub prefix: String,
    /// Bytes of the largest item: Memcached's `-I`.
    pub max_record: u64,
}

#[derive(Debug)]
struct Shared {
    servers: Vec<Pool>,
    /// `PREFIX:ZONE`
    zone: String,
    pending: AtomicU64,
}

/// See the file's head.
#[derive(Debug)]
pub struct MemcachedStore {
    shared: Arc<Shared>,
    control: tokio::runtime::Handle,
    max_record: u64,
}

impl MemcachedStore {
    pub fn new(settings: &MemcachedSettings, zone: &str, control: tokio::runtime::Handle) -> MemcachedStore {
        let servers = settings.servers.iter().map(|server| Pool::new(server, settings.timeout)).collect();
        let zone = format!("{}:{zone}", settings.prefix);
        MemcachedStore {
            shared: Arc::new(Shared { servers, zone, pending: AtomicU64::new(0) }),
            control,
            max_record: settings.max_record,
        }
    }
}

impl Shared {
    /// The sum of a key: Memcached's keys are short. The record tells whose it is.
    fn name(&self, key: &[u8]) -> String {
        let sum: [u8; 16] = Md5::digest(key).into();
        let digits: String = sum.iter().map(|b| format!("{b:02x}")).collect();
        format!("{}:{digits}", self.zone)
    }
    fn bans(&self) -> String {
        format!("{}:bans", self.zone)
    }
    fn server(&self, name: &str) -> Result<&Pool, StoreError> {
        let weight = |pool: &&Pool| crc32fast::hash(format!("{}{name}", pool.address()).as_bytes());
        self.servers.iter().max_by_key(weight).ok_or_else(|| StoreError::Away("no server is named".into()))
    }

    async fn look(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        let (name, bans) = (self.name(key), self.bans());
        let found = self.server(&name)?.get(&[&name, &bans]).await?;
        let of = |name: &str| found.iter().find(|value| value.name == name).map(|value| value.bytes.clone());
        let Some(head) = of(&name).and_then(|bytes| codec::decode(&bytes).ok()).filter(|head| head.key == key) else {
            return Ok(None);
        };
        let made = match &head.record {
            Record::Answer(stored) => stored.freshness.received,
            Record::Vary(vary) => vary.generation >> 20,
        };
        let tags = tags(&head.record);
        let bans = of(&bans).map(|bytes| Bans::read(&bytes)).unwrap_or_default();
        Ok((!bans.hit(made, key, &tags)).then_some(head.record))
    }

    /// Adds a ban on every server, as each is asked for its own keys' bans only.
    async fn ban(&self, purge: &Purge) -> Result<(), StoreError> {
        let name = self.bans();
        for server in &self.servers {
            let mut left = 8;
            loop {
                let found = server.get(&[&name]).await?.into_iter().next();
                let mut bans = found.as_ref().map(|value: &Value| Bans::read(&value.bytes)).unwrap_or_default();
                bans.add(bans::now_ms(), purge.clone());
                if server.replace(&name, found.map(|value| value.unique), &bans.write()).await? {
                    break;
                }
                left -= 1;
                if left == 0 {
                    return Err(StoreError::Busy);
                }
            }
        }
        Ok(())
    }
}

impl Store for MemcachedStore {
    fn look(&self, key: &[u8]) -> Look {
        let (shared, key) = (self.shared.clone(), key.to_vec());
        Look::Later(Box::pin(async move { shared.look(&key).await }))
    }

    fn put(&self, key: &[u8], record: Record, keep: u64, done: Done) {
        let Some(bytes) = codec::encode(key, &record) else { return done(Err(StoreError::TooLarge)) };
        let held = bytes.len() as u64;
        // The item's own head counts too.
        if held + 256 > self.max_record {
            return done(Err(StoreError::TooLarge));
        }
        let shared = self.shared.clone();
        if shared.pending.fetch_add(held, Ordering::Relaxed) + held > PENDING {
            shared.pending.fetch_sub(held, Ordering::Relaxed);
            return done(Err(StoreError::Busy));
        }
        let name = shared.name(key);
        self.control.spawn(async move {
            let result = match shared.server(&name) {
                Ok(server) => server.set(&name, keep.min(MAX_KEEP), &bytes).await,
                Err(error) => Err(error),
            };
            shared.pending.fetch_sub(held, Ordering::Relaxed);
            done(result);
        });
    }

    fn remove(&self, key: &[u8]) -> Wait<Result<bool, StoreError>> {
        let (shared, name) = (self.shared.clone(), self.shared.name(key));
        Box::pin(async move { shared.server(&name)?.delete(&name).await })
    }

    fn purge(&self, purge: Purge) -> Wait<Result<Option<u64>, StoreError>> {
        let shared = self.shared.clone();
        let task = self.control.spawn(async move { shared.ban(&purge).await.map(|()| None) });
        Box::pin(async move { task.await.map_err(|_| StoreError::Away("the gateway ends".into()))? })
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }
    fn max_record(&self) -> u64 {
        self.max_record
    }
}
