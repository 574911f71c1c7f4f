//! Time on a worker: a coarse clock and time-outs that cost nanoseconds, both per thread and driven by `ticker`.
//! The one surprise: a `Timeout` fires up to two ticks (10 ms) late, or early by what the worker's running turn had
//! taken when it was armed (the clock stands still within a turn), and only where a ticker runs.
#[cfg(test)]
mod tests;
mod wheel;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wheel::Wheel;

/// Resolution of the clock and of time-outs.
pub const TICK: Duration = Duration::from_millis(5);
const TICKS_PER_SECOND: u64 = 200;
/// How long an idle ticker sleeps with nothing armed.
const IDLE: Duration = Duration::from_secs(3600);

struct Clock {
    /// None where nobody keeps it current: then callers read the real clock.
    now: Cell<Option<Instant>>,
    /// Where ticks are counted from.
    epoch: Cell<Option<Instant>>,
    tick: Cell<u64>,
    /// Wall time belonging to `epoch`, corrected at every tick.
    wall: Cell<Duration>,
    /// Somebody asked for the time since the last tick.
    touched: Cell<bool>,
    /// The ticker sleeps longer than a tick.
    asleep: Cell<bool>,
    fake: Cell<bool>,
    ticker: RefCell<Option<Waker>>,
    wheel: RefCell<Wheel>,
}

thread_local!(static CLOCK: Clock = Clock {
    now: Cell::new(None),
    epoch: Cell::new(None),
    tick: Cell::new(0),
    wall: Cell::new(Duration::ZERO),
    touched: Cell::new(false),
    asleep: Cell::new(false),
    fake: Cell::new(false),
    ticker: RefCell::new(None),
    wheel: RefCell::new(Wheel::new()),
});

impl Clock {
    fn epoch(&self) -> Instant {
        self.epoch.get().unwrap_or_else(|| {
            let now = Instant::now();
            self.epoch.set(Some(now));
            now
        })
    }

    fn set(&self, now: Instant) {
        let d = now.saturating_duration_since(self.epoch());
        self.tick.set(d.as_secs() * TICKS_PER_SECOND + u64::from(d.subsec_nanos()) / TICK.as_nanos() as u64);
        self.now.set(Some(now));
    }

    /// Says that time matters now, so that an idle ticker resumes its pace.
    #[inline]
    fn touch(&self) {
        self.touched.set(true);
        if self.asleep.get() {
            self.wake_ticker();
        }
    }

    #[cold]
    fn wake_ticker(&self) {
        self.asleep.set(false);
        if !self.fake.get() {
            self.set(Instant::now());
        }
        let ticker = self.ticker.borrow().clone();
        if let Some(w) = ticker {
            w.wake();
        }
    }

    #[inline]
    fn current(&self) -> Instant {
        self.touch();
        self.now.get().unwrap_or_else(|| {
            let now = Instant::now();
            self.set(now);
            self.now.set(None);
            now
        })
    }

    fn expire(&self) {
        let mut expired = Vec::new();
        self.wheel.borrow_mut().advance(self.tick.get(), &mut expired);
        expired.into_iter().for_each(Waker::wake);
    }
}

/// The time, at most about a tick old on a worker; exact where no ticker runs.
#[inline]
pub fn now_coarse() -> Instant {
    CLOCK.with(Clock::current)
}

/// Milliseconds since 1970, as coarse as `now_coarse`.
#[inline]
pub fn unix_ms_coarse() -> u64 {
    CLOCK.with(|c| {
        let now = c.current();
        if c.now.get().is_none() {
            return wall().as_millis() as u64;
        }
        (c.wall.get() + now.saturating_duration_since(c.epoch())).as_millis() as u64
    })
}

/// Wall time, as coarse as `now_coarse`.
#[inline]
pub fn now_wall() -> SystemTime {
    CLOCK.with(|c| {
        let now = c.current();
        if c.now.get().is_none() {
            return SystemTime::now();
        }
        UNIX_EPOCH + c.wall.get() + now.saturating_duration_since(c.epoch())
    })
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Reads the clock for this thread: workers do it whenever they wake up.
pub(crate) fn refresh() -> Instant {
    CLOCK.with(|c| {
        let now = Instant::now();
        // Without a ticker nobody would keep the value fresh.
        if c.now.get().is_some() && !c.fake.get() {
            c.set(now);
        }
        now
    })
}

/// Wakes every task that has polled a `Timeout` on this thread: how a draining worker makes idle connections look at
/// the drain flag.
pub fn wake_all() {
    let wakers = CLOCK.with(|c| c.wheel.borrow_mut().take_wakers());
    wakers.into_iter().for_each(Waker::wake);
}

/// Keeps this thread's clock and fires its time-outs. Never ends; `Workers` runs one on each worker, other runtimes
/// that use `Timeout` spawn one themselves (once per thread). It ticks while time is being asked for, and sleeps to
/// the next armed deadline otherwise.
pub async fn ticker() {
    struct Stop;
    impl Drop for Stop {
        fn drop(&mut self) {
            let _ = CLOCK.try_with(|c| {
                c.now.set(None);
                c.asleep.set(false);
                c.ticker.take()
            });
        }
    }
    let _stop = Stop;
    let mut sleep = pin!(tokio::time::sleep(TICK));
    poll_fn(|cx| {
        CLOCK.with(|c| {
            let old = c.ticker.replace(Some(cx.waker().clone()));
            drop(old);
            loop {
                let now = Instant::now();
                c.asleep.set(false);
                c.set(now);
                c.wall.set(wall().saturating_sub(now.saturating_duration_since(c.epoch())));
                c.expire();
                let at = if c.touched.take() {
                    now + TICK
                } else {
                    c.asleep.set(true);
                    match c.wheel.borrow().next() {
                        // One past the start of that tick, so that it is over when we look.
                        Some(t) => c.epoch() + Duration::from_millis(t * TICK.as_millis() as u64 + 1),
                        None => now + IDLE,
                    }
                };
                sleep.as_mut().reset(at.into());
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::<()>::Pending;
                }
            }
        })
    })
    .await;
}

