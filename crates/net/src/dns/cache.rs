//! Answers by name: fresh ones at once, one look-up at a time for the rest, old ones when look-ups fail.
//! The one surprise: the look-up is a task of the control runtime, so it goes on when the asker gives up.
use super::{DnsError, DnsSettings, DnsStats, Found, Resolved};
use foldhash::HashMap;
use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::watch;

type Answer<T> = Result<Resolved<T>, DnsError>;

struct Entry<T> {
    good: Option<Resolved<T>>,
    error: Option<(DnsError, Instant)>,
    asking: Option<watch::Receiver<Option<Answer<T>>>>,
}

struct Shared<T> {
    settings: DnsSettings,
    entries: Mutex<HashMap<Box<str>, Entry<T>>>,
    /// Look-ups by result: answered, no such name, failed.
    asked: [AtomicU64; 3],
    lookup: Box<dyn Fn(String) -> Found<T> + Send + Sync>,
}

pub(super) struct Cache<T> {
    shared: Arc<Shared<T>>,
    control: Handle,
}

impl<T> Debug for Cache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl<T: Clone + Send + Sync + 'static> Cache<T> {
    pub(super) fn new(
        settings: DnsSettings,
        control: Handle,
        lookup: Box<dyn Fn(String) -> Found<T> + Send + Sync>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared { settings, entries: Mutex::default(), asked: Default::default(), lookup }),
            control,
        }
    }

    pub(super) fn stats(&self) -> DnsStats {
        let [answered, no_such_name, failed] = self.shared.asked.each_ref().map(|n| n.load(Ordering::Relaxed));
        let entries = self.shared.lock();
        let failing = entries.values().filter(|e| e.error.is_some()).count() as u64;
        DnsStats { answered, no_such_name, failed, names: entries.len() as u64, failing }
    }

    pub(super) fn fresh(&self, name: &str) -> Option<Resolved<T>> {
        let now = Instant::now();
        self.shared.lock().get(name)?.good.as_ref().filter(|g| g.expires > now).cloned()
    }

    pub(super) async fn get(&self, name: &str) -> Answer<T> {
        let mut asking = match self.at_hand_or_ask(name) {
            Ok(answer) => return answer,
            Err(asking) => asking,
        };
        let lost = || DnsError::Failed { name: name.to_owned(), cause: "the look-up was lost".to_owned() };
        let answer = asking.wait_for(Option::is_some).await.map_err(|_| lost())?;
        answer.clone().unwrap_or_else(|| Err(lost()))
    }

    fn at_hand_or_ask(&self, name: &str) -> Result<Answer<T>, watch::Receiver<Option<Answer<T>>>> {
        let now = Instant::now();
        let mut entries = self.shared.lock();
        if let Some(e) = entries.get(name) {
            match (&e.good, &e.error) {
                (Some(g), _) if g.expires > now => return Ok(Ok(g.clone())),
                (_, Some((error, until))) if *until > now => return Ok(self.shared.settings.or_stale(e, error, now)),
                _ => {}
            }
            // A look-up whose task is gone without an answer is asked again.
            if let Some(a) = e.asking.as_ref().filter(|a| a.has_changed().is_ok()) {
                return Err(a.clone());
            }
        } else if entries.len() >= self.shared.settings.cache_size.max(1) {
            make_room(&mut entries, now);
        }
        let (tx, rx) = watch::channel(None);
        let entry = entries.entry(name.into()).or_insert(Entry { good: None, error: None, asking: None });
        entry.asking = Some(rx.clone());
        drop(entries);
        let (shared, name) = (self.shared.clone(), name.to_owned());
        self.control.spawn(async move {
            let found = (shared.lookup)(name.clone()).await;
            // Nobody may be waiting any more; the cache has it then.
            let _ = tx.send(Some(shared.store(&name, found)));
        });
        Err(rx)
    }
}

/// Drops one entry: an expired one if the first few hold one, else any that is not being asked for.
fn make_room<T>(entries: &mut HashMap<Box<str>, Entry<T>>, now: Instant) {
    let idle = |e: &Entry<T>| e.asking.as_ref().is_none_or(|a| a.borrow().is_some());
    let expired = |e: &Entry<T>| e.good.as_ref().is_none_or(|g| g.expires <= now);
    let victim = entries.iter().take(64).find(|(_, e)| idle(e) && expired(e));
    let victim = victim.or_else(|| entries.iter().find(|(_, e)| idle(e))).or_else(|| entries.iter().next());
    if let Some(name) = victim.map(|(n, _)| n.clone()) {
        entries.remove(&name);
    }
}

impl DnsSettings {
    /// A failure does not take away what was known; an authority's "no such name" does.
    fn or_stale<T: Clone>(&self, e: &Entry<T>, error: &DnsError, now: Instant) -> Answer<T> {
        match (&e.good, error) {
            (Some(g), DnsError::Failed { .. }) if g.expires + self.stale_ttl > now => {
                Ok(Resolved { stale: true, ..g.clone() })
            }
            _ => Err(error.clone()),
        }
    }
}

impl<T: Clone> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Entry<T>>> {
        // No code inside the lock can leave the map half-changed.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, name: &str, found: Result<(Vec<T>, std::time::Duration), DnsError>) -> Answer<T> {
        let now = Instant::now();
        let s = &self.settings;
        let mut entries = self.lock();
        let mut gone = Entry { good: None, error: None, asking: None };
        // The entry may have made room for another name meanwhile; the asker still gets the answer.
        let e = entries.get_mut(name).unwrap_or(&mut gone);
        e.asking = None;
        let found = match found {
            Ok((records, _)) if records.is_empty() => Err(DnsError::NoSuchName(name.to_owned())),
            f => f,
        };
        let [answered, no_such_name, failed] = &self.asked;
        let count = match &found {
            Ok(_) => answered,
            Err(DnsError::NoSuchName(_)) => no_such_name,
            Err(_) => failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        match found {
            Ok((records, ttl)) => {
                let ttl = s.valid.unwrap_or(ttl).max(s.min_ttl);
                let r = Resolved { records: records.into(), expires: now + ttl, stale: false };
                e.error = None;
                e.good = Some(r.clone());
                Ok(r)
            }
            Err(error) => {
                let keep = if matches!(error, DnsError::Failed { .. }) { s.failure_ttl } else { s.negative_ttl };
                e.error = Some((error.clone(), now + keep));
                let answer = s.or_stale(e, &error, now);
                if answer.is_err() {
                    e.good = None;
                }
                answer
            }
        }
    }
}
