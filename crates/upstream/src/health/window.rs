//! Failures of live traffic counted for an ejection: in a row, or within a window of time. Pure; one word per node.
//!
//! The surprise: the window is not sliding. It begins with the first failure after the last one ended, which finds the
//! same bursts with one word instead of a list.

use super::machine::Report;

/// Counts of a window and when it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Milliseconds, low 40 bits of whatever clock is used throughout.
    began: u64,
    http: u8,
    tcp: u8,
    timeout: u8,
}

const TIME: u64 = (1 << 40) - 1;

impl Window {
    pub fn is_empty(self) -> bool {
        self.counts() == (0, 0, 0)
    }

    /// Failures by class: HTTP, TCP, time-outs.
    pub fn counts(self) -> (u8, u8, u8) {
        (self.http, self.tcp, self.timeout)
    }

    /// Takes in a failure at `now_ms`; how many of its class the window has now. `length_ms`: 0 is no window, failures count
    /// in a row.
    pub fn fail(self, report: Report, now_ms: u64, length_ms: u64) -> (Window, u8) {
        let now = now_ms & TIME;
        let over = length_ms != 0 && now.wrapping_sub(self.began) & TIME >= length_ms;
        let mut next = if over || self.is_empty() { Window { began: now, ..Window::default() } } else { self };
        let counter = match report {
            Report::Success | Report::HttpFailure => &mut next.http,
            Report::TcpFailure => &mut next.tcp,
            Report::Timeout => &mut next.timeout,
        };
        *counter = counter.saturating_add(1);
        let count = *counter;
        (next, count)
    }

    /// As one word; 0 is an empty window.
    pub fn pack(self) -> u64 {
        if self.is_empty() {
            return 0;
        }
        self.began << 24 | u64::from(self.http) << 16 | u64::from(self.tcp) << 8 | u64::from(self.timeout)
    }

    pub fn unpack(word: u64) -> Window {
        let [timeout, tcp, http, ..] = word.to_le_bytes();
        Window { began: word >> 24, http, tcp, timeout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(times: &[u64], length: u64) -> u8 {
        times.iter().fold((Window::default(), 0), |(window, _), now| window.fail(Report::HttpFailure, *now, length)).1
    }

    #[test]
    fn failures_outside_the_window_are_forgotten() {
        assert_eq!(count(&[100, 200, 1_000], 1_000), 3);
        assert_eq!(count(&[100, 200, 1_100], 1_000), 1);
        assert_eq!(count(&[100, 200, 999_999], 0), 3);
    }

    #[test]
    fn classes_are_counted_apart() {
        let (window, _) = Window::default().fail(Report::TcpFailure, 5, 100);
        assert_eq!(window.fail(Report::Timeout, 6, 100).1, 1);
        assert_eq!(window.fail(Report::TcpFailure, 6, 100).1, 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_count_never_exceeds_the_failures_of_its_time(
            steps in prop::collection::vec(0u64..400, 1..50), length in 1u64..1000, start in any::<u64>(),
        ) {
            let (mut window, mut now, mut times) = (Window::default(), start, Vec::new());
            for step in steps {
                now = now.wrapping_add(step);
                times.push(now);
                let (next, count) = window.fail(Report::HttpFailure, now, length);
                let near = times.iter().filter(|time| now.wrapping_sub(**time) < length).count();
                prop_assert!(usize::from(count) <= near);
                prop_assert_eq!(Window::unpack(next.pack()), next);
                window = next;
            }
        }
    }
}
