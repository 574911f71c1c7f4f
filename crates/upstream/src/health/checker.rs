//! The health checks of one upstream: its targets, their probes, and what requests report about them.
//!
//! The surprise: there is one per upstream and process, shared by all forms of the upstream that have equal `checks`, so that
//! changing anything else neither restarts probes nor forgets counts. Only the newest form says which nodes are probed.
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use sluice_net::tls::ClientTls;
use tokio::sync::{Notify, Semaphore};

use super::checks::Checks;
use super::machine::Report;
use super::report::{HealthReport, NodeReport};
use super::run;
use super::target::Target;
use crate::endpoint::Endpoint;
use crate::retry::{Failure, FailureKind, FailureSource};
use crate::upstream::Refresh;

/// What the checks of an upstream are made of.
#[derive(Clone, Debug)]
pub struct CheckerSettings {
    /// The upstream's resource key: `routes/1`.
    pub key: Arc<str>,
    pub checks: Checks,
    /// How probes speak TLS; `None`: they do not.
    pub tls: Option<ClientTls>,
    /// Probes without TLS speak HTTP/2; with it they speak what the node agrees to.
    pub h2c: bool,
    /// `upstream_host` where `pass_host` is `rewrite`: the `Host` of probes.
    pub host_header: Option<Arc<str>>,
}

impl CheckerSettings {
    fn same(&self, other: &CheckerSettings) -> bool {
        let tls = match (&self.tls, &other.tls) {
            (Some(one), Some(other)) => one.same(other),
            (None, None) => true,
            _ => false,
        };
        tls && self.key == other.key
            && self.h2c == other.h2c
            && self.checks == other.checks
            && self.host_header == other.host_header
    }
}

/// A node of the upstream as probes see it.
#[derive(Clone, Debug)]
pub struct Member {
    pub target: Arc<Target>,
    /// `Host` and server name of probes.
    pub host_header: Arc<str>,
}

/// What the checker shares with its task.
#[derive(Debug)]
pub(super) struct Shared {
    pub settings: CheckerSettings,
    pub members: ArcSwap<Vec<Member>>,
    /// Members changed, or a node's state did otherwise than by a probe.
    pub wake: Notify,
    /// Bounds the probes of the process.
    pub probes: Arc<Semaphore>,
}

/// See the file's head.
#[derive(Debug)]
pub struct Checker {
    shared: Arc<Shared>,
    /// Number of the newest form of the upstream, see [`Checker::enter`].
    newest: AtomicU64,
    task: Mutex<Option<Refresh>>,
}

impl Checker {
    pub(crate) fn new(settings: CheckerSettings, probes: Arc<Semaphore>) -> Checker {
        let shared = Shared { settings, members: ArcSwap::default(), wake: Notify::new(), probes };
        Checker { shared: Arc::new(shared), newest: AtomicU64::new(0), task: Mutex::default() }
    }

    pub(crate) fn has(&self, settings: &CheckerSettings) -> bool {
        self.shared.settings.same(settings)
    }

    /// Begins to probe on the control runtime, if there is anything to do; once.
    pub fn start(&self, control: &tokio::runtime::Handle) {
        let checks = &self.shared.settings.checks;
        let probes =
            checks.active.as_ref().is_some_and(|a| a.healthy_interval.is_some() || a.unhealthy_interval.is_some());
        let ejects = checks.passive.ejection.is_some_and(|e| e.time.is_some());
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if (probes || ejects) && task.is_none() {
            *task = Some(Refresh::new(control.spawn(run::run(self.shared.clone())).abort_handle()));
        }
    }

    /// Ends probing for good: another checker has taken the upstream over.
    pub(crate) fn retire(&self) {
        self.newest.store(u64::MAX, Ordering::Release);
        self.shared.members.store(Arc::default());
        self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.newest.load(Ordering::Acquire) == u64::MAX
    }

    pub fn settings(&self) -> &CheckerSettings {
        &self.shared.settings
    }

