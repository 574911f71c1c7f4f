//! One checked address of one upstream: state and counts as atomics, shared by balancers, probes and requests.
//!
//! The surprise: an ejection (ours) lies over the state machine and does not change it: while it lasts the node is out
//! whatever probes say, and afterwards the machine's state holds again.
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::checks::{Limits, Passive};
use super::machine::{Machine, Report, Status};
use super::window::Window;
use crate::endpoint::health_changed;

/// When a target was probed last, and until when it is ejected. Touched by the checker alone.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// The beat of the last probe; `None` before the first.
    pub last: Option<Instant>,
    /// When the first probe is due.
    pub first: Option<Instant>,
    pub readmit: Option<Instant>,
}

/// See the file's head. Lives as long as a balancer uses it, see [`crate::NodeStates`].
#[derive(Debug)]
pub struct Target {
    pub address: SocketAddr,
    /// `checks.active.host`, or the address.
    pub hostname: Arc<str>,
    machine: AtomicU64,
    window: AtomicU64,
    ejected: AtomicBool,
    /// When it was ejected, as a rank among all ejections of the process; 0 while it is not.
    rank: AtomicU64,
    schedule: Mutex<Schedule>,
}

static EJECTIONS: AtomicU64 = AtomicU64::new(1);

impl Target {
    pub fn new(address: SocketAddr, hostname: Option<&str>) -> Target {
        let target = Target {
            address,
            hostname: "".into(),
            machine: AtomicU64::new(Machine::default().pack()),
            window: AtomicU64::new(0),
            ejected: AtomicBool::new(false),
            rank: AtomicU64::new(0),
            schedule: Mutex::default(),
        };
        let hostname = hostname.map_or_else(|| target.ip().into(), Into::into);
        Target { hostname, ..target }
    }

