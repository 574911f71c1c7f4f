//! The arithmetic of `limit-count`'s windows, on one counter. Times are milliseconds, `reset` is in hundredths of a second,
//! because that is what the header shows.
use crate::counters::Entry;
use smallvec::SmallVec;

/// What a request found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    pub allowed: bool,
    pub remaining: u64,
    /// Until the window ends, hundredths of a second.
    pub reset: u64,
}

/// The window begins with the first request. A refused request counts too (lua-resty-limit-traffic's count.lua), which
/// shows only where the limit is a variable.
#[inline]
pub fn fixed(entry: &mut Entry<u64>, now: u64, count: u64, window: u64) -> Counted {
    if entry.end == 0 {
        // One below the mark of entries that are never evicted.
        entry.end = now.saturating_add(window).min(crate::counters::PINNED - 1);
    }
    entry.value = entry.value.saturating_add(1);
    let reset = entry.end.saturating_sub(now) / 10;
    Counted { allowed: entry.value <= count, remaining: count.saturating_sub(entry.value), reset }
}

/// A key's counts in this window and the one before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sliding {
    window: u64,
    current: u64,
    last: u64,
}

/// Windows are aligned to the epoch; the last one counts by the share of it that the sliding window still covers
/// (apisix/plugins/limit-count/sliding-window/sliding-window.lua). A refused request does not count.
pub fn sliding(entry: &mut Entry<Sliding>, now: u64, count: u64, window: u64) -> Counted {
    let number = now / window;
    let left = window - now % window;
    let state = &mut entry.value;
    if entry.end == 0 || state.window != number {
        let last = if entry.end != 0 && state.window + 1 == number { state.current } else { 0 };
        *state = Sliding { window: number, current: 0, last };
        entry.end = number.saturating_add(2).saturating_mul(window).min(crate::counters::PINNED - 1);
    }
    let last = state.last.min(count);
    let share = last as f64 / window as f64 * left as f64;
    let allowed = state.current < count && state.current as f64 + share < count as f64;
    state.current += u64::from(allowed);
    slid(allowed, state.current, last, left, count, window)
}

/// What a request in a sliding window is told: `current` has it counted where it is allowed, `last` is at most `count`, and
/// the window still takes `left`.
pub fn slid(allowed: bool, current: u64, last: u64, left: u64, count: u64, window: u64) -> Counted {
    let hundredths = |millis: f64| (millis / 10.0).ceil().max(0.0) as u64;
    if allowed {
        let share = last as f64 / window as f64 * left as f64;
        let remaining = (count as f64 - current as f64 - share).floor().max(0.0) as u64;
        return Counted { allowed, remaining, reset: hundredths(left as f64) };
    }
    // When the share of the last window will have shrunk enough. There is one, or this window alone is full.
    let wait = match count.checked_sub(current) {
        Some(free) if free > 0 && last > 0 => left as f64 - free as f64 * window as f64 / last as f64,
        _ => left as f64,
    };
    Counted { allowed, remaining: 0, reset: hundredths(wait) }
}

/// Hundredths of a second as Lua prints the number of seconds: `60`, `59.9`, `59.98`.
pub fn seconds(hundredths: u64) -> SmallVec<[u8; 24]> {
    let mut digits = itoa::Buffer::new();
    let mut out = SmallVec::from_slice(digits.format(hundredths / 100).as_bytes());
    let rest = (hundredths % 100) as u8;
    if rest > 0 {
        out.extend_from_slice(&[b'.', b'0' + rest / 10]);
        if !rest.is_multiple_of(10) {
            out.push(b'0' + rest % 10);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn seconds_print_as_lua() {
        for (n, text) in [(0, "0"), (6000, "60"), (5990, "59.9"), (5998, "59.98"), (5901, "59.01"), (1, "0.01")] {
            assert_eq!(&seconds(n)[..], text.as_bytes());
        }
    }

    #[test]
    fn the_last_window_fades() {
        let mut entry = Entry::default();
        for left in (0..10).rev() {
            assert_eq!(
                sliding(&mut entry, 60_000, 10, 60_000),
                Counted { allowed: true, remaining: left, reset: 6000 }
            );
        }
        assert_eq!(sliding(&mut entry, 60_000, 10, 60_000), Counted { allowed: false, remaining: 0, reset: 6000 });
        // 15 s into the next window three quarters of the ten still count: 2 pass, the third would be above.
        assert_eq!(sliding(&mut entry, 135_000, 10, 60_000), Counted { allowed: true, remaining: 1, reset: 4500 });
        assert!(sliding(&mut entry, 135_000, 10, 60_000).allowed);
        assert!(sliding(&mut entry, 135_000, 10, 60_000).allowed);
        let refused = sliding(&mut entry, 135_000, 10, 60_000);
        assert_eq!(refused, Counted { allowed: false, remaining: 0, reset: 300 });
        // Two windows later nothing is left.
        assert_eq!(sliding(&mut entry, 240_000, 10, 60_000).remaining, 9);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn never_more_than_count_in_a_window(
            pauses in prop::collection::vec(0u64..400, 1..300), count in 1u64..20, window in 1u64..3,
        ) {
            let (mut f, mut s) = (Entry::default(), Entry::default());
            let (mut now, window) = (1_000_000u64, window * 1000);
            let mut passed: Vec<u64> = Vec::new();
            let mut slid: Vec<u64> = Vec::new();
            for pause in pauses {
                now += pause;
                if f.end <= now {
                    f = Entry::default();
                }
                if s.end <= now {
                    s = Entry::default();
                }
                let begins = f.end == 0;
                if begins {
                    passed.clear();
                }
                let counted = fixed(&mut f, now, count, window);
                if counted.allowed {
                    passed.push(now);
                }
                prop_assert!(passed.len() as u64 <= count);
                prop_assert_eq!(counted.remaining, count.saturating_sub(f.value));
                prop_assert!(!begins || counted.reset == window / 10);
                if sliding(&mut s, now, count, window).allowed {
                    slid.push(now);
                }
                let aligned = slid.iter().filter(|t| **t / window == now / window).count() as u64;
                prop_assert!(aligned <= count);
            }
        }
    }
}
