//! What the store's tasks and its callers share: the state, who follows it, the connection of the moment. The
//! surprise: the state is only ever advanced here and in the order of etcd's revisions; a commit waits for its own
//! events like everybody else.
use super::client::Client;
use super::layout::Layout;
use super::list::Listing;
use super::settings::EtcdSettings;
use crate::history::{Change, Revision};
use crate::key::Key;
use crate::state::{Entry, State};
use crate::store::{Batch, Condition, Event, StoreError, Watch};
use crate::transaction::Note;
use crate::watchers::Watchers;
use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

/// The author of writes that came without a record.
pub(crate) const OTHERS: &str = "etcd";
/// Bytes of texts that remembered writes of others may hold.
const REMEMBERED: usize = 32 << 20;
/// How long a caller waits for a connection after one broke: as long as a change of member takes.
const GRACE: Duration = Duration::from_secs(2);

pub(crate) struct Shared {
    pub settings: EtcdSettings,
    pub layout: Layout,
    pub state: RwLock<State>,
    condition: RwLock<Condition>,
    following: Mutex<Following>,
    /// The state's revision.
    revision: watch::Sender<u64>,
    /// Counts changes of the entries, for the snapshot on disk.
    changes: watch::Sender<u64>,
    client: watch::Sender<Option<Client>>,
    /// A caller had no luck with the connection: it is checked at once.
    pub suspect: Notify,
}

#[derive(Default)]
struct Following {
    watchers: Watchers,
    /// The newest last.
    others: VecDeque<Revision>,
    bytes: usize,
    /// Keys below the prefix that are no objects: etcd's count of keys includes them.
    ignored: HashSet<Vec<u8>>,
    cluster: u64,
}

/// One event of the watch.
pub(crate) enum Seen {
    Object(u64, Event),
    Ignored { key: Vec<u8>, gone: bool, revision: u64 },
}

impl Seen {
    fn revision(&self) -> u64 {
        match self {
            Seen::Object(revision, _) | Seen::Ignored { revision, .. } => *revision,
        }
    }
}

impl Shared {
    pub fn new(settings: EtcdSettings) -> Shared {
        Shared {
            layout: Layout::new(&settings.prefix),
            settings,
            state: RwLock::default(),
            condition: RwLock::new(Condition::Stale { since: SystemTime::now(), reason: "not connected yet".into() }),
            following: Mutex::default(),
            revision: watch::Sender::new(0),
            changes: watch::Sender::new(0),
            client: watch::Sender::new(None),
            suspect: Notify::new(),
        }
    }

    fn following(&self) -> MutexGuard<'_, Following> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn condition(&self) -> Condition {
        self.condition.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn watch(&self) -> mpsc::Receiver<Watch> {
        self.following().watchers.add()
    }

    pub fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The cluster the state was read from; 0 before.
    pub fn cluster(&self) -> u64 {
        self.following().cluster
    }

    pub fn fresh(&self, client: &Client) {
        *self.condition.write().unwrap_or_else(PoisonError::into_inner) = Condition::Fresh;
        self.client.send_replace(Some(client.clone()));
    }

    /// Since when is kept where it was away already.
    pub fn away(&self, reason: String) {
        self.client.send_replace(None);
        let mut condition = self.condition.write().unwrap_or_else(PoisonError::into_inner);
        let since = match &*condition {
            Condition::Fresh => SystemTime::now(),
            Condition::Stale { since, .. } => *since,
        };
        *condition = Condition::Stale { since, reason };
    }

    /// The connection. Where it broke just now, another member may be connected to in a moment; that is waited for.
    pub async fn client(&self, deadline: Instant) -> Result<Client, StoreError> {
        let mut client = self.client.subscribe();
        let mut until = deadline.min(Instant::now() + GRACE);
        if let Condition::Stale { since, .. } = self.condition()
            && since.elapsed().is_ok_and(|since| since > GRACE)
        {
            until = Instant::now();
        }
        if let Ok(Ok(client)) = tokio::time::timeout_at(until, client.wait_for(Option::is_some)).await
            && let Some(client) = &*client
        {
            return Ok(client.clone());
        }
        let reason = match self.condition() {
            Condition::Fresh => "the connection is being replaced".to_owned(),
            Condition::Stale { reason, .. } => reason,
        };
        Err(StoreError::Away(format!("etcd is away: {reason}")))
    }

    /// Whether etcd has this key and it is no object.
    pub fn ignores(&self, key: &[u8]) -> bool {
        self.following().ignored.contains(key)
    }

    /// The state's revision and how many keys etcd has below the prefix at it.
    pub fn extent(&self) -> (u64, usize) {
        let following = self.following();
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        (state.revision, state.entries.len() + following.ignored.len())
    }

    /// Nothing changed between two revisions.
    pub fn skip(&self, from: u64, to: u64) {
        let _following = self.following();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.revision == from && to > from {
            state.revision = to;
            drop(state);
            self.revision.send_replace(to);
        }
    }

