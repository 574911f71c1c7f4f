//! The state machine of one breaker in one atomic word, and the window of its failure ratio beside it.
//!
//! The surprise: each change of phase has a number (its round), which every permit carries. A result from an earlier round is
//! dropped, so that a slow answer from before the outage neither closes nor opens anything.
use super::settings::Limits;
use super::window::{Tally, Window};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Requests pass.
    #[default]
    Closed,
    /// None passes until the cool-down is over.
    Open,
    /// A few pass, to see whether it works again.
    HalfOpen,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Closed => "closed",
            Phase::Open => "open",
            Phase::HalfOpen => "half_open",
        }
    }
}

/// One state word, unpacked.
///
/// | bits | closed | open | half-open |
/// |---|---|---|---|
/// | 62–63 | phase | phase | phase |
/// | 50–61 | round | round | round |
/// | 44–49 | 0 | openings in a row | openings in a row |
/// | 0–43 | failures in a row | until when, ms | in flight (22–43), successes (0–21) |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Word {
    phase: Phase,
    round: u64,
    level: u64,
    rest: u64,
}

const ROUND: u64 = (1 << 12) - 1;
const LEVEL: u64 = (1 << 6) - 1;
const REST: u64 = (1 << 44) - 1;
const HALF: u64 = (1 << 22) - 1;

impl Word {
    fn pack(self) -> u64 {
        (self.phase as u64) << 62 | (self.round & ROUND) << 50 | self.level.min(LEVEL) << 44 | self.rest & REST
    }

    #[inline]
    fn unpack(word: u64) -> Word {
        let phase = match word >> 62 {
            0 => Phase::Closed,
            1 => Phase::Open,
            _ => Phase::HalfOpen,
        };
        Word { phase, round: word >> 50 & ROUND, level: word >> 44 & LEVEL, rest: word & REST }
    }

    fn half(self) -> (u64, u64) {
        (self.rest >> 22 & HALF, self.rest & HALF)
    }

    fn with_half(self, in_flight: u64, successes: u64) -> Word {
        Word { rest: in_flight.min(HALF) << 22 | successes.min(HALF), ..self }
    }

    fn next(self, phase: Phase, level: u64, rest: u64) -> Word {
        Word { phase, round: self.round + 1, level, rest }
    }
}

/// Why a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Until the next attempt makes sense; zero where probes are under way.
    pub retry_after: Duration,
}

/// A change of phase that a result brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    Opened { cool_down: Duration },
    Closed,
}

/// What a breaker shows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    pub phase: Phase,
    /// Failures in a row, while closed.
    pub failures: u64,
    /// Openings since it was closed last.
    pub openings: u64,
    /// Until the cool-down is over, while open.
    pub remaining: Duration,
    /// Probes under way and probes that went well, while half-open.
    pub probes: u64,
    pub successes: u64,
}

/// See the file's head. Shared by all workers; found again in [`crate::NodeStates`].
#[derive(Debug, Default)]
pub struct Breaker {
    word: AtomicU64,
    window: Window,
    opened: AtomicU64,
    half_opened: AtomicU64,
    closed: AtomicU64,
    refused: AtomicU64,
}

