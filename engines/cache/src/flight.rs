//! One fetch for concurrent misses: the first that asks leads, the others wait for what it stores.
//!
//! The surprise: an answer that turns out not to be stored is remembered for a moment, so that requests for what can never be
//! cached do not queue up behind each other.
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const SHARDS: usize = 16;
/// How long a key is not led again after an answer that was not stored.
const PASS: Duration = Duration::from_secs(5);
/// Such keys that are remembered, per shard.
const PASSES: usize = 1024;

/// How a fetch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landed {
    /// What came is in the store.
    Stored,
    /// What came was not to be stored: everybody fetches for himself.
    Passed,
    /// Nothing came: another may try.
    Lost,
}

type Tell = watch::Receiver<Option<Landed>>;

#[derive(Default)]
struct Shard {
    flights: HashMap<Arc<[u8]>, Tell, foldhash::quality::RandomState>,
    passes: HashMap<Arc<[u8]>, Instant, foldhash::quality::RandomState>,
}

/// The fetches under way.
#[derive(Default)]
pub struct Flights {
    hasher: foldhash::quality::RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// What a miss is to do.
pub enum Role {
    /// Fetch, and tell how it ended.
    Lead(Ticket),
    /// Wait.
    Wait(Waiter),
    /// Fetch without telling anybody.
    Alone,
}

/// Held by who fetches.
pub struct Ticket {
    flights: Arc<Flights>,
    key: Arc<[u8]>,
    tell: watch::Sender<Option<Landed>>,
}

/// Held by who waits for another's fetch.
pub struct Waiter(Tell);

impl Flights {
    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins or joins the fetch of a key.
    pub fn join(self: &Arc<Self>, key: &[u8]) -> Role {
        let mut shard = self.shard(key);
        if let Some(tell) = shard.flights.get(key) {
            return Role::Wait(Waiter(tell.clone()));
        }
        match shard.passes.get(key) {
            Some(until) if *until > Instant::now() => return Role::Alone,
            Some(_) => {
                shard.passes.remove(key);
            }
            None => {}
        }
        Role::Lead(self.lead(&mut shard, key))
    }

    /// Begins a fetch, unless one is under way.
    pub fn try_lead(self: &Arc<Self>, key: &[u8]) -> Option<Ticket> {
        let mut shard = self.shard(key);
        (!shard.flights.contains_key(key)).then(|| self.lead(&mut shard, key))
    }

    fn lead(self: &Arc<Self>, shard: &mut Shard, key: &[u8]) -> Ticket {
        let key: Arc<[u8]> = key.into();
        let (tell, told) = watch::channel(None);
        shard.flights.insert(key.clone(), told);
        Ticket { flights: self.clone(), key, tell }
    }

    /// Fetches under way.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).flights.len()).sum()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Ticket {
    /// Tells all who wait.
    pub fn land(self, landed: Landed) {
        self.finish(landed);
    }

    fn finish(&self, landed: Landed) {
        let mut shard = self.flights.shard(&self.key);
        if self.tell.borrow().is_some() {
            return;
        }
        shard.flights.remove(&self.key);
        match landed {
            Landed::Passed => {
                if shard.passes.len() >= PASSES {
                    let now = Instant::now();
                    shard.passes.retain(|_, until| *until > now);
                    if shard.passes.len() >= PASSES {
                        shard.passes.clear();
                    }
                }
                shard.passes.insert(self.key.clone(), Instant::now() + PASS);
            }
            Landed::Stored => {
                shard.passes.remove(&self.key);
            }
            Landed::Lost => {}
        }
        drop(shard);
        self.tell.send_replace(Some(landed));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.finish(Landed::Lost);
    }
}

impl Waiter {
    /// How the fetch ended; none where that took longer than `limit`.
    pub async fn landed(mut self, limit: Duration) -> Option<Landed> {
        let told = tokio::time::timeout(limit, self.0.wait_for(Option::is_some)).await.ok()?;
        told.map_or(Some(Landed::Lost), |landed| *landed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_leads_and_all_are_told() {
        let flights = Arc::new(Flights::default());
        let Role::Lead(ticket) = flights.join(b"k") else { panic!("the first leads") };
        let waiters: Vec<_> = (0..9)
            .map(|_| match flights.join(b"k") {
                Role::Wait(waiter) => waiter,
                _ => panic!("the others wait"),
            })
            .collect();
        assert!(matches!(flights.join(b"other"), Role::Lead(_)));
        ticket.land(Landed::Stored);
        for waiter in waiters {
            assert_eq!(waiter.landed(Duration::from_secs(5)).await, Some(Landed::Stored));
        }
        assert!(flights.is_empty() && matches!(flights.join(b"k"), Role::Lead(_)));
    }

    #[tokio::test]
    async fn a_lost_leader_is_followed_and_waiting_ends() {
        let flights = Arc::new(Flights::default());
        let Role::Lead(ticket) = flights.join(b"k") else { panic!("the first leads") };
        let Role::Wait(waiter) = flights.join(b"k") else { panic!("the second waits") };
        assert_eq!(waiter.landed(Duration::from_millis(1)).await, None);
        let Role::Wait(waiter) = flights.join(b"k") else { panic!("the third waits") };
        drop(ticket);
        assert_eq!(waiter.landed(Duration::from_secs(5)).await, Some(Landed::Lost));
        let Role::Lead(ticket) = flights.join(b"k") else { panic!("nobody leads") };
        ticket.land(Landed::Passed);
        assert!(matches!(flights.join(b"k"), Role::Alone));
    }
}
