//! Every node's state of this process, found again after a configuration change.
//!
//! The surprise: the registry owns nothing. Balancers hold the states; when the last balancer with a node is gone, its
//! state is gone, and the empty place is swept when the map has doubled.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::endpoint::NodeState;

type Key = (Arc<str>, Arc<str>, u16);

/// States by (upstream key, host, port). Locked at configuration time only.
#[derive(Debug, Default)]
pub struct NodeStates {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    states: HashMap<Key, Weak<NodeState>, foldhash::fast::RandomState>,
    sweep_at: usize,
}

impl NodeStates {
    pub fn new() -> Self {
        Self::default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_live_as_long_as_somebody_uses_them() {
        let states = NodeStates::new();
        let (key, host): (Arc<str>, Arc<str>) = ("/upstreams/1".into(), "10.0.0.1".into());
        let first = states.get(&key, &host, 80);
        first.set_healthy(false);
        assert!(Arc::ptr_eq(&first, &states.get(&key, &host, 80)));
        assert!(!Arc::ptr_eq(&first, &states.get(&"/upstreams/2".into(), &host, 80)));
        assert!(!Arc::ptr_eq(&first, &states.get(&key, &host, 81)));
        assert_eq!(states.len(), 1);
        assert!(states.find("/upstreams/1", "10.0.0.1", 80).is_some());
        drop(first);
        assert!(states.is_empty() && states.find("/upstreams/1", "10.0.0.1", 80).is_none());
        assert!(states.get(&key, &host, 80).is_healthy());
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
