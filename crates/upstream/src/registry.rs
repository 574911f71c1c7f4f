//! Every node's state of this process, found again after a configuration change.
//!
//! The surprise: the registry owns nothing. Balancers hold the states; when the last balancer with a node is gone, its
//! state is gone, and the empty place is swept when the map has doubled.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Semaphore;

use crate::breaker::{Breaker, BreakerReport};
use crate::concurrency::{ConcurrencyReport, Limiter};
use crate::endpoint::NodeState;
use crate::health::{Checker, CheckerSettings, HealthReport, Target};
use crate::retry::BudgetWindow;

type Key = (Arc<str>, Arc<str>, u16);

/// A probed address: upstream key, address, hostname (lua-resty-healthcheck's identity of a target).
type TargetKey = (Arc<str>, SocketAddr, Option<Arc<str>>);

/// A breaker: upstream key, and the node where it is a node's.
type BreakerKey = (Arc<str>, Option<(Arc<str>, u16)>);

/// Probes of the process at a time where nothing else is said.
pub const MAX_PROBES: usize = 256;

/// States by (upstream key, host, port). Locked at configuration time only.
#[derive(Debug)]
pub struct NodeStates {
    inner: Mutex<Inner>,
    probes: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Inner {
    states: HashMap<Key, Weak<NodeState>, foldhash::fast::RandomState>,
    sweep_at: usize,
    targets: HashMap<TargetKey, Weak<Target>, foldhash::fast::RandomState>,
    sweep_targets_at: usize,
    checkers: HashMap<Arc<str>, Weak<Checker>, foldhash::fast::RandomState>,
    sweep_checkers_at: usize,
    breakers: HashMap<BreakerKey, Weak<Breaker>, foldhash::fast::RandomState>,
    sweep_breakers_at: usize,
    limiters: HashMap<Arc<str>, Weak<Limiter>, foldhash::fast::RandomState>,
    sweep_limiters_at: usize,
    budgets: HashMap<Arc<str>, Weak<BudgetWindow>, foldhash::fast::RandomState>,
    sweep_budgets_at: usize,
}

/// A breaker of the process.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedBreaker {
    /// The upstream's resource key: `upstreams/1`.
    pub upstream: Arc<str>,
    /// Address and port; `None`: it is the whole upstream's.
    pub node: Option<(Arc<str>, u16)>,
    pub report: BreakerReport,
}

impl Default for NodeStates {
    fn default() -> Self {
        NodeStates::with_probes(MAX_PROBES)
    }
}

impl NodeStates {
    pub fn new() -> Self {
        Self::default()
    }

