//! What a run's records say: errors by kind, percentiles before and during the fault, and when the clients were well again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::load::{Outcome, Record};

/// Recovery is looked for in pieces of this length.
pub const WINDOW: Duration = Duration::from_millis(250);
/// A window with a larger share of failed or slow requests is a bad one.
const TOLERATED: f64 = 0.02;

/// When the fault began and ended, after the begin of the load.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub fault: Duration,
    pub healed: Duration,
    pub end: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency {
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// No window was bad.
    Unharmed,
    /// From the moment it is counted from until the end of the last bad window.
    After(Duration),
    /// The last windows of the run were still bad.
    Never,
}

#[derive(Debug, Clone)]
pub struct Figures {
    pub requests: u64,
    /// By outcome, without the good ones.
    pub errors: BTreeMap<Outcome, u64>,
    pub resent: u64,
    /// Before the fault.
    pub calm: Latency,
    /// Requests due while the fault lasted; failed ones count with the time until they failed.
    pub fault: Latency,
    pub recovery: Recovery,
    /// Of the whole run.
    pub windows: Vec<Window>,
}

/// The requests that were due in a quarter of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    pub requests: u32,
    pub failed: u32,
    /// Served, but slowly.
    pub slow: u32,
}

impl Figures {
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// `from`: what recovery is counted from. `until`: where it is no longer looked for, as another fault begins there.
pub fn figures(records: &[Record], times: &Times, from: Duration, until: Duration) -> Figures {
    let mut errors = BTreeMap::new();
    for record in records.iter().filter(|record| record.outcome != Outcome::Good) {
        *errors.entry(record.outcome).or_insert(0) += 1;
    }
    let calm = latency(records, Duration::ZERO..times.fault);
    Figures {
        requests: records.len() as u64,
        errors,
        resent: records.iter().filter(|record| record.resent).count() as u64,
        calm,
        fault: latency(records, times.fault..times.healed),
        recovery: recovery(&windows(records, slow(&calm), from, until)),
        windows: windows(records, slow(&calm), Duration::ZERO, times.end),
    }
}

/// Above this a request counts as slow: well above what the same run shows without a fault.
fn slow(calm: &Latency) -> Duration {
    (calm.p50 * 5).max(Duration::from_millis(25))
}

fn latency(records: &[Record], due: std::ops::Range<Duration>) -> Latency {
    let mut times: Vec<Duration> = records.iter().filter(|r| due.contains(&r.due)).map(|r| r.took).collect();
    times.sort_unstable();
    let at = |share: f64| {
        let rank = (times.len() as f64 * share).ceil() as usize;
        times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    };
    Latency { p50: at(0.5), p99: at(0.99), max: at(1.0) }
}

fn windows(records: &[Record], slow: Duration, from: Duration, until: Duration) -> Vec<Window> {
    let count = ((until.saturating_sub(from)).as_secs_f64() / WINDOW.as_secs_f64()).floor() as usize;
    let mut windows = vec![Window::default(); count];
    for record in records {
        let Some(since) = record.due.checked_sub(from) else { continue };
        let index = (since.as_secs_f64() / WINDOW.as_secs_f64()) as usize;
        if let Some(window) = windows.get_mut(index) {
            window.requests += 1;
            match record.outcome {
                Outcome::Good => window.slow += u32::from(record.took > slow),
                _ => window.failed += 1,
            }
        }
    }
    windows
}

fn recovery(windows: &[Window]) -> Recovery {
    let bad = |w: &Window| f64::from(w.failed + w.slow) > f64::from(w.requests) * TOLERATED;
    match windows.iter().rposition(bad) {
        None => Recovery::Unharmed,
        // A bad window among the last two is no recovery.
        Some(index) if index + 2 >= windows.len() => Recovery::Never,
        Some(index) => Recovery::After(WINDOW * (index as u32 + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request each 10 ms for ten seconds; `bad` says which are slow or failed.
    fn records(bad: impl Fn(u64) -> Option<Outcome>) -> Vec<Record> {
        let one = |i: u64| {
            let outcome = bad(i).unwrap_or(Outcome::Good);
            Record { due: Duration::from_millis(i * 10), took: Duration::from_millis(5), outcome, resent: false }
        };
        (0..1000).map(one).collect()
    }

    const TIMES: Times =
        Times { fault: Duration::from_secs(2), healed: Duration::from_secs(8), end: Duration::from_secs(10) };

    fn of(records: &[Record]) -> Figures {
        figures(records, &TIMES, TIMES.fault, TIMES.healed)
    }

    #[test]
    fn errors_are_counted_by_kind() {
        let figures = of(&records(|i| match i {
            300 => Some(Outcome::Status(502)),
            301..=302 => Some(Outcome::Broken),
            _ => None,
        }));
        assert_eq!((figures.requests, figures.failed()), (1000, 3));
        assert_eq!(figures.errors.into_iter().collect::<Vec<_>>(), [(Outcome::Status(502), 1), (Outcome::Broken, 2)]);
    }

    #[test]
    fn recovery_ends_with_the_last_bad_window() {
        assert_eq!(of(&records(|_| None)).recovery, Recovery::Unharmed);
        // Bad from 2.0 s to 2.6 s: windows 0, 1 and 2 after the fault.
        let some = records(|i| (200..260).contains(&i).then_some(Outcome::Broken));
        assert_eq!(of(&some).recovery, Recovery::After(Duration::from_millis(750)));
        assert_eq!(of(&records(|i| (i > 200).then_some(Outcome::Broken))).recovery, Recovery::Never);
        // What comes after the fault's end is not looked at.
        assert_eq!(of(&records(|i| (i >= 800).then_some(Outcome::Broken))).recovery, Recovery::Unharmed);
    }

    #[test]
    fn percentiles_are_of_their_own_part_of_the_run() {
        let mut records = records(|_| None);
        records[500].took = Duration::from_millis(90);
        let figures = of(&records);
        assert_eq!(figures.calm, Latency { p50: ms(5), p99: ms(5), max: ms(5) });
        assert_eq!(figures.fault, Latency { p50: ms(5), p99: ms(5), max: ms(90) });
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }
}
