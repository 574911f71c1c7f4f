//! The values of `$secret://` references: asked for by the compiler without waiting, fetched on the control runtime, kept
//! and fetched again when their time is over (`apisix.lru.secret` of config.yaml). The surprise: only references that the
//! configuration holds are kept, so that the configuration's size is the bound; a value that was good stays where its
//! refresh fails.

use crate::client::{Client, FetchError};
use crate::reference::{Reference, environment};
use foldhash::{HashMap, HashSet};
use serde_json::Value;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

/// How secrets are fetched.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// A value is fetched again after this (`apisix.lru.secret.ttl`).
    pub ttl: Duration,
    /// A failure is tried again after this (`apisix.lru.secret.neg_ttl`).
    pub neg_ttl: Duration,
    /// For one request to a manager, connecting included (APISIX: 5 s for Vault).
    pub timeout: Duration,
    /// Requests at a time.
    pub concurrency: usize,
    /// Bytes of an answer.
    pub response_bytes: usize,
    /// What managers' certificates are checked against, PEM; `None`: the system's.
    pub trusted_certificates: Option<String>,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        StoreSettings {
            ttl: Duration::from_secs(300),
            neg_ttl: Duration::from_secs(60),
            timeout: Duration::from_secs(5),
            concurrency: 8,
            response_bytes: 1 << 20,
            trusted_certificates: None,
        }
    }
}

/// What a reference stands for now.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    Value(Value),
    /// The manager has not answered yet.
    Pending,
    /// Not to be had, and why.
    Missing(Arc<str>),
}

/// See the module.
pub struct SecretStore {
    settings: StoreSettings,
    state: Mutex<State>,
    client: Client,
    permits: Semaphore,
    /// Something may be due earlier than the loop believes.
    wake: Notify,
    /// `State::changed` has something.
    news: Notify,
    /// References without any answer.
    unanswered: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    /// `secrets` resources by `<manager>/<id>`.
    sources: HashMap<Arc<str>, Arc<Value>>,
    entries: HashMap<Arc<str>, Entry>,
    changed: HashSet<Arc<str>>,
}

struct Entry {
    reference: Reference,
    value: Option<Value>,
    error: Option<Arc<str>>,
    /// The source, as it is now, has answered or failed.
    answered: bool,
    fetching: bool,
    due: Instant,
    /// Counts the forms of its source: answers of former ones do not count.
    version: u64,
}