    /// The address as APISIX writes it: IPv6 in brackets.
    pub fn ip(&self) -> String {
        match self.address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        }
    }

    /// State and counts at this moment.
    #[inline]
    pub fn machine(&self) -> Machine {
        Machine::unpack(self.machine.load(Ordering::Acquire))
    }

    /// Whether balancers may use it.
    #[inline]
    pub fn is_up(&self) -> bool {
        self.machine().status.is_up() && !self.is_ejected()
    }

    #[inline]
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Acquire)
    }

    /// Whether the machine says up although the node is out; the earliest ejected has the lowest rank.
    pub fn ejection_rank(&self) -> Option<u64> {
        (self.is_ejected() && self.machine().status.is_up()).then(|| self.rank.load(Ordering::Relaxed))
    }

    /// The state as it is shown: who is ejected is unhealthy.
    pub fn status(&self) -> Status {
        if self.is_ejected() { Status::Unhealthy } else { self.machine().status }
    }

    /// Counts failures of a window or row of live traffic.
    pub(super) fn window(&self) -> Window {
        Window::unpack(self.window.load(Ordering::Relaxed))
    }

    /// Counts a report; `true` when the node came up or went down. `upstream`: its key, for the log.
    pub fn report(&self, report: Report, limits: &Limits, upstream: &str) -> bool {
        let limit = limits.of(report);
        let mut word = self.machine.load(Ordering::Relaxed);
        loop {
            let before = Machine::unpack(word);
            let Some(counted) = before.report(report, limit) else { return false };
            let after = counted.machine;
            match self.machine.compare_exchange_weak(word, after.pack(), Ordering::AcqRel, Ordering::Relaxed) {
                Err(now) => word = now,
                Ok(_) => {
                    let direction = if report == Report::Success { "healthy" } else { "unhealthy" };
                    // the line that users of lua-resty-healthcheck grep for
                    tracing::warn!(
                        "[healthcheck] (upstream#/apisix/{upstream}) {direction} {class} increment ({count}/{limit}) for '{host}({ip}:{port})'",
                        class = report.as_str(),
                        count = counted.count,
                        host = self.hostname,
                        ip = self.ip(),
                        port = self.address.port(),
                    );
                    let flipped = before.status.is_up() != after.status.is_up();
                    if flipped {
                        health_changed();
                    }
                    return flipped;
                }
            }
        }
    }

    /// Sets the state, counts at zero; `true` when the node came up or went down.
    pub fn force(&self, up: bool) -> bool {
        let status = if up { Status::Healthy } else { Status::Unhealthy };
        let machine = Machine { status, ..Machine::default() };
        let before = Machine::unpack(self.machine.swap(machine.pack(), Ordering::AcqRel));
        let flipped = before.status.is_up() != up;
        if flipped {
            health_changed();
        }
        flipped
    }

    /// Counts a result of live traffic: towards an ejection where these are configured, else as [`Target::report`].
    /// `true`: the checker has to look at the node.
    pub(super) fn passive(&self, report: Report, passive: &Passive, upstream: &str, now_ms: u64) -> bool {
        let Some(ejection) = passive.ejection else { return self.report(report, &passive.limits, upstream) };
        if report == Report::Success {
            if ejection.interval.is_none() && self.window.load(Ordering::Relaxed) != 0 {
                self.window.store(0, Ordering::Relaxed);
            }
            return false;
        }
        let limit = passive.limits.of(report);
        if limit == 0 || !self.is_up() {
            return false;
        }
        let length = ejection.interval.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        let mut word = self.window.load(Ordering::Relaxed);
        loop {
            let (next, count) = Window::unpack(word).fail(report, now_ms, length);
            let over = count >= limit;
            let wanted = if over { 0 } else { next.pack() };
            match self.window.compare_exchange_weak(word, wanted, Ordering::AcqRel, Ordering::Relaxed) {
                Err(now) => word = now,
                Ok(_) if !over => return false,
                Ok(_) => break,
            }
        }
        tracing::warn!(
            "[healthcheck] (upstream#/apisix/{upstream}) ejected after {limit} {} failures: '{}({}:{})'",
            report.as_str(),
            self.hostname,
            self.ip(),
            self.address.port(),
        );
        if ejection.time.is_none() {
            return self.force(false);
        }
        self.eject()
    }

    /// Puts the node out over its state; its checker ends that.
    pub(crate) fn eject(&self) -> bool {
        self.rank.store(EJECTIONS.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let changed = !self.ejected.swap(true, Ordering::AcqRel);
        if changed {
            health_changed();
        }
        changed
    }

    /// Ends an ejection.
    pub(super) fn readmit(&self) {
        if self.ejected.swap(false, Ordering::AcqRel) {
            health_changed();
        }
    }

    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::checks::Checks;
    use serde_json::json;

    fn target() -> Target {
        Target::new(([127, 0, 0, 1], 80).into(), None)
    }

    fn passive(unhealthy: serde_json::Value) -> Passive {
        Checks::read(&json!({"active": {}, "passive": {"unhealthy": unhealthy}})).unwrap().passive
    }

    #[test]
    fn names_are_apisix() {
        assert_eq!((target().ip(), &*target().hostname), ("127.0.0.1".into(), "127.0.0.1"));
        let six = Target::new("[::1]:80".parse().unwrap(), Some("foo.com"));
        assert_eq!((six.ip(), &*six.hostname), ("[::1]".into(), "foo.com"));
    }

    #[test]
    fn a_change_moves_the_epoch() {
        let (target, passive) = (target(), passive(json!({"http_failures": 2})));
        assert!(!target.passive(Report::HttpFailure, &passive, "routes/1", 0));
        let before = crate::endpoint::health_epoch();
        assert!(target.passive(Report::HttpFailure, &passive, "routes/1", 0));
        assert!(crate::endpoint::health_epoch() > before);
        assert!(!target.is_up());
        assert!(target.force(true) && target.is_up());
    }

    #[test]
    fn within_a_window_successes_do_not_help() {
        let (target, passive) = (target(), passive(json!({"http_failures": 3, "interval": 10, "ejection_time": 5})));
        for now in [0, 4_000] {
            assert!(!target.passive(Report::HttpFailure, &passive, "routes/1", now));
            target.passive(Report::Success, &passive, "routes/1", now);
        }
        assert!(target.passive(Report::HttpFailure, &passive, "routes/1", 9_999));
        assert!(target.is_ejected() && !target.is_up() && target.status() == Status::Unhealthy);
        assert!(target.ejection_rank().is_some());
        target.readmit();
        assert!(target.is_up() && target.status() == Status::Healthy);
        for now in [20_000, 25_000, 30_000] {
            assert!(!target.passive(Report::HttpFailure, &passive, "routes/1", now), "too far apart");
        }
    }

    #[test]
    fn in_a_row_a_success_ends_the_row() {
        let (target, passive) = (target(), passive(json!({"tcp_failures": 2, "ejection_time": 5})));
        assert!(!target.passive(Report::TcpFailure, &passive, "routes/1", 0));
        target.passive(Report::Success, &passive, "routes/1", 0);
        assert!(!target.passive(Report::TcpFailure, &passive, "routes/1", 0));
        assert!(target.passive(Report::TcpFailure, &passive, "routes/1", 0));
    }

    #[test]
    fn without_an_ejection_time_the_machine_holds_the_node_out() {
        let (target, passive) = (target(), passive(json!({"timeouts": 1, "interval": 5})));
        assert!(target.passive(Report::Timeout, &passive, "routes/1", 0));
        assert_eq!((target.machine().status, target.is_ejected()), (Status::Unhealthy, false));
    }
}