    /// With a bound on the health checks' sockets of the process.
    pub fn with_probes(probes: usize) -> Self {
        NodeStates { inner: Mutex::default(), probes: Arc::new(Semaphore::new(probes.clamp(1, 65_536))) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // the map is whole after every statement, a panic elsewhere does not spoil it
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's state, as it was while anybody still uses it, else new. `upstream` is the resource key (`/routes/1`,
    /// `/upstreams/1`): equal nodes of different upstreams are watched separately.
    pub fn get(&self, upstream: &Arc<str>, host: &Arc<str>, port: u16) -> Arc<NodeState> {
        let mut inner = self.lock();
        if inner.states.len() >= inner.sweep_at {
            inner.states.retain(|_, state| state.strong_count() > 0);
            inner.sweep_at = (inner.states.len() * 2).max(64);
        }
        let place = inner.states.entry((upstream.clone(), host.clone(), port)).or_default();
        if let Some(state) = place.upgrade() {
            return state;
        }
        let state = Arc::default();
        *place = Arc::downgrade(&state);
        state
    }

    /// What health checks know of an address, as it was while anybody still uses it, else new.
    pub fn target(&self, upstream: &Arc<str>, address: SocketAddr, hostname: Option<&Arc<str>>) -> Arc<Target> {
        let mut inner = self.lock();
        if inner.targets.len() >= inner.sweep_targets_at {
            inner.targets.retain(|_, target| target.strong_count() > 0);
            inner.sweep_targets_at = (inner.targets.len() * 2).max(64);
        }
        let place = inner.targets.entry((upstream.clone(), address, hostname.cloned())).or_default();
        if let Some(target) = place.upgrade() {
            return target;
        }
        let target = Arc::new(Target::new(address, hostname.map(|name| &**name)));
        *place = Arc::downgrade(&target);
        target
    }

    /// The checker of an upstream: the one in use where its settings are the same, else a new one that takes its place.
    pub fn checker(&self, settings: CheckerSettings) -> Arc<Checker> {
        let mut inner = self.lock();
        if inner.checkers.len() >= inner.sweep_checkers_at {
            inner.checkers.retain(|_, checker| checker.strong_count() > 0);
            inner.sweep_checkers_at = (inner.checkers.len() * 2).max(64);
        }
        let place = inner.checkers.entry(settings.key.clone()).or_default();
        let before = place.upgrade();
        if let Some(checker) = before.as_ref().filter(|checker| checker.has(&settings)) {
            return checker.clone();
        }
        let resource = format!("/apisix/{}", settings.key);
        let checker = Arc::new(Checker::new(settings, self.probes.clone()));
        *place = Arc::downgrade(&checker);
        drop(inner);
        tracing::info!("create new checker: {:p} for resource: {resource}", Arc::as_ptr(&checker));
        if let Some(before) = before {
            tracing::info!("releasing existing checker: {:p} for resource: {resource}", Arc::as_ptr(&before));
            before.retire();
        }
        checker
    }

    /// What an upstream's retry budget has counted, while anybody still uses it, else nothing yet.
    pub fn budget(&self, upstream: &str) -> Arc<BudgetWindow> {
        let mut inner = self.lock();
        if inner.budgets.len() >= inner.sweep_budgets_at {
            inner.budgets.retain(|_, window| window.strong_count() > 0);
            inner.sweep_budgets_at = (inner.budgets.len() * 2).max(64);
        }
        let place = inner.budgets.entry(upstream.into()).or_default();
        if let Some(window) = place.upgrade() {
            return window;
        }
        let window = Arc::default();
        *place = Arc::downgrade(&window);
        window
    }

    /// The upstream has no checks any more, whoever still uses an older form of it.
    pub fn no_checker(&self, upstream: &str) {
        let before = self.lock().checkers.remove(upstream);
        if let Some(before) = before.and_then(|checker| checker.upgrade()) {
            tracing::info!("try to release checker: {:p} for resource: /apisix/{upstream}", Arc::as_ptr(&before));
            before.retire();
        }
    }

    /// What all health checks of the process have found, in the order of their resources' names. Upstreams that stand in
    /// plugins have a `#` in theirs.
    pub fn health(&self) -> Vec<HealthReport> {
        let checkers: Vec<_> = self.lock().checkers.values().filter_map(Weak::upgrade).collect();
        let mut reports: Vec<_> = checkers.iter().filter(|c| !c.is_retired()).map(|c| c.report()).collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        reports
    }

    /// The breaker of an upstream, or of one of its nodes, as it was while anybody still uses it, else new.
    pub fn breaker(&self, upstream: &Arc<str>, node: Option<(&Arc<str>, u16)>) -> Arc<Breaker> {
        let mut inner = self.lock();
        if inner.breakers.len() >= inner.sweep_breakers_at {
            inner.breakers.retain(|_, breaker| breaker.strong_count() > 0);
            inner.sweep_breakers_at = (inner.breakers.len() * 2).max(64);
        }
        let node = node.map(|(host, port)| (host.clone(), port));
        let place = inner.breakers.entry((upstream.clone(), node)).or_default();
        found_again(place)
    }

    /// The count of an upstream's requests under way, as it was while anybody still uses it, else new.
    pub fn limiter(&self, upstream: &Arc<str>) -> Arc<Limiter> {
        let mut inner = self.lock();
        if inner.limiters.len() >= inner.sweep_limiters_at {
            inner.limiters.retain(|_, limiter| limiter.strong_count() > 0);
            inner.sweep_limiters_at = (inner.limiters.len() * 2).max(64);
        }
        found_again(inner.limiters.entry(upstream.clone()).or_default())
    }

    /// All breakers of the process, by upstream and node.
    pub fn breakers(&self, now_ms: u64) -> Vec<NamedBreaker> {
        let live = |(key, breaker): (&BreakerKey, &Weak<Breaker>)| Some((key.clone(), breaker.upgrade()?));
        let mut breakers: Vec<_> = self.lock().breakers.iter().filter_map(live).collect();
        breakers.sort_by(|(a, _), (b, _)| a.cmp(b));
        let report = |((upstream, node), breaker): (BreakerKey, Arc<Breaker>)| {
            let report = BreakerReport::of(&breaker, now_ms);
            NamedBreaker { upstream, node, report }
        };
        breakers.into_iter().map(report).collect()
    }

    /// All concurrency limits of the process, by upstream.
    pub fn concurrency_limits(&self) -> Vec<(Arc<str>, ConcurrencyReport)> {
        let live = |(key, limiter): (&Arc<str>, &Weak<Limiter>)| Some((key.clone(), limiter.upgrade()?));
        let mut limiters: Vec<_> = self.lock().limiters.iter().filter_map(live).collect();
        limiters.sort_by(|(a, _), (b, _)| a.cmp(b));
        limiters.into_iter().map(|(key, limiter)| (key, ConcurrencyReport::of(&limiter))).collect()
    }

    /// The state of a node in use, for status pages and health reports.
    pub fn find(&self, upstream: &str, host: &str, port: u16) -> Option<Arc<NodeState>> {
        self.lock().states.get(&(upstream.into(), host.into(), port)).and_then(Weak::upgrade)
    }

    /// Nodes in use.
    pub fn len(&self) -> usize {
        self.lock().states.values().filter(|state| state.strong_count() > 0).count()
    }

    /// No node in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is in use at this place, else a new one.
fn found_again<T: Default>(place: &mut Weak<T>) -> Arc<T> {
    if let Some(known) = place.upgrade() {
        return known;
    }
    let new = Arc::default();
    *place = Arc::downgrade(&new);
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_live_as_long_as_somebody_uses_them() {
        let states = NodeStates::new();
        let (key, host): (Arc<str>, Arc<str>) = ("/upstreams/1".into(), "10.0.0.1".into());
        let first = states.get(&key, &host, 80);
        first.enter();
        assert!(Arc::ptr_eq(&first, &states.get(&key, &host, 80)));
        assert!(!Arc::ptr_eq(&first, &states.get(&"/upstreams/2".into(), &host, 80)));
        assert!(!Arc::ptr_eq(&first, &states.get(&key, &host, 81)));
        assert_eq!(states.len(), 1);
        assert!(states.find("/upstreams/1", "10.0.0.1", 80).is_some());
        drop(first);
        assert!(states.is_empty() && states.find("/upstreams/1", "10.0.0.1", 80).is_none());
        assert_eq!(states.get(&key, &host, 80).active(), 0);
    }

    #[test]
    fn breakers_and_limiters_are_found_again_and_listed() {
        let states = NodeStates::new();
        let (key, host): (Arc<str>, Arc<str>) = ("upstreams/1".into(), "10.0.0.1".into());
        let (whole, node) = (states.breaker(&key, None), states.breaker(&key, Some((&host, 80))));
        assert!(Arc::ptr_eq(&whole, &states.breaker(&key, None)) && !Arc::ptr_eq(&whole, &node));
        assert!(Arc::ptr_eq(&node, &states.breaker(&key, Some((&host, 80)))));
        let nodes: Vec<_> = states.breakers(0).into_iter().map(|breaker| breaker.node).collect();
        assert_eq!(nodes, [None, Some((host.clone(), 80))]);
        drop(node);
        assert_eq!(states.breakers(0).len(), 1);
        let limiter = states.limiter(&key);
        assert!(Arc::ptr_eq(&limiter, &states.limiter(&key)));
        assert_eq!(states.concurrency_limits().len(), 1);
    }

    #[test]
    fn budgets_outlive_a_change_of_the_upstream() {
        let states = NodeStates::new();
        let window = states.budget("upstreams/1");
        assert!(Arc::ptr_eq(&window, &states.budget("upstreams/1")));
        assert!(!Arc::ptr_eq(&window, &states.budget("upstreams/2")));
        for n in 0..10_000 {
            states.budget(&format!("upstreams/{n}"));
        }
        assert!(states.lock().budgets.len() <= 65);
    }

    #[test]
    fn dead_places_are_swept() {
        let states = NodeStates::new();
        let (key, host): (Arc<str>, Arc<str>) = ("/upstreams/1".into(), "10.0.0.1".into());
        for port in 0..10_000 {
            states.get(&key, &host, port);
        }
        assert!(states.lock().states.len() <= 65);
    }
}