/// Somewhere beyond any refresh.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl SecretStore {
    pub fn new(settings: StoreSettings) -> Arc<SecretStore> {
        Arc::new(SecretStore {
            client: Client::new(settings.clone()),
            permits: Semaphore::new(settings.concurrency.max(1)),
            settings,
            state: Mutex::default(),
            wake: Notify::new(),
            news: Notify::new(),
            unanswered: watch::Sender::new(0),
        })
    }

    /// Begins to fetch, until the store is dropped. Without it every `$secret://` reference is pending.
    pub fn start(self: &Arc<Self>, control: &tokio::runtime::Handle) {
        control.spawn(run(Arc::downgrade(self)));
    }

    /// The value of a text; `None` for one that is no reference. Never waits.
    pub fn get(&self, text: &str) -> Option<Found> {
        if let Some(found) = environment(text) {
            return Some(found.map_or_else(|why| Found::Missing(why.into()), Found::Value));
        }
        let reference = match Reference::parse(text)? {
            Ok(reference) => reference,
            Err(error) => return Some(Found::Missing(error.to_string().into())),
        };
        let mut state = self.state();
        if let Some(entry) = state.entries.get(text) {
            return Some(entry.found());
        }
        let known = state.sources.contains_key(reference.source.as_str());
        let entry = Entry {
            reference,
            value: None,
            error: (!known).then(|| no_source(text)),
            answered: !known,
            fetching: false,
            due: Instant::now(),
            version: 0,
        };
        let found = entry.found();
        state.entries.insert(text.into(), entry);
        self.tell(&state);
        Some(found)
    }

    /// The `secrets` resources, by `<manager>/<id>`. References to those that changed are fetched again.
    pub fn configure(&self, sources: HashMap<Arc<str>, Arc<Value>>) {
        let mut state = self.state();
        let State { sources: known, entries, changed } = &mut *state;
        for (text, entry) in entries.iter_mut() {
            let source = entry.reference.source.as_str();
            let now = sources.get(source);
            if now == known.get(source) {
                continue;
            }
            entry.version += 1;
            entry.answered = now.is_none();
            entry.due = Instant::now();
            if now.is_none() {
                entry.error = Some(no_source(text));
                entry.value = None;
                changed.insert(text.clone());
            }
        }
        state.sources = sources;
        self.tell(&state);
    }

    /// Forgets the references that are not used any more.
    pub fn retain(&self, used: impl Fn(&str) -> bool) {
        let mut state = self.state();
        state.entries.retain(|text, _| used(text));
        self.tell(&state);
    }

    /// Waits until every reference has an answer, good or bad. Bounded by the time-outs of the requests where the store
    /// was started; bound it all the same.
    pub async fn settle(&self) {
        let mut unanswered = self.unanswered.subscribe();
        // The sender lives as long as `self`.
        let _ = unanswered.wait_for(|count| *count == 0).await;
    }

    /// Whether [`SecretStore::settle`] would wait.
    pub fn is_unsettled(&self) -> bool {
        *self.unanswered.borrow() > 0
    }

    /// References whose value arrived, changed or was lost since the last call.
    pub fn take_changed(&self) -> Vec<Arc<str>> {
        let mut changed: Vec<_> = std::mem::take(&mut self.state().changed).into_iter().collect();
        changed.sort();
        changed
    }

    /// Waits for [`SecretStore::take_changed`] to have something. For one caller at a time.
    pub async fn changed(&self) -> Vec<Arc<str>> {
        loop {
            let changed = self.take_changed();
            if !changed.is_empty() {
                return changed;
            }
            self.news.notified().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait for what `state` holds now.
    fn tell(&self, state: &State) {
        let unanswered = state.entries.values().filter(|e| !e.answered).count();
        self.unanswered.send_replace(unanswered);
        self.wake.notify_one();
        if !state.changed.is_empty() {
            self.news.notify_one();
        }
    }

    /// What is to be fetched now, and when the next is.
    fn take_due(&self) -> (Vec<Task>, Instant) {
        let now = Instant::now();
        let (mut tasks, mut next) = (Vec::new(), now + FAR);
        let mut state = self.state();
        let State { sources, entries, .. } = &mut *state;
        for (text, entry) in entries.iter_mut().filter(|(_, e)| !e.fetching) {
            let Some(source) = sources.get(entry.reference.source.as_str()) else { continue };
            if entry.due > now {
                next = next.min(entry.due);
                continue;
            }
            entry.fetching = true;
            tasks.push(Task {
                text: text.clone(),
                reference: entry.reference.clone(),
                source: source.clone(),
                version: entry.version,
            });
        }
        (tasks, next)
    }

    async fn fetch(&self, task: Task) {
        let result = match self.permits.acquire().await {
            Ok(_permit) => self.client.fetch(&task.reference, &task.source).await,
            Err(_) => Err(FetchError::new("closed")),
        };
        self.record(&task, result);
    }

    fn record(&self, task: &Task, result: Result<Value, FetchError>) {
        let mut state = self.state();
        let State { entries, changed, .. } = &mut *state;
        let Some(entry) = entries.get_mut(&task.text) else { return };
        entry.fetching = false;
        if entry.version == task.version {
            let (first, text) = (!entry.answered, &task.text);
            entry.answered = true;
            match result {
                Ok(value) => {
                    entry.due = Instant::now() + self.settings.ttl;
                    entry.error = None;
                    if entry.value.as_ref() != Some(&value) {
                        entry.value = Some(value);
                        changed.insert(text.clone());
                    }
                }
                Err(error) => {
                    entry.due = Instant::now() + self.settings.neg_ttl;
                    entry.error = Some(error.0.as_str().into());
                    if first {
                        // Of a former form of its source.
                        entry.value = None;
                        changed.insert(text.clone());
                    } else if entry.value.is_some() {
                        tracing::error!("failed to refresh the secret {text}: {error}; its last value stays in force");
                    }
                }
            }
        }
        self.tell(&state);
    }
}

impl Entry {
    fn found(&self) -> Found {
        match (&self.value, &self.error) {
            (Some(value), _) => Found::Value(value.clone()),
            (None, Some(error)) if self.answered => Found::Missing(error.clone()),
            _ => Found::Pending,
        }
    }
}

fn no_source(text: &str) -> Arc<str> {
    format!("no secret conf, secret_uri: {text}").into()
}

struct Task {
    text: Arc<str>,
    reference: Reference,
    source: Arc<Value>,
    version: u64,
}

/// The store's loop. It holds the store only while it works, so that it ends with it.
async fn run(store: Weak<SecretStore>) {
    /// A dropped store is noticed after this at the latest.
    const LOOK: Duration = Duration::from_secs(60);
    loop {
        let Some(alive) = store.upgrade() else { return };
        let (tasks, next) = alive.take_due();
        for task in tasks {
            let store = alive.clone();
            tokio::spawn(async move { store.fetch(task).await });
        }
        let _ = tokio::time::timeout_at(next.min(Instant::now() + LOOK), alive.wake.notified()).await;
    }
}

#[cfg(test)]
mod tests;
