//! Keeps requests from waiting for a Redis that is known to be away. Closed, it costs one load.
//!
//! After some failures in a row it is open for a cool-down and hands out the last error; then one request is let through,
//! and the rest still gets the error until that one has an answer.
use crate::error::RedisError;
use crate::settings::{Servers, Settings};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// See the file's head.
pub struct Breaker {
    begin: Instant,
    failures: AtomicU32,
    /// Milliseconds after `begin` until which it is open; 0 when closed.
    until: AtomicU64,
    last: Mutex<Option<RedisError>>,
    most: u32,
    cool_down: Duration,
    /// How long the one that tries may take; then another may.
    patience: Duration,
}

impl Breaker {
    pub fn new(settings: &Settings) -> Breaker {
        let factor = if matches!(settings.servers, Servers::Cluster(_)) { 4 } else { 1 };
        Breaker {
            begin: Instant::now(),
            failures: AtomicU32::new(0),
            until: AtomicU64::new(0),
            last: Mutex::new(None),
            most: settings.failures.saturating_mul(factor).max(1),
            cool_down: settings.cool_down,
            patience: settings.connect_timeout + settings.read_timeout,
        }
    }

    fn after(&self, duration: Duration) -> u64 {
        (self.begin.elapsed() + duration).as_millis() as u64
    }

    /// Whether a command may be tried.
    #[inline]
    pub fn admit(&self) -> Result<(), RedisError> {
        match self.until.load(Relaxed) {
            0 => Ok(()),
            until => self.admit_when_open(until),
        }
    }

    fn admit_when_open(&self, until: u64) -> Result<(), RedisError> {
        let tries = self.after(Duration::ZERO) >= until
            && self.until.compare_exchange(until, self.after(self.patience), Relaxed, Relaxed).is_ok();
        if tries {
            return Ok(());
        }
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Err(last.as_ref().map_or_else(RedisError::closed, RedisError::known))
    }

    pub fn succeeded(&self, servers: &Servers) {
        if self.failures.load(Relaxed) == 0 {
            return;
        }
        self.failures.store(0, Relaxed);
        if self.until.swap(0, Relaxed) != 0 {
            tracing::warn!(?servers, "Redis answers again");
        }
    }

    pub fn failed(&self, error: &RedisError, servers: &Servers) {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        if failures < self.most {
            return;
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        if self.until.swap(self.after(self.cool_down).max(1), Relaxed) == 0 {
            tracing::warn!(?servers, %error, "Redis is away: it is asked once per cool-down until it answers");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_some_failures_and_lets_one_through_per_cool_down() {
        let settings = Settings { cool_down: Duration::from_millis(1), ..Settings::single("h", 1) };
        let servers = &settings.servers;
        let breaker = Breaker::new(&settings);
        let error = RedisError::away("timeout");
        for _ in 0..3 {
            assert!(breaker.admit().is_ok());
            breaker.failed(&error, servers);
        }
        let opened = Instant::now();
        let mut refused = breaker.admit();
        while refused.is_err() && opened.elapsed() < Duration::from_secs(5) {
            assert!(refused.as_ref().is_err_and(|e| e.is_known() && e.to_string() == "timeout"));
            std::thread::yield_now();
            refused = breaker.admit();
        }
        assert!(refused.is_ok(), "one is let through");
        assert!(breaker.admit().is_err_and(|e| e.is_known()), "and only one");
        breaker.succeeded(servers);
        assert!(breaker.admit().is_ok());
        // A success in between begins the count anew.
        breaker.failed(&error, servers);
        breaker.failed(&error, servers);
        breaker.succeeded(servers);
        breaker.failed(&error, servers);
        assert!(breaker.admit().is_ok());
    }
}