/// A request that passed. Its result is told by [`Permit::succeed`] or [`Permit::fail`]; dropped, it had none.
#[derive(Debug)]
pub struct Permit {
    breaker: Arc<Breaker>,
    round: u64,
    probe: bool,
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Breaker {
    /// Lets a request pass, or not.
    #[inline]
    pub fn admit(self: &Arc<Self>, limits: &Limits, now_ms: u64) -> Result<Permit, Refusal> {
        let word = Word::unpack(self.word.load(Ordering::Acquire));
        if word.phase == Phase::Closed {
            return Ok(Permit { breaker: self.clone(), round: word.round, probe: false });
        }
        self.probe(limits, now_ms)
    }

    #[cold]
    fn probe(self: &Arc<Self>, limits: &Limits, now_ms: u64) -> Result<Permit, Refusal> {
        let mut raw = self.word.load(Ordering::Acquire);
        loop {
            let word = Word::unpack(raw);
            let next = match word.phase {
                Phase::Closed => return Ok(Permit { breaker: self.clone(), round: word.round, probe: false }),
                Phase::Open => match word.rest.checked_sub(now_ms & REST) {
                    Some(left) if left > 0 => return Err(self.refuse(left)),
                    _ => word.next(Phase::HalfOpen, word.level, 0).with_half(1, 0),
                },
                Phase::HalfOpen => {
                    let (in_flight, successes) = word.half();
                    // those that went well count, too: no more are sent than are needed to decide
                    let enough = in_flight + successes >= u64::from(limits.successes);
                    if in_flight >= u64::from(limits.half_open) || enough && in_flight > 0 {
                        return Err(self.refuse(0));
                    }
                    word.with_half(in_flight + 1, successes)
                }
            };
            match self.word.compare_exchange_weak(raw, next.pack(), Ordering::AcqRel, Ordering::Acquire) {
                Err(now) => raw = now,
                Ok(_) => {
                    if word.phase == Phase::Open {
                        self.half_opened.fetch_add(1, Ordering::Relaxed);
                    }
                    return Ok(Permit { breaker: self.clone(), round: next.round & ROUND, probe: true });
                }
            }
        }
    }

    fn refuse(&self, left_ms: u64) -> Refusal {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Refusal { retry_after: Duration::from_millis(left_ms) }
    }

    /// Whether a request would pass now; takes nothing.
    pub fn would_admit(&self, limits: &Limits, now_ms: u64) -> bool {
        let word = Word::unpack(self.word.load(Ordering::Acquire));
        match word.phase {
            Phase::Closed => true,
            Phase::Open => word.rest <= now_ms & REST,
            Phase::HalfOpen => word.half().0 < u64::from(limits.half_open),
        }
    }

    fn result(&self, permit: &Permit, failed: bool, limits: &Limits, now_ms: u64) -> Option<Transition> {
        let mut tally = None;
        let mut raw = self.word.load(Ordering::Acquire);
        loop {
            let word = Word::unpack(raw);
            if word.round != permit.round {
                return None;
            }
            let (next, transition) = match word.phase {
                Phase::Open => return None,
                Phase::Closed => {
                    if limits.ratio.is_some() && tally.is_none() {
                        tally = Some(self.count(failed, limits, now_ms));
                    }
                    if !failed {
                        if word.rest == 0 {
                            return None;
                        }
                        (Word { rest: 0, ..word }, None)
                    } else {
                        let failures = word.rest + 1;
                        let row = limits.max_failures.is_some_and(|max| failures >= u64::from(max));
                        if row || limits.ratio.zip(tally).is_some_and(|(ratio, tally)| ratio.is_reached(tally)) {
                            self.open(word, limits, now_ms)
                        } else {
                            (Word { rest: failures, ..word }, None)
                        }
                    }
                }
                Phase::HalfOpen if failed => self.open(word, limits, now_ms),
                Phase::HalfOpen => {
                    let (in_flight, successes) = word.half();
                    if successes + 1 >= u64::from(limits.successes) {
                        (word.next(Phase::Closed, 0, 0), Some(Transition::Closed))
                    } else {
                        (word.with_half(in_flight.saturating_sub(1), successes + 1), None)
                    }
                }
            };
            match self.word.compare_exchange_weak(raw, next.pack(), Ordering::AcqRel, Ordering::Acquire) {
                Err(now) => raw = now,
                Ok(_) => {
                    match transition {
                        Some(Transition::Opened { .. }) => self.opened.fetch_add(1, Ordering::Relaxed),
                        Some(Transition::Closed) => self.closed.fetch_add(1, Ordering::Relaxed),
                        None => return None,
                    };
                    self.window.clear();
                    return transition;
                }
            }
        }
    }

    /// Counts into the window; the tally is needed after failures only, as nothing else can open the breaker.
    fn count(&self, failed: bool, limits: &Limits, now_ms: u64) -> Tally {
        let Some(ratio) = &limits.ratio else { return Tally::default() };
        self.window.count(failed, now_ms, ms(ratio.window));
        if failed { self.window.tally(now_ms, ms(ratio.window)) } else { Tally::default() }
    }

    fn open(&self, word: Word, limits: &Limits, now_ms: u64) -> (Word, Option<Transition>) {
        let cool_down = limits.cool_down(word.level as u32);
        let until = (now_ms & REST).saturating_add(ms(cool_down).max(1)).min(REST);
        (word.next(Phase::Open, (word.level + 1).min(LEVEL), until), Some(Transition::Opened { cool_down }))
    }

    /// A probe that came to nothing gives its place back.
    fn give_back(&self, round: u64) {
        let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |raw| {
            let word = Word::unpack(raw);
            let (in_flight, successes) = word.half();
            let ours = word.phase == Phase::HalfOpen && word.round == round && in_flight > 0;
            ours.then(|| word.with_half(in_flight - 1, successes).pack())
        });
    }

    pub fn see(&self, now_ms: u64) -> Seen {
        let word = Word::unpack(self.word.load(Ordering::Acquire));
        let mut seen = Seen { phase: word.phase, openings: word.level, ..Seen::default() };
        match word.phase {
            Phase::Closed => seen.failures = word.rest,
            Phase::Open => seen.remaining = Duration::from_millis(word.rest.saturating_sub(now_ms & REST)),
            Phase::HalfOpen => (seen.probes, seen.successes) = word.half(),
        }
        seen
    }

    /// The window of the failure ratio.
    pub fn tally(&self, limits: &Limits, now_ms: u64) -> Option<Tally> {
        limits.ratio.as_ref().map(|ratio| self.window.tally(now_ms, ms(ratio.window)))
    }

    /// Since it exists: times opened, half-opened, closed, and requests refused.
    pub fn totals(&self) -> [u64; 4] {
        [&self.opened, &self.half_opened, &self.closed, &self.refused].map(|count| count.load(Ordering::Relaxed))
    }

    /// Counts a request that was refused for another reason than this breaker's own state.
    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

impl Permit {
    /// The request was answered well.
    #[inline]
    pub fn succeed(self, limits: &Limits, now_ms: u64) -> Option<Transition> {
        self.end(false, limits, now_ms)
    }

    /// The request failed.
    pub fn fail(self, limits: &Limits, now_ms: u64) -> Option<Transition> {
        self.end(true, limits, now_ms)
    }

    #[inline]
    fn end(mut self, failed: bool, limits: &Limits, now_ms: u64) -> Option<Transition> {
        let transition = self.breaker.result(&self, failed, limits, now_ms);
        // the result took the place of a probe with it
        self.probe = false;
        transition
    }

    /// Whether it was let pass to see if things work again.
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.give_back(self.round);
        }
    }
}

#[cfg(test)]
mod tests;
