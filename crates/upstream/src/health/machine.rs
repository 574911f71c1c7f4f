//! The pure state machine of one checked node: counts of results in a row, and the four states between which they move it
//! (lua-resty-healthcheck, `incr_counter`).
//!
//! The surprise: the `mostly_` states only say that the opposite has begun to be counted. A report that a full state
//! already knows (success of a healthy node, failure of an unhealthy one) is not counted at all, and counts stay as they
//! are when the state changes; only the opposite report ends them.
use std::fmt;

/// What a probe or a finished request says about a node. The classes are those of APISIX's `checks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Success,
    HttpFailure,
    TcpFailure,
    Timeout,
}

impl Report {
    /// As lua-resty-healthcheck writes it in its log lines.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Report::Success => "SUCCESS",
            Report::HttpFailure => "HTTP",
            Report::TcpFailure => "TCP",
            Report::Timeout => "TIMEOUT",
        }
    }
}

/// A node's state as `/v1/healthcheck` shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    #[default]
    Healthy,
    /// Used; failures have begun to be counted.
    MostlyHealthy,
    /// Not used; successes have begun to be counted.
    MostlyUnhealthy,
    Unhealthy,
}

impl Status {
    /// Whether requests may go to the node.
    #[inline]
    pub fn is_up(self) -> bool {
        matches!(self, Status::Healthy | Status::MostlyHealthy)
    }

    /// By APISIX's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Healthy => "healthy",
            Status::MostlyHealthy => "mostly_healthy",
            Status::MostlyUnhealthy => "mostly_unhealthy",
            Status::Unhealthy => "unhealthy",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Results in a row, by class. Thresholds in APISIX's schema end at 254, so that a byte each is enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub success: u8,
    pub http_failure: u8,
    pub tcp_failure: u8,
    pub timeout_failure: u8,
}

impl Counters {
    fn failed(self) -> bool {
        (self.http_failure, self.tcp_failure, self.timeout_failure) != (0, 0, 0)
    }

    /// Counts a result; returns how many of its class there are now.
    fn count(&mut self, report: Report) -> u8 {
        if report == Report::Success {
            *self = Counters { success: self.success, ..Counters::default() };
        } else {
            self.success = 0;
        }
        let counter = match report {
            Report::Success => &mut self.success,
            Report::HttpFailure => &mut self.http_failure,
            Report::TcpFailure => &mut self.tcp_failure,
            Report::Timeout => &mut self.timeout_failure,
        };
        *counter = counter.saturating_add(1);
        *counter
    }
}

/// State and counts of one node; fits a word, see [`Machine::pack`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub status: Status,
    pub counters: Counters,
}

/// What counting a report came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    pub machine: Machine,
    /// The count of the report's class.
    pub count: u8,
}

impl Machine {
    /// Whether a report is worth counting.
    #[inline]
    pub fn counts(self, report: Report, limit: u8) -> bool {
        let full = if report == Report::Success { Status::Healthy } else { Status::Unhealthy };
        limit != 0 && self.status != full
    }

    /// The machine after a report. `limit`: how many in a row decide; 0: the class is not counted. `None`: nothing changes.
    pub fn report(self, report: Report, limit: u8) -> Option<Counted> {
        if !self.counts(report, limit) {
            return None;
        }
        let mut counters = self.counters;
        let count = counters.count(report);
        let status = match self.status {
            _ if count >= limit && report == Report::Success => Status::Healthy,
            _ if count >= limit => Status::Unhealthy,
            Status::Healthy if counters.failed() => Status::MostlyHealthy,
            Status::Unhealthy if counters.success > 0 => Status::MostlyUnhealthy,
            as_before => as_before,
        };
        Some(Counted { machine: Machine { status, counters }, count })
    }

    /// As one word.
    #[inline]
    pub fn pack(self) -> u64 {
        let status = match self.status {
            Status::Healthy => 0,
            Status::MostlyHealthy => 1,
            Status::MostlyUnhealthy => 2,
            Status::Unhealthy => 3,
        };
        let c = self.counters;
        u64::from_le_bytes([c.success, c.http_failure, c.tcp_failure, c.timeout_failure, status, 0, 0, 0])
    }

