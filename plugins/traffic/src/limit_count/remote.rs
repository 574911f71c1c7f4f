//! `limit-count`'s counters in Redis. Keys and what they hold are APISIX's, so that gateways of both kinds that share a group
//! count together; the decision is one script on the server, so that no two gateways pass the same last request.
//
// Read in apisix/plugins/limit-count/{limit-count-redis,util}.lua and sliding-window/.
use super::window::{Counted, slid};
use crate::redis_fields::{RedisFields, RedisPolicy};
use sluice_engine_redis::{Redis, RedisError, Reply, Script};
use sluice_plugin::{BuildError, Env};
use std::sync::Arc;

/// Adds to a counter that lives for a window. It also gives a life to a counter that has none.
static FIXED: Script = Script::new(
    "local used = redis.call('INCRBY', KEYS[1], ARGV[1])
     local left = redis.call('PTTL', KEYS[1])
     if left < 0 then
       left = tonumber(ARGV[2])
       redis.call('PEXPIRE', KEYS[1], left)
     end
     return {used, left}",
);

/// Adds one to this window's counter where that and the share of the last window are below the limit. The last window's
/// count is read from the second key, or given where a cluster allows one key only.
static SLIDING: Script = Script::new(
    "local limit, window, left = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
     local last = ARGV[4]
     if KEYS[2] then last = redis.call('GET', KEYS[2]) end
     last = math.min(tonumber(last or 0) or 0, limit)
     local now = tonumber(redis.call('GET', KEYS[1]) or 0)
     if now >= limit or now + last / window * left >= limit then
       return {0, now, last}
     end
     now = redis.call('INCR', KEYS[1])
     if now == 1 then redis.call('PEXPIRE', KEYS[1], 2 * window) end
     return {1, now, last}",
);

/// See the file's head.
#[derive(Clone)]
pub struct Remote {
    redis: Arc<Redis>,
    sliding: bool,
    one_key: bool,
}

/// What the server holds after an unconditional addition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Total {
    /// Requests counted, the share of a sliding window's last one included.
    pub used: u64,
    /// Milliseconds until the window ends.
    pub left: u64,
}

impl Remote {
    pub fn new(fields: &RedisFields, policy: RedisPolicy, sliding: bool, env: &Env) -> Result<Remote, BuildError> {
        Ok(Remote { redis: fields.client(policy, env)?, sliding, one_key: policy == RedisPolicy::Cluster })
    }

    /// Counts a request. `now` and `window` are milliseconds.
    pub async fn count(&self, key: &[u8], now: u64, count: u64, window: u64) -> Result<Counted, RedisError> {
        match self.sliding {
            true => self.slide(key, now, count, window).await,
            false => {
                let Total { used, left } = self.add(key, now, 1, window).await?;
                Ok(Counted { allowed: used <= count, remaining: count.saturating_sub(used), reset: left / 10 })
            }
        }
    }

    /// Adds requests that were let pass already.
    pub async fn add(&self, key: &[u8], now: u64, requests: u64, window: u64) -> Result<Total, RedisError> {
        let mut digits = (itoa::Buffer::new(), itoa::Buffer::new());
        let requests = digits.0.format(requests).as_bytes();
        if !self.sliding {
            let arguments = [requests, digits.1.format(window).as_bytes()];
            return total(&self.redis.script(&FIXED, &[&fixed_key(key)], &arguments).await?);
        }
        let (current, last) = (sliding_key(key, now / window), sliding_key(key, (now / window).saturating_sub(1)));
        let life = window.saturating_mul(2);
        let arguments = [requests, digits.1.format(life).as_bytes()];
        let Total { used, .. } = total(&self.redis.script(&FIXED, &[&current], &arguments).await?)?;
        // What was added must not be added again: an unknown last window counts as none.
        let last = self.redis.command(&[b"GET", &last]).await.ok().and_then(|reply| reply.integer()).unwrap_or(0);
        let left = window - now % window;
        let share = last.max(0) as f64 / window as f64 * left as f64;
        Ok(Total { used: used.saturating_add(share.ceil() as u64), left })
    }

    async fn slide(&self, key: &[u8], now: u64, count: u64, window: u64) -> Result<Counted, RedisError> {
        let left = window - now % window;
        let (current, last) = (sliding_key(key, now / window), sliding_key(key, (now / window).saturating_sub(1)));
        let [count_text, window_text, left_text] = [count, window, left].map(|n| n.to_string());
        let limits = [count_text.as_bytes(), window_text.as_bytes(), left_text.as_bytes()];
        let reply = if self.one_key {
            let before = match self.redis.command(&[b"GET", &last]).await? {
                Reply::Bytes(text) => text,
                _ => b"0".to_vec(),
            };
            let [a, b, c] = limits;
            self.redis.script(&SLIDING, &[&current], &[a, b, c, &before]).await?
        } else {
            self.redis.script(&SLIDING, &[&current, &last], &limits).await?
        };
        match reply.items() {
            [allowed, now, last] => {
                let numbers = allowed.integer().zip(now.integer()).zip(last.integer());
                let ((allowed, now), last) = numbers.ok_or_else(RedisError::malformed)?;
                Ok(slid(allowed == 1, unsigned(now), unsigned(last), left, count, window))
            }
            _ => Err(RedisError::malformed()),
        }
    }
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn total(reply: &Reply) -> Result<Total, RedisError> {
    match reply.items() {
        [used, left] => {
            let (used, left) = used.integer().zip(left.integer()).ok_or_else(RedisError::malformed)?;
            Ok(Total { used: unsigned(used), left: unsigned(left) })
        }
        _ => Err(RedisError::malformed()),
    }
}

fn fixed_key(key: &[u8]) -> Vec<u8> {
    [b"plugin-limit-count:v1:", key].concat()
}

fn sliding_key(key: &[u8], window: u64) -> Vec<u8> {
    let window = window.to_string();
    [b"plugin-limit-count:", key, b".", window.as_bytes(), b".counter"].concat()
}