/// A time-out of one connection, made once and re-armed for every wait. Belongs to the thread that made it.
#[derive(Debug)]
pub struct Timeout {
    key: u32,
    _thread: PhantomData<*const ()>,
}

impl Default for Timeout {
    fn default() -> Self {
        Self::new()
    }
}

impl Timeout {
    /// A disarmed time-out.
    pub fn new() -> Self {
        Self { key: CLOCK.with(|c| c.wheel.borrow_mut().insert()), _thread: PhantomData }
    }

    /// Sets it to fire after `d`, whatever was set before.
    #[inline]
    pub fn arm(&self, d: Duration) {
        CLOCK.with(|c| {
            c.current();
            // Round up, and count the current tick as gone.
            let part = u64::from(d.subsec_nanos().div_ceil(TICK.subsec_nanos()));
            let ticks = d.as_secs().min(u64::from(u32::MAX)) * TICKS_PER_SECOND + part;
            c.wheel.borrow_mut().arm(self.key, c.tick.get() + ticks + 1);
        });
    }

    /// Sets it to never fire.
    #[inline]
    pub fn disarm(&self) {
        CLOCK.with(|c| c.wheel.borrow_mut().disarm(self.key));
    }

    /// Whether it is set and has passed.
    #[inline]
    pub fn is_elapsed(&self) -> bool {
        CLOCK.with(|c| {
            c.current();
            c.wheel.borrow().deadline(self.key).is_some_and(|d| d <= c.tick.get())
        })
    }

    /// Ready once the time set has passed (and from then on until re-armed). Otherwise the task is woken when it
    /// passes; also by `wake_all`, so a wake-up proves nothing.
    #[inline]
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let replaced = CLOCK.with(|c| {
            c.current();
            let mut w = c.wheel.borrow_mut();
            if w.deadline(self.key).is_some_and(|d| d <= c.tick.get()) {
                return Err(());
            }
            Ok(w.set_waker(self.key, cx.waker()))
        });
        // A waker dropped inside the borrow could drop its task, and with it another time-out.
        match replaced {
            Err(()) => Poll::Ready(()),
            Ok(old) => {
                drop(old);
                Poll::Pending
            }
        }
    }

    /// Runs `future` unless `d` passes first (then None). Re-arms this time-out and leaves it disarmed.
    pub async fn limit<F: Future>(&self, d: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        self.arm(d);
        let out = poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(v) => Poll::Ready(Some(v)),
            Poll::Pending => self.poll(cx).map(|()| None),
        })
        .await;
        self.disarm();
        out
    }
}

impl Drop for Timeout {
    fn drop(&mut self) {
        // At thread exit the wheel may be gone already.
        let waker = CLOCK.try_with(|c| c.wheel.borrow_mut().remove(self.key)).ok().flatten();
        drop(waker);
    }
}

/// Time-outs alive on this thread, for tests of leaks.
pub fn live_timeouts() -> usize {
    CLOCK.with(|c| c.wheel.borrow().len())
}

/// Replaces this thread's clock until dropped: tests move time by hand. Do not run a `ticker` beside it.
#[derive(Debug)]
pub struct FakeClock(Instant);

impl Default for FakeClock {
    fn default() -> Self {
        Self::start()
    }
}

impl FakeClock {
    /// Stops the clock at the present.
    pub fn start() -> Self {
        CLOCK.with(|c| {
            let now = c.epoch();
            c.fake.set(true);
            c.wall.set(wall());
            c.set(now);
            Self(now)
        })
    }

    /// Moves time on and fires what has passed.
    pub fn advance(&mut self, d: Duration) {
        self.0 += d;
        CLOCK.with(|c| {
            c.set(self.0);
            c.expire();
        });
    }
}

impl Drop for FakeClock {
    fn drop(&mut self) {
        let _ = CLOCK.try_with(|c| {
            c.fake.set(false);
            c.now.set(None);
        });
    }
}
