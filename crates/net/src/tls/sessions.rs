//! Sessions to resume, for all workers together: tickets that clients keep, or what is kept here for them. The surprise: all
//! objects with client certificates share one cache, each with keys of its own, so that no session is resumed under another
//! object, nor under the same one after it changed, and memory is bounded however many objects there are.
use super::PemError;
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where an object's sessions are kept.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    pub(super) ticketer: Option<Arc<dyn ProducesTickets>>,
    pub(super) cache: Arc<dyn StoresServerSessions>,
}

impl Sessions {
    /// `tickets`: with keys that change every six hours; the one before is still taken.
    pub(super) fn new(tickets: bool, cache: usize) -> Result<Self, PemError> {
        Self::over(tickets, ServerSessionMemoryCache::new(cache))
    }

    /// Sessions of one form of one object, in a cache that others share.
    pub(super) fn apart(tickets: bool, shared: &Arc<dyn StoresServerSessions>) -> Result<Self, PemError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let prefix = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        Self::over(tickets, Arc::new(Apart { shared: shared.clone(), prefix }))
    }

    fn over(tickets: bool, cache: Arc<dyn StoresServerSessions>) -> Result<Self, PemError> {
        let ticketer = tickets.then(rustls::crypto::aws_lc_rs::Ticketer::new).transpose();
        Ok(Self { ticketer: ticketer.map_err(|e| PemError::Config(e.to_string()))?, cache })
    }
}

#[derive(Debug)]
struct Apart {
    shared: Arc<dyn StoresServerSessions>,
    prefix: [u8; 8],
}

impl Apart {
    fn key(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }
}

impl StoresServerSessions for Apart {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.shared.put(self.key(&key), value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.shared.get(&self.key(key))
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.shared.take(&self.key(key))
    }

    fn can_cache(&self) -> bool {
        self.shared.can_cache()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_does_not_see_the_others_sessions() {
        let shared: Arc<dyn StoresServerSessions> = ServerSessionMemoryCache::new(8);
        let [a, b] = [(); 2].map(|()| Sessions::apart(false, &shared).unwrap().cache);
        assert!(a.put(vec![1], vec![2]) && a.can_cache());
        assert_eq!((a.get(&[1]), b.get(&[1]), b.take(&[1])), (Some(vec![2]), None, None));
        assert_eq!((a.take(&[1]), a.get(&[1])), (Some(vec![2]), None));
    }
}
