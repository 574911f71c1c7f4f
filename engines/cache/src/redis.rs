//! Records in Redis, shared by all gateways. Keys are `PREFIX:ZONE:KEY`; a tag is a set of keys, `PREFIX:ZONE#TAG`.
//!
//! The surprise: everything but a look-up by key runs on the control threads, so that no worker waits for it.
use crate::codec;
use crate::store::{Done, Look, Purge, Store, StoreError, Usage, Wait, now, tags};
use crate::stored::Record;
use sluice_engine_redis::{Redis, RedisError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that may be on their way to Redis.
const PENDING: u64 = 64 << 20;
/// Keys asked for at a time.
const SCAN: &[u8] = b"1000";

/// See the file's head.
#[derive(Debug)]
pub struct RedisStore {
    redis: Redis,
    names: Names,
    control: tokio::runtime::Handle,
    pending: Arc<AtomicU64>,
    max_record: u64,
    cluster: bool,
}

#[derive(Clone, Debug)]
struct Names {
    /// `PREFIX:ZONE`
    zone: String,
}

impl Names {
    fn record(&self, key: &[u8]) -> Vec<u8> {
        [self.zone.as_bytes(), b":", key].concat()
    }
    fn tag(&self, tag: &str) -> Vec<u8> {
        format!("{}#{tag}", self.zone).into_bytes()
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> StoreError {
        StoreError::Away(error.to_string())
    }
}

impl RedisStore {
    pub fn new(
        redis: Redis,
        zone: &str,
        prefix: &str,
        max_record: u64,
        cluster: bool,
        control: tokio::runtime::Handle,
    ) -> RedisStore {
        let names = Names { zone: format!("{prefix}:{zone}") };
        RedisStore { redis, names, control, pending: Arc::default(), max_record, cluster }
    }

    /// Runs on the control threads; the answer comes back.
    fn beside<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Wait<Result<T, StoreError>> {
        let task = self.control.spawn(work);
        Box::pin(async move { task.await.map_err(|_| StoreError::Away("the gateway ends".into()))? })
    }
}

async fn put(
    redis: &Redis,
    names: &Names,
    key: &[u8],
    record: &Record,
    bytes: &[u8],
    keep: u64,
) -> Result<(), StoreError> {
    let (name, keep) = (names.record(key), keep.to_string());
    redis.command(&[b"SET", &name, bytes, b"EX", keep.as_bytes()]).await?;
    for tag in tags(record).iter() {
        let set = names.tag(tag);
        redis.command(&[b"SADD", &set, &name]).await?;
        // A set lives as long as its longest-lived key; `GT` does nothing for a set without an end, hence both.
        redis.command(&[b"EXPIRE", &set, keep.as_bytes(), b"NX"]).await?;
        redis.command(&[b"EXPIRE", &set, keep.as_bytes(), b"GT"]).await?;
    }
    Ok(())
}

/// Escapes what means something in a pattern.
fn escaped(key: &[u8]) -> Vec<u8> {
    let special = |b: &u8| matches!(b, b'*' | b'?' | b'[' | b']' | b'\\' | b'^' | b'-');
    key.iter().flat_map(|b| if special(b) { vec![b'\\', *b] } else { vec![*b] }).collect()
}

async fn unlink(redis: &Redis, names: &[Vec<u8>]) -> Result<u64, StoreError> {
    let mut removed = 0;
    for name in names {
        removed += redis.command(&[b"UNLINK", name]).await?.integer().unwrap_or(0).unsigned_abs();
    }
    Ok(removed)
}

async fn purge(redis: &Redis, names: &Names, purge: &Purge) -> Result<u64, StoreError> {
    let begin = [names.zone.as_bytes(), b":"].concat();
    let pattern = match purge {
        Purge::Tag(tag) => {
            let set = names.tag(tag);
            let members = redis.command(&[b"SMEMBERS", &set]).await?;
            let members: Vec<Vec<u8>> = members.items().iter().filter_map(|m| m.bytes().map(<[u8]>::to_vec)).collect();
            let removed = unlink(redis, &members).await?;
            redis.command(&[b"UNLINK", &set]).await?;
            return Ok(removed);
        }
        Purge::All => [escaped(&begin), b"*".to_vec()].concat(),
        Purge::Prefix(prefix) => [escaped(&begin), escaped(prefix), b"*".to_vec()].concat(),
        Purge::Key(key) => [escaped(&begin), escaped(key), b"*".to_vec()].concat(),
    };
    let (mut cursor, mut removed) = (b"0".to_vec(), 0);
    loop {
        let page = redis.command(&[b"SCAN", &cursor, b"MATCH", &pattern, b"COUNT", SCAN]).await?;
        let [next, found] = page.items() else { return Err(RedisError::malformed().into()) };
        let hit: Vec<Vec<u8>> = found
            .items()
            .iter()
            .filter_map(|name| name.bytes())
            .filter(|name| name.get(begin.len()..).is_some_and(|key| purge.hits(key, std::iter::empty())))
            .map(<[u8]>::to_vec)
            .collect();
        removed += unlink(redis, &hit).await?;
        cursor = next.bytes().unwrap_or(b"0").to_vec();
        if cursor == b"0" {
            return Ok(removed);
        }
    }
}

impl Store for RedisStore {
    fn look(&self, key: &[u8]) -> Look {
        let (redis, name, key) = (self.redis.clone(), self.names.record(key), key.to_vec());
        Look::Later(Box::pin(async move {
            let reply = redis.command(&[b"GET", &name]).await?;
            let Some(bytes) = reply.bytes() else { return Ok(None) };
            // A damaged record is none; the next answer replaces it.
            let head = codec::decode(&bytes.to_vec().into()).ok();
            Ok(head.filter(|head| head.key == key).map(|head| head.record))
        }))
    }

    fn put(&self, key: &[u8], record: Record, keep: u64, done: Done) {
        let Some(bytes) = codec::encode(key, &record) else { return done(Err(StoreError::TooLarge)) };
        let held = bytes.len() as u64;
        if held > self.max_record {
            return done(Err(StoreError::TooLarge));
        }
        if self.pending.fetch_add(held, Ordering::Relaxed) + held > PENDING {
            self.pending.fetch_sub(held, Ordering::Relaxed);
            return done(Err(StoreError::Busy));
        }
        let (redis, names, key, pending) = (self.redis.clone(), self.names.clone(), key.to_vec(), self.pending.clone());
        self.control.spawn(async move {
            let result = put(&redis, &names, &key, &record, &bytes, keep).await;
            pending.fetch_sub(held, Ordering::Relaxed);
            done(result);
        });
    }

    fn remove(&self, key: &[u8]) -> Wait<Result<bool, StoreError>> {
        let (redis, name) = (self.redis.clone(), self.names.record(key));
        self.beside(async move { Ok(redis.command(&[b"UNLINK", &name]).await?.integer() == Some(1)) })
    }

    fn purge(&self, what: Purge) -> Wait<Result<Option<u64>, StoreError>> {
        if self.cluster && !matches!(what, Purge::Tag(_)) {
            return now(Err(StoreError::Away("a Redis cluster can be purged by tag only".into())));
        }
        let (redis, names) = (self.redis.clone(), self.names.clone());
        self.beside(async move { purge(&redis, &names, &what).await.map(Some) })
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }
    fn max_record(&self) -> u64 {
        self.max_record
    }
}

#[cfg(test)]
mod tests;