    /// Takes in one message of the watch.
    pub fn advance(&self, seen: Vec<Seen>) {
        let mut following = self.following();
        let at = self.state.read().unwrap_or_else(PoisonError::into_inner).revision;
        let mut batch = Batch { revision: at, events: Vec::new() };
        let mut record: Option<Revision> = None;
        let mut records = Vec::new();
        let mut known: std::collections::HashMap<Key, Option<String>> = std::collections::HashMap::new();
        for one in seen.into_iter().filter(|one| one.revision() > at) {
            batch.revision = batch.revision.max(one.revision());
            match one {
                Seen::Ignored { key, gone: false, .. } => drop(following.ignored.insert(key)),
                Seen::Ignored { key, gone: true, .. } => drop(following.ignored.remove(&key)),
                Seen::Object(revision, event) => {
                    let (key, after) = match &event {
                        Event::Put(entry) => (entry.key.clone(), Some(entry.body.as_str().to_owned())),
                        Event::Delete(key) => (key.clone(), None),
                    };
                    let before = known.get(&key).cloned().unwrap_or_else(|| self.body(&key));
                    known.insert(key.clone(), after.clone());
                    if record.as_ref().is_none_or(|record| record.revision != revision) {
                        records.extend(record.take());
                    }
                    let record = record.get_or_insert_with(|| by_others(revision));
                    record.changes.push(Change { key, before, after });
                    batch.events.push(event);
                }
            }
        }
        records.extend(record);
        if batch.revision == at {
            return;
        }
        self.state.write().unwrap_or_else(PoisonError::into_inner).advance(&batch);
        if !batch.events.is_empty() {
            following.watchers.tell(&batch);
            self.changes.send_modify(|count| *count += 1);
        }
        for record in records {
            following.remember(record, self.settings.history_of_others);
        }
        drop(following);
        self.revision.send_replace(batch.revision);
    }

    fn body(&self, key: &Key) -> Option<String> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.get(key).map(|entry| entry.body.as_str().to_owned())
    }

    /// Takes in a whole listing; what is the same in both stays untouched and is not told. A listing older than the
    /// state (etcd was restored from a backup) makes watchers read everything anew.
    pub fn replace(&self, listing: Listing) {
        let mut following = self.following();
        let (batch, record, back) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let (events, changes) = difference(&state, &listing);
            let record = Revision { changes, ..by_others(listing.revision) };
            (Batch { revision: listing.revision, events }, record, listing.revision < state.revision)
        };
        let first = following.cluster == 0;
        following.cluster = listing.cluster;
        following.ignored = listing.ignored;
        self.state.write().unwrap_or_else(PoisonError::into_inner).advance(&batch);
        if back {
            following.watchers.reset();
            following.others.clear();
            following.bytes = 0;
        } else if !batch.events.is_empty() {
            following.watchers.tell(&batch);
            if !first {
                following.remember(record, self.settings.history_of_others);
            }
        }
        if back || first || !batch.events.is_empty() {
            self.changes.send_modify(|count| *count += 1);
        }
        drop(following);
        self.revision.send_replace(batch.revision);
    }

    /// The state of the snapshot on disk, before anything else was read.
    pub fn start_from(&self, state: State, reason: String, written: SystemTime) {
        let revision = state.revision;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        *self.condition.write().unwrap_or_else(PoisonError::into_inner) = Condition::Stale { since: written, reason };
        self.revision.send_replace(revision);
    }

    /// A record whose author is known takes the place of what the watch made of it.
    pub fn remember(&self, record: Revision) {
        let mut following = self.following();
        match following.others.iter_mut().find(|known| known.revision == record.revision) {
            Some(known) => known.note = record.note,
            None => following.remember(record, self.settings.history_of_others),
        }
    }

    /// Those remembered, the newest first.
    pub fn remembered(&self, wanted: impl Fn(&Revision) -> bool, limit: usize) -> Vec<Revision> {
        let following = self.following();
        following.others.iter().rev().filter(|record| wanted(record)).take(limit).cloned().collect()
    }
}

impl Following {
    fn remember(&mut self, record: Revision, most: usize) {
        let own = size(&record);
        if own > REMEMBERED {
            return;
        }
        self.bytes += own;
        let place = self.others.partition_point(|known| known.revision < record.revision);
        self.others.insert(place, record);
        while self.others.len() > most || self.bytes > REMEMBERED {
            let Some(oldest) = self.others.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(size(&oldest));
        }
    }
}

fn size(record: &Revision) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    record.changes.iter().map(|change| 64 + text(&change.before) + text(&change.after)).sum()
}

fn by_others(revision: u64) -> Revision {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Revision { revision, time, note: Note { author: OTHERS.to_owned(), message: String::new() }, changes: Vec::new() }
}

/// What makes the state the listing.
fn difference(state: &State, listing: &Listing) -> (Vec<Event>, Vec<Change>) {
    let mut events = Vec::new();
    let mut changes = Vec::new();
    let text = |entry: &Entry| entry.body.as_str().to_owned();
    for (key, entry) in &listing.entries {
        let old = state.get(key);
        // The body is compared, too: a cluster restored from a backup counts revisions anew.
        if old
            .is_some_and(|old| old.modified == entry.modified && old.created == entry.created && old.body == entry.body)
        {
            continue;
        }
        changes.push(Change { key: key.clone(), before: old.map(text), after: Some(text(entry)) });
        events.push(Event::Put(entry.clone()));
    }
    for (key, old) in &state.entries {
        if !listing.entries.contains_key(key) {
            changes.push(Change { key: key.clone(), before: Some(text(old)), after: None });
            events.push(Event::Delete(key.clone()));
        }
    }
    (events, changes)
}

#[cfg(test)]
mod tests;
