//! The thread that writes. The surprise: a write that failed may have reached the disk all the same, so after an error
//! the file is opened anew and asked what its newest revision is before anybody gets an answer.
use crate::embedded::{EmbeddedSettings, Shared, tables};
use crate::key::Key;
use crate::plan::{Draft, Outcome, plan_on};
use crate::state::State;
use crate::store::{Condition, Event, StoreError};
use crate::transaction::{Committed, Expect, Note, Op, Transaction};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};

/// The longest the clock is not looked at while something is to expire: the clock may be set.
const CLOCK: Duration = Duration::from_secs(1);
/// Entries that expire with one revision.
const EXPIRE_AT_ONCE: usize = 1000;

pub(super) struct Job {
    pub transaction: Transaction,
    pub answer: oneshot::Sender<Result<Committed, StoreError>>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    settings: EmbeddedSettings,
    /// What expires and when.
    due: BTreeSet<(SystemTime, Key)>,
    /// Expired entries could not be removed; not tried again before.
    retry: Option<SystemTime>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, settings: EmbeddedSettings) -> Writer {
        let mut writer = Writer { shared, settings, due: BTreeSet::new(), retry: None };
        writer.gather_due();
        writer
    }

    /// Removes what expired while nobody looked.
    pub(super) fn prepare(&mut self) {
        while self.wait(SystemTime::now()).is_some_and(|wait| wait.is_zero()) {
            self.write(Vec::new());
        }
    }

    pub(super) fn start(mut self, mut jobs: mpsc::Receiver<Job>) -> io::Result<JoinHandle<()>> {
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name("store".into()).spawn(move || {
            while let Some(group) = clock.block_on(self.gather(&mut jobs)) {
                self.write(group);
            }
        })
    }

    /// Waits for work: transactions, or none when something is to expire. None: the store is gone.
    async fn gather(&self, jobs: &mut mpsc::Receiver<Job>) -> Option<Vec<Job>> {
        let first = match self.wait(SystemTime::now()) {
            None => Ok(jobs.recv().await),
            Some(wait) => tokio::time::timeout(wait, jobs.recv()).await,
        };
        let mut group = match first {
            Ok(job) => vec![job?],
            Err(_) => Vec::new(),
        };
        while group.len() < self.settings.group
            && let Ok(job) = jobs.try_recv()
        {
            group.push(job);
        }
        Some(group)
    }

    /// How long until something is to be done without being asked.
    fn wait(&self, now: SystemTime) -> Option<Duration> {
        let (at, _) = self.due.first()?;
        let at = self.retry.map_or(*at, |retry| retry.max(*at));
        Some(at.duration_since(now).unwrap_or_default().min(CLOCK))
    }

    fn expired(&self, state: &State, now: SystemTime) -> Option<Transaction> {
        if self.retry.is_some_and(|retry| retry > now) {
            return None;
        }
        let due = self.due.iter().take_while(|(at, _)| *at <= now).take(EXPIRE_AT_ONCE);
        let ops: Vec<Op> = due
            .filter_map(|(_, key)| state.get(key))
            .map(|entry| Op::Delete { key: entry.key.clone(), expect: Expect::Revision(entry.modified) })
            .collect();
        let note = Note { author: "ttl".into(), message: String::new() };
        (!ops.is_empty()).then_some(Transaction { ops, note })
    }

    /// Plans and writes a group, then answers.
    fn write(&mut self, group: Vec<Job>) {
        let now = SystemTime::now();
        if let Err(error) = self.recover() {
            self.retry = Some(now + CLOCK);
            for job in group {
                drop(job.answer.send(Err(error.clone())));
            }
            return;
        }
        let mut outcomes = Vec::new();
        let mut answers = Vec::with_capacity(group.len());
        let expiring;
        {
            let state = self.shared.state.read().unwrap_or_else(PoisonError::into_inner);
            let mut draft = Draft::on(&state);
            let mut take = |transaction: &Transaction| -> Result<Committed, StoreError> {
                let outcome = plan_on(&draft, transaction, now)?;
                let committed = outcome.committed.clone();
                if !outcome.batch.events.is_empty() {
                    draft.advance(&outcome.batch);
                    outcomes.push(outcome);
                }
                Ok(committed)
            };
            expiring = self.expired(&state, now).is_some_and(|transaction| take(&transaction).is_ok());
            for Job { transaction, answer } in group {
                answers.push((take(&transaction), answer));
            }
        }
        let written = self.persist(&outcomes);
        if expiring {
            self.retry = written.is_err().then(|| now + CLOCK);
        }
        if written.is_ok() {
            self.publish(&outcomes);
        }
        // Nobody is told of a conflict with a write that did not happen: where the group failed, all of it did.
        for (planned, answer) in answers {
            drop(answer.send(written.clone().and(planned)));
        }
    }

    /// Brings a group to the disk.
    fn persist(&self, outcomes: &[Outcome]) -> Result<(), StoreError> {
        let Some(last) = outcomes.last() else { return Ok(()) };
        let disk = &self.shared.disk;
        let Err(error) = disk.read(|db| tables::write(db, outcomes, &self.settings)) else { return Ok(()) };
        tracing::error!(%error, "a write to the store failed");
        match disk.reopen().and_then(|()| disk.read(tables::revision)) {
            Ok(revision) if revision == last.record.revision => Ok(()),
            Ok(_) => Err(StoreError::Away(format!("{error}: nothing was written"))),
            Err(again) => {
                self.set_condition(Condition::Stale { since: SystemTime::now(), reason: again.to_string() });
                disk.close();
                Err(StoreError::Away(format!("{error}: it is not known whether this was written")))
            }
        }
    }

    /// Opens the file again if an error closed it, and takes over what is in it.
    fn recover(&mut self) -> Result<(), StoreError> {
        let disk = &self.shared.disk;
        if disk.is_open() {
            return Ok(());
        }
        let opened = disk.reopen().and_then(|()| disk.read(tables::load));
        let found = opened.map_err(|error| {
            disk.close();
            StoreError::Away(format!("{error}: nothing was written"))
        })?;
        {
            let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
            if found.revision != state.revision {
                *state = found;
                self.shared.watchers.lock().unwrap_or_else(PoisonError::into_inner).reset();
            }
        }
        tracing::info!(file = %disk.path().display(), "the store can be written again");
        self.set_condition(Condition::Fresh);
        self.gather_due();
        Ok(())
    }

    /// Lets readers and watchers see what is on the disk now.
    fn publish(&mut self, outcomes: &[Outcome]) {
        if outcomes.is_empty() {
            return;
        }
        let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
        for outcome in outcomes {
            for event in &outcome.batch.events {
                let (key, expires) = match event {
                    Event::Put(entry) => (&entry.key, entry.expires),
                    Event::Delete(key) => (key, None),
                };
                if let Some(old) = state.get(key).and_then(|old| old.expires) {
                    self.due.remove(&(old, key.clone()));
                }
                if let Some(at) = expires {
                    self.due.insert((at, key.clone()));
                }
            }
            state.advance(&outcome.batch);
        }
        drop(state);
        let mut watchers = self.shared.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in outcomes {
            watchers.tell(&outcome.batch);
        }
    }

    fn gather_due(&mut self) {
        let state = self.shared.state.read().unwrap_or_else(PoisonError::into_inner);
        self.due = state.entries.values().filter_map(|entry| Some((entry.expires?, entry.key.clone()))).collect();
    }

    fn set_condition(&self, condition: Condition) {
        *self.shared.condition.lock().unwrap_or_else(PoisonError::into_inner) = condition;
    }
}