    /// A new form of the upstream; its number is for [`Checker::set_members`].
    pub(crate) fn enter(&self) -> u64 {
        self.newest.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_add(1)).map_or(0, |n| n + 1)
    }

    /// Where the node of an address is probed, and as whom: `checks.active.port` and `host` stand before its own.
    pub(crate) fn place(&self, ip: IpAddr, port: u16) -> (SocketAddr, Option<&Arc<str>>) {
        let active = self.shared.settings.checks.active.as_ref();
        let port = active.and_then(|a| a.port).unwrap_or(port);
        (SocketAddr::new(ip, port), active.and_then(|a| a.host.as_ref()))
    }

    /// The node to probe. `Host` is the upstream's own where it rewrites, else the node's name, else `checks.active.host`,
    /// else the address (apisix/healthcheck_manager.lua `compute_targets`).
    pub(crate) fn member(&self, target: Arc<Target>, domain: Option<&Arc<str>>) -> Member {
        let own = self.shared.settings.host_header.as_ref().or(domain);
        Member { host_header: own.unwrap_or(&target.hostname).clone(), target }
    }

    /// Says which nodes there are. An older form of the upstream is not listened to.
    pub(crate) fn set_members(&self, form: u64, mut members: Vec<Member>) {
        if self.newest.load(Ordering::Acquire) != form {
            return;
        }
        // nodes may share an address, and with `checks.active.port` they may share a probe
        let mut seen: Vec<*const Target> = Vec::with_capacity(members.len());
        members.retain(|member| {
            let place = Arc::as_ptr(&member.target);
            match seen.binary_search(&place) {
                Ok(_) => false,
                Err(at) => {
                    seen.insert(at, place);
                    true
                }
            }
        });
        let before = self.shared.members.load();
        let same = |(a, b): (&Member, &Member)| Arc::ptr_eq(&a.target, &b.target) && a.host_header == b.host_header;
        if before.len() == members.len() && before.iter().zip(&members).all(same) {
            return;
        }
        self.shared.members.store(Arc::new(members));
        self.shared.wake.notify_one();
    }

    /// A node answered with this status. Costs a look-up and, for a healthy node that answers well, one load.
    #[inline]
    pub fn answered(&self, node: &Endpoint, status: u16, now_ms: u64) {
        let passive = &self.shared.settings.checks.passive;
        if let Some(report) = passive.statuses.as_ref().and_then(|statuses| statuses.class(status)) {
            self.passive(node, report, now_ms);
        }
    }

    /// As [`Checker::answered`], of a call of gRPC that may have ended with a status of its own.
    #[inline]
    pub fn called(&self, node: &Endpoint, status: u16, grpc: Option<u8>, now_ms: u64) {
        match grpc {
            Some(code) if self.shared.settings.checks.passive.grpc.contains(code) => {
                self.passive(node, Report::HttpFailure, now_ms);
            }
            _ => self.answered(node, status, now_ms),
        }
    }

    /// A try failed without an answer. `last`: no other node is tried, so that the client gets the failure's status, which
    /// then is what counts; a try before the last counts as what it was (apisix/balancer.lua `pick_server`, apisix/init.lua
    /// `healthcheck_passive`). Where nodes are ejected, a failure always counts as what it was.
    #[cold]
    pub fn failed(&self, node: &Endpoint, failure: &Failure, last: bool, now_ms: u64) {
        if failure.source != FailureSource::Upstream {
            return;
        }
        if last && self.shared.settings.checks.passive.ejection.is_none() {
            return self.answered(node, failure.status(), now_ms);
        }
        let report = if failure.kind == FailureKind::Timeout { Report::Timeout } else { Report::TcpFailure };
        self.passive(node, report, now_ms);
    }

    /// An answer broke off after its head. What counts is the status, as in APISIX; where failures are counted within a time or
    /// nodes are ejected, the failure does, as such a node would go on to look well.
    #[cold]
    pub fn broke_off(&self, node: &Endpoint, failure: &Failure, status: u16, now_ms: u64) {
        if self.shared.settings.checks.passive.ejection.is_none() {
            return self.answered(node, status, now_ms);
        }
        self.failed(node, failure, false, now_ms);
    }

    /// A session on a stream route found no connection at the last node (apisix/init.lua `healthcheck_passive`).
    #[cold]
    pub fn session_failed(&self, node: &Endpoint, now_ms: u64) {
        if self.shared.settings.checks.passive.statuses.is_some() {
            self.passive(node, Report::TcpFailure, now_ms);
        }
    }

    #[inline]
    fn passive(&self, node: &Endpoint, report: Report, now_ms: u64) {
        let Some(target) = &node.health else { return };
        let passive = &self.shared.settings.checks.passive;
        if passive.ejection.is_none() && !target.machine().counts(report, passive.limits.of(report)) {
            return;
        }
        if target.passive(report, passive, &self.shared.settings.key, now_ms) {
            self.shared.wake.notify_one();
        }
    }

    /// What the Control API and metrics show.
    pub fn report(&self) -> HealthReport {
        let settings = &self.shared.settings;
        let nodes = self.shared.members.load().iter().map(|m| NodeReport::of(&m.target)).collect();
        HealthReport { name: format!("/apisix/{}", settings.key), kind: settings.checks.kind, nodes }
    }
}