    #[inline]
    pub fn unpack(word: u64) -> Machine {
        let [success, http_failure, tcp_failure, timeout_failure, status, ..] = word.to_le_bytes();
        let status = match status {
            0 => Status::Healthy,
            1 => Status::MostlyHealthy,
            2 => Status::MostlyUnhealthy,
            _ => Status::Unhealthy,
        };
        Machine { status, counters: Counters { success, http_failure, tcp_failure, timeout_failure } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(reports: &[(Report, u8)]) -> Machine {
        reports.iter().fold(Machine::default(), |m, (report, limit)| m.report(*report, *limit).map_or(m, |c| c.machine))
    }

    #[test]
    fn failures_in_a_row_take_a_node_out_and_successes_bring_it_back() {
        use Report::*;
        assert_eq!(run(&[(TcpFailure, 2)]).status, Status::MostlyHealthy);
        assert_eq!(run(&[(TcpFailure, 2), (Success, 2), (TcpFailure, 2)]).status, Status::MostlyHealthy);
        let down = run(&[(TcpFailure, 2), (TcpFailure, 2)]);
        assert_eq!((down.status, down.counters.tcp_failure), (Status::Unhealthy, 2));
        let rising = down.report(Success, 2).unwrap().machine;
        assert_eq!(rising.status, Status::MostlyUnhealthy);
        assert_eq!(rising.counters, Counters { success: 1, ..Counters::default() });
        let up = rising.report(Success, 2).unwrap().machine;
        assert_eq!((up.status, up.counters.success), (Status::Healthy, 2));
    }

    #[test]
    fn classes_of_failure_do_not_end_each_other() {
        use Report::*;
        let machine = run(&[(HttpFailure, 3), (Timeout, 3), (HttpFailure, 3)]);
        assert_eq!(machine.status, Status::MostlyHealthy);
        assert_eq!((machine.counters.http_failure, machine.counters.timeout_failure), (2, 1));
        assert_eq!(
            run(&[(HttpFailure, 3), (Timeout, 3), (HttpFailure, 3), (HttpFailure, 3)]).status,
            Status::Unhealthy
        );
    }

    #[test]
    fn what_a_state_knows_is_not_counted() {
        assert_eq!(Machine::default().report(Report::Success, 2), None);
        assert_eq!(Machine::default().report(Report::HttpFailure, 0), None);
        let down = run(&[(Report::Timeout, 1)]);
        assert_eq!(down.status, Status::Unhealthy);
        assert_eq!(down.report(Report::TcpFailure, 1), None);
    }

    fn reports() -> impl Strategy<Value = Vec<(Report, u8)>> {
        let report = prop_oneof![
            Just(Report::Success),
            Just(Report::HttpFailure),
            Just(Report::TcpFailure),
            Just(Report::Timeout)
        ];
        prop::collection::vec((report, 0u8..6), 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn only_a_full_row_crosses_between_up_and_down(reports in reports()) {
            let mut machine = Machine::default();
            for (report, limit) in reports {
                let Some(counted) = machine.report(report, limit) else { continue };
                let next = counted.machine;
                if next.status.is_up() != machine.status.is_up() {
                    prop_assert!(counted.count >= limit);
                    prop_assert_eq!(next.status.is_up(), report == Report::Success);
                }
                // a success and failures never stand beside each other
                prop_assert!(next.counters.success == 0 || !next.counters.failed());
                prop_assert_eq!(Machine::unpack(next.pack()), next);
                machine = next;
            }
        }

        #[test]
        fn enough_of_one_kind_always_decides(reports in reports(), limit in 1u8..6) {
            let start = run(&reports);
            let mut machine = start;
            for _ in 0..limit {
                machine = machine.report(Report::TcpFailure, limit).map_or(machine, |c| c.machine);
            }
            prop_assert_eq!(machine.status, Status::Unhealthy);
            let mut machine = start;
            for _ in 0..limit {
                machine = machine.report(Report::Success, limit).map_or(machine, |c| c.machine);
            }
            prop_assert_eq!(machine.status, Status::Healthy);
        }
    }
}
