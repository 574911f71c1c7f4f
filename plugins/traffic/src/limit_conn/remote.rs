//! `limit-conn`'s counts in Redis: a sorted set per key, with an entry for each request under way whose score is when it is
//! given up. Keys and what they hold are APISIX's.
//!
//! The surprise: the entry is taken out by a task of its own after the request, because the log phase waits for nobody.
//
// Read in apisix/plugins/limit-conn/util.lua.
use crate::redis_fields::{RedisFields, RedisPolicy};
use foldhash::quality::RandomState;
use sluice_engine_redis::{Redis, RedisError, Reply, Script};
use sluice_plugin::{BuildError, Env};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// The number of requests under way with this one, or nothing where there are enough without it.
static INCOMING: Script = Script::new(
    "local now, life = tonumber(ARGV[2]), tonumber(ARGV[3])
     redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
     local running = redis.call('ZCARD', KEYS[1])
     if running >= tonumber(ARGV[1]) then return false end
     redis.call('ZADD', KEYS[1], now + life, ARGV[4])
     redis.call('EXPIRE', KEYS[1], life)
     return running + 1",
);

/// See the file's head.
pub struct Remote {
    redis: Arc<Redis>,
    /// What keys begin with.
    name: Box<[u8]>,
    /// Seconds that a request is counted at most.
    life: u64,
    control: Option<tokio::runtime::Handle>,
}

/// A request that may be counted in Redis; dropping it signs it off.
pub struct RemoteLease {
    redis: Arc<Redis>,
    key: Vec<u8>,
    id: String,
    asked: bool,
    control: Option<tokio::runtime::Handle>,
}

impl Remote {
    pub fn new(fields: &RedisFields, policy: RedisPolicy, name: &str, env: &Env) -> Result<Remote, BuildError> {
        let name = format!("limit_conn:{name}").into_bytes().into();
        Ok(Remote { redis: fields.client(policy, env)?, name, life: fields.key_ttl(), control: env.control.clone() })
    }

    pub fn lease(&self, text: &[u8]) -> RemoteLease {
        let key = [&self.name, text].concat();
        RemoteLease { redis: self.redis.clone(), key, id: id(), asked: false, control: self.control.clone() }
    }

    /// How many are under way with this one; `None` where it is refused. `now` is in seconds.
    pub async fn incoming(&self, lease: &mut RemoteLease, now: u64, most: u64) -> Result<Option<u64>, RedisError> {
        let numbers = [most, now, self.life].map(|n| n.to_string());
        let [most, now, life] = numbers.each_ref().map(String::as_bytes);
        lease.asked = true;
        match self.redis.script(&INCOMING, &[&lease.key], &[most, now, life, lease.id.as_bytes()]).await {
            Ok(Reply::Nil) => {
                lease.asked = false;
                Ok(None)
            }
            Ok(reply) => Ok(Some(reply.integer().and_then(|n| n.try_into().ok()).ok_or_else(RedisError::malformed)?)),
            Err(e) => {
                // After a time-out it may be counted all the same.
                lease.asked = !e.is_known();
                Err(e)
            }
        }
    }
}

impl Drop for RemoteLease {
    fn drop(&mut self) {
        if !self.asked {
            return;
        }
        let (redis, key, id) = (self.redis.clone(), std::mem::take(&mut self.key), std::mem::take(&mut self.id));
        let leave = async move {
            if let Err(e) = redis.command(&[b"ZREM", &key, id.as_bytes()]).await
                && !e.is_known()
            {
                tracing::error!("failed to record the connection leaving request: {e}");
            }
        };
        match (tokio::runtime::Handle::try_current(), &self.control) {
            (Ok(here), _) => drop(here.spawn(leave)),
            (Err(_), Some(control)) => drop(control.spawn(leave)),
            // The gateway ends: the entry's life does too.
            (Err(_), None) => {}
        }
    }
}

/// No two requests of any gateway have the same.
fn id() -> String {
    static GATEWAY: LazyLock<(u64, u64)> = LazyLock::new(|| {
        let random = RandomState::default();
        (random.hash_one(std::process::id()), random.hash_one(std::time::SystemTime::now()))
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{:016x}{:016x}-{:x}", GATEWAY.0, GATEWAY.1, NEXT.fetch_add(1, Ordering::Relaxed))
}
