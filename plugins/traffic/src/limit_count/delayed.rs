//! `sync_interval`: requests are counted here and told to Redis later, so that none of them waits for it.
//!
//! A key's first request asks Redis what is left of the window; those after it take from that, and every interval what they
//! took is added on the server, which answers with what all gateways took. The surprise: limits are not exact. Several
//! gateways may together pass more than the limit within an interval. When Redis is away each gateway counts for itself.
//
// Read in apisix/plugins/limit-count/delayed-syncer.lua.
use super::remote::{Remote, Total};
use super::window::Counted;
use crate::counters::{Counters, Full, Key, PINNED};
use sluice_engine_redis::RedisError;
use sluice_plugin::{Clock, Env};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Keys that wait for the next interval; of others the counts are told with a later request (as in APISIX).
const MAX_WAITING: usize = 10_000;

/// What is known of a key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quota {
    /// What Redis said when it was asked last.
    used: u64,
    /// Requests let pass since.
    taken: u64,
    /// When the window ends, milliseconds since the epoch.
    until: u64,
    /// The key waits to be told.
    waiting: bool,
}

/// The counters of one configuration.
pub struct Delayed {
    pub interval: Duration,
    quotas: Arc<Counters<Quota>>,
    remote: Remote,
    clock: Clock,
    waiting: Mutex<Vec<Waiting>>,
    running: AtomicBool,
    control: Option<tokio::runtime::Handle>,
}

struct Waiting {
    key: Key,
    text: Box<[u8]>,
    window: u64,
}

impl Delayed {
    /// The one of this name, made on first use.
    pub fn shared(name: &str, interval: f64, remote: Remote, env: &Env) -> Arc<Delayed> {
        let quotas = Counters::shared(super::NAME, "delayed", env);
        env.shared.get_or_insert(name, || Delayed::new(interval, remote, quotas, env))
    }

    fn new(interval: f64, remote: Remote, quotas: Arc<Counters<Quota>>, env: &Env) -> Delayed {
        Delayed {
            interval: Duration::try_from_secs_f64(interval).unwrap_or(Duration::from_secs(1)),
            quotas,
            remote,
            clock: env.clock.clone(),
            waiting: Mutex::default(),
            running: AtomicBool::new(false),
            control: env.control.clone(),
        }
    }

    pub fn key(&self, text: &[u8]) -> Key {
        self.quotas.key(self.quotas.prefix("delayed"), text)
    }

    /// Counts a request without asking; `None` where Redis has to be asked first.
    pub fn count(self: &Arc<Self>, text: &[u8], count: u64, window: u64) -> Result<Option<Counted>, Full> {
        let (key, now) = (self.key(text), self.clock.millis());
        let (counted, tell) = self.quotas.update(key, now, |entry| {
            let quota = &mut entry.value;
            if entry.end == 0 || quota.until <= now {
                return (None, false);
            }
            let left = count.saturating_sub(quota.used.saturating_add(quota.taken));
            let allowed = left > 0;
            quota.taken += u64::from(allowed);
            entry.end = life(now, window);
            let counted = Counted { allowed, remaining: left.saturating_sub(1), reset: (quota.until - now) / 10 };
            (Some(counted), !std::mem::replace(&mut quota.waiting, true))
        })?;
        if tell && !self.tell_later(Waiting { key, text: text.into(), window }) {
            self.quotas.update(key, now, |entry| entry.value.waiting = false)?;
        }
        Ok(counted)
    }

    /// Tells Redis what was taken of a key, and learns what is left.
    pub async fn ask(&self, text: &[u8], window: u64) -> Result<(), RedisError> {
        self.tell(self.key(text), text, window, false).await
    }

    async fn tell(&self, key: Key, text: &[u8], window: u64, waited: bool) -> Result<(), RedisError> {
        let now = self.clock.millis();
        let taken = self.quotas.update(key, now, |entry| {
            entry.value.waiting &= !waited;
            std::mem::take(&mut entry.value.taken)
        });
        let taken = taken.unwrap_or(0);
        let told = self.remote.add(text, now, taken, window).await;
        let now = self.clock.millis();
        let stored = self.quotas.update(key, now, |entry| match &told {
            Ok(Total { used, left }) => {
                entry.value.used = *used;
                entry.value.until = now.saturating_add((*left).max(1));
                entry.end = life(now, window);
            }
            // Still to be told.
            Err(_) if entry.end != 0 => entry.value.taken = entry.value.taken.saturating_add(taken),
            Err(_) => {}
        });
        if stored.is_err() {
            tracing::error!("failed to keep a limit's quota: {Full}");
        }
        told.map(drop)
    }

    fn tell_later(self: &Arc<Self>, key: Waiting) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            return false;
        }
        waiting.push(key);
        drop(waiting);
        if self.running.swap(true, Ordering::AcqRel) {
            return true;
        }
        let task = self.clone().sync();
        match &self.control {
            Some(control) => drop(control.spawn(task)),
            None => drop(tokio::runtime::Handle::try_current().map(|here| here.spawn(task))),
        }
        true
    }

    /// Tells what waits, every interval, until nothing does.
    async fn sync(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.interval).await;
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            if waiting.is_empty() {
                self.running.store(false, Ordering::Release);
                let still = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
                // Somebody came in between and did not start another task.
                if still || self.running.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
            for Waiting { key, text, window } in waiting {
                match self.tell(key, &text, window, true).await {
                    Err(e) if !e.is_known() => tracing::error!("sync to redis failed: {e}"),
                    _ => {}
                }
            }
        }
    }
}

/// Kept for two windows, as in APISIX.
fn life(now: u64, window: u64) -> u64 {
    now.saturating_add(window.saturating_mul(2)).min(PINNED - 1)
}
