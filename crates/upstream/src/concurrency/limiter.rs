//! The count of requests under way, shared by all workers, and the limit on it.
//!
//! The surprise: state and settings are apart, as with breakers: a changed limit takes over the count and the estimate of the
//! one before, and slots given out earlier are given back to the same count.
use super::gradient::{Estimate, Gradient};
use super::queue::{Joined, Queue, Ticket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How the limit is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Fixed(u32),
    /// From a first value on.
    Gradient(u32, Gradient),
}

/// Who is over the limit waits here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSettings {
    /// 0: nobody waits.
    pub size: usize,
    pub timeout: Duration,
}

/// `concurrency_limit` of an upstream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub kind: Kind,
    pub queue: QueueSettings,
    /// Status of a refused request.
    pub rejected_code: u16,
    /// `Retry-After` of a refusal, seconds.
    pub retry_after: u32,
}

/// Samples that a judgement needs.
const MIN_SAMPLES: u32 = 10;

/// Samples of the window that is open, and what was judged before.
#[derive(Debug, Default)]
struct Samples {
    began_ms: AtomicU64,
    sum_us: AtomicU64,
    count: AtomicU32,
    most: AtomicU32,
    judging: AtomicBool,
    /// `f64`s; the limit is 0 before the first settings.
    limit: AtomicU64,
    long: AtomicU64,
    seen: AtomicU32,
}

/// The state, found again in [`crate::NodeStates`]. See the file's head.
#[derive(Debug, Default)]
pub struct Limiter {
    limit: AtomicU32,
    in_flight: AtomicU32,
    pub(super) queue: Queue,
    samples: Samples,
    refused: AtomicU64,
    queued: AtomicU64,
    given_up: AtomicU64,
}

/// A place among the requests under way; given back when dropped.
#[derive(Debug)]
pub struct Slot(Arc<Limiter>);

impl Slot {
    pub(super) fn new(limiter: Arc<Limiter>) -> Slot {
        Slot(limiter)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// What became of a request at the door.
#[derive(Debug)]
pub enum Admission {
    Passed(Slot),
    Waits(Ticket),
    /// The queue is full, or there is none.
    Refused,
}

impl Limiter {
    /// Takes a place if there is one.
    #[inline]
    pub(super) fn grab(&self) -> bool {
        let room = |count: u32| (count < self.limit.load(Ordering::Relaxed)).then(|| count + 1);
        self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).is_ok()
    }

    #[inline]
    pub(super) fn release(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.queue.is_used() {
            Queue::serve(self);
        }
    }

    fn set_limit(&self, limit: u32) {
        let before = self.limit.swap(limit, Ordering::SeqCst);
        if limit > before && self.queue.is_used() {
            Queue::serve(self);
        }
    }

    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests that wait.
    pub fn waiting(&self) -> u32 {
        self.queue.len()
    }

    /// Since it exists: requests refused, that had to wait, that gave up waiting.
    pub fn totals(&self) -> [u64; 3] {
        [&self.refused, &self.queued, &self.given_up].map(|count| count.load(Ordering::Relaxed))
    }

    /// The long average of latency in seconds; 0 where none is known.
    pub fn usual_latency(&self) -> f64 {
        f64::from_bits(self.samples.long.load(Ordering::Relaxed))
    }
}

impl Samples {
    fn estimate(&self) -> Estimate {
        Estimate {
            limit: f64::from_bits(self.limit.load(Ordering::Relaxed)),
            long: f64::from_bits(self.long.load(Ordering::Relaxed)),
            seen: self.seen.load(Ordering::Relaxed),
        }
    }

    fn set(&self, estimate: Estimate) {
        self.limit.store(estimate.limit.to_bits(), Ordering::Relaxed);
        self.long.store(estimate.long.to_bits(), Ordering::Relaxed);
        self.seen.store(estimate.seen, Ordering::Relaxed);
    }
}

/// A limiter with its settings: what a compiled upstream has.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    pub settings: Settings,
    pub limiter: Arc<Limiter>,
}

impl ConcurrencyLimit {
    /// Puts the settings into force. What was learned stays, within the new bounds.
    pub fn new(settings: Settings, limiter: Arc<Limiter>) -> ConcurrencyLimit {
        let limit = match settings.kind {
            Kind::Fixed(limit) => limit.max(1),
            Kind::Gradient(first, gradient) => {
                let known = limiter.samples.estimate();
                let limit = if known.limit > 0.0 { known.limit as u32 } else { first };
                let limit = limit.clamp(gradient.min_limit.max(1), gradient.max_limit.max(gradient.min_limit).max(1));
                limiter.samples.set(Estimate { limit: f64::from(limit), ..known });
                limit
            }
        };
        limiter.set_limit(limit);
        ConcurrencyLimit { settings, limiter }
    }

    /// Lets a request in, into the queue, or not at all.
    #[inline]
    pub fn enter(&self) -> Admission {
        // who waits was here before
        if !self.limiter.queue.is_used() && self.limiter.grab() {
            return Admission::Passed(Slot(self.limiter.clone()));
        }
        self.wait()
    }

    #[cold]
    fn wait(&self) -> Admission {
        let limiter = &self.limiter;
        match Queue::join(limiter, self.settings.queue.size) {
            Joined::Room => Admission::Passed(Slot(limiter.clone())),
            Joined::Waits(ticket) => {
                limiter.queued.fetch_add(1, Ordering::Relaxed);
                Admission::Waits(ticket)
            }
            Joined::Full => {
                limiter.refused.fetch_add(1, Ordering::Relaxed);
                Admission::Refused
            }
        }
    }

    /// A request waited too long.
    pub fn count_given_up(&self) {
        self.limiter.given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes in how long an answer took, or a time-out. Cheap where the limit is fixed.
    #[inline]
    pub fn sample(&self, latency: Duration, now_ms: u64) {
        if let Kind::Gradient(_, gradient) = &self.settings.kind {
            self.take_in(gradient, latency, now_ms);
        }
    }

    fn take_in(&self, gradient: &Gradient, latency: Duration, now_ms: u64) {
        let samples = &self.limiter.samples;
        samples.sum_us.fetch_add(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX >> 16), Ordering::Relaxed);
        let count = samples.count.fetch_add(1, Ordering::Relaxed) + 1;
        samples.most.fetch_max(self.limiter.in_flight(), Ordering::Relaxed);
        let began = samples.began_ms.load(Ordering::Relaxed);
        if began == 0 {
            samples.began_ms.store(now_ms.max(1), Ordering::Relaxed);
            return;
        }
        let over = u128::from(now_ms.saturating_sub(began)) >= gradient.window.as_millis();
        // others go on with the limit of before meanwhile
        if !over || count < MIN_SAMPLES || samples.judging.swap(true, Ordering::Acquire) {
            return;
        }
        let count = samples.count.swap(0, Ordering::Relaxed).max(1);
        let sum = samples.sum_us.swap(0, Ordering::Relaxed);
        let most = samples.most.swap(0, Ordering::Relaxed);
        samples.began_ms.store(now_ms.max(1), Ordering::Relaxed);
        let mean = Duration::from_micros(sum / u64::from(count));
        let next = gradient.judge(samples.estimate(), mean, most);
        samples.set(next);
        self.limiter.set_limit(next.limit as u32);
        samples.judging.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
