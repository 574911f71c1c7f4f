//! Orderly shutdown: one shared flag that connections look at between requests, and a count of connections to wait
//! for. The one surprise: nothing is sent to idle connections; a worker that sees the drain wakes them all through
//! `timer::wake_all`, so a connection pays one atomic load per request and registers nowhere.
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

const RUNNING: u8 = 0;
const DRAINING: u8 = 1;
const FORCED: u8 = 2;

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    changed: Notify,
    open: AtomicUsize,
    accepted: AtomicU64,
    idle: Notify,
    panics: AtomicUsize,
}

/// Handle to one drain; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<Shared>);

/// Counts one connection for as long as it lives.
#[derive(Debug)]
pub struct ConnGuard(Arc<Shared>);

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks connections to end after their current request. Calling it again changes nothing.
    pub fn start_drain(&self) {
        if self.0.state.compare_exchange(RUNNING, DRAINING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.0.changed.notify_waiters();
        }
    }

    /// Asks connections to end now, whatever they do.
    pub fn force(&self) {
        if self.0.state.swap(FORCED, Ordering::AcqRel) != FORCED {
            self.0.changed.notify_waiters();
        }
    }

    /// Whether no further request should be taken on a connection.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.0.state.load(Ordering::Relaxed) != RUNNING
    }

    /// Whether even running requests should be cut.
    #[inline]
    pub fn is_forced(&self) -> bool {
        self.0.state.load(Ordering::Relaxed) == FORCED
    }

    /// Resolves when draining has begun.
    pub async fn drained(&self) {
        self.reached(DRAINING).await;
    }

    /// Resolves when the drain is forced.
    pub async fn forced(&self) {
        self.reached(FORCED).await;
    }

    async fn reached(&self, state: u8) {
        loop {
            let changed = self.0.changed.notified();
            if self.0.state.load(Ordering::Acquire) >= state {
                return;
            }
            changed.await;
        }
    }

    /// Counts a connection until the guard is dropped.
    pub fn guard(&self) -> ConnGuard {
        self.0.open.fetch_add(1, Ordering::AcqRel);
        self.0.accepted.fetch_add(1, Ordering::Relaxed);
        ConnGuard(self.0.clone())
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Acquire)
    }

    /// Connections counted since the start.
    pub fn accepted(&self) -> u64 {
        self.0.accepted.load(Ordering::Relaxed)
    }

    /// Connections that ended in a panic since the start.
    pub fn panics(&self) -> usize {
        self.0.panics.load(Ordering::Relaxed)
    }

    pub(crate) fn count_panic(&self) {
        self.0.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until no connection is open. Past `deadline` the drain is forced and `false` returned at once, with
    /// whatever is left still open.
    pub async fn wait_idle(&self, deadline: Duration) -> bool {
        let idle = async {
            loop {
                let idle = self.0.idle.notified();
                if self.open() == 0 {
                    return;
                }
                idle.await;
            }
        };
        let done = tokio::time::timeout(deadline, idle).await.is_ok();
        if !done {
            self.force();
        }
        done
    }
}

impl Drop for ConnGuard {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_the_last_connection() {
        let d = Drain::new();
        let (a, b) = (d.guard(), d.guard());
        assert!(!d.is_draining());
        d.start_drain();
        assert!(d.is_draining() && !d.is_forced());
        d.drained().await;
        let waiter = tokio::spawn({
            let d = d.clone();
            async move { d.wait_idle(Duration::from_secs(60)).await }
        });
        drop(a);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(b);
        assert!(waiter.await.unwrap());
        assert!(!d.is_forced());
    }

    #[tokio::test]
    async fn forces_past_the_deadline() {
        let d = Drain::new();
        let g = d.guard();
        d.start_drain();
        assert!(!d.wait_idle(Duration::from_millis(1)).await);
        d.forced().await;
        assert!(d.is_forced());
        assert_eq!(d.open(), 1);
        drop(g);
        assert!(d.wait_idle(Duration::ZERO).await);
    }
}
