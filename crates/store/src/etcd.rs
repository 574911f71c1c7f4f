//! The configuration in etcd, in APISIX's layout: APISIX nodes may work beside us on the same prefix. The surprise: one
//! connection to one member serves everything, watch, reads and writes; the other members are for when it breaks.
//!
//! | where | what |
//! |---|---|
//! | `<prefix>/routes/1`, … | the objects, as APISIX writes them |
//! | `<prefix>/routes/`, … | the directories' entries that APISIX needs; made at start where missing |
//! | `<prefix>_sluice/revisions/<id>` | the history: time, author, message, keys |
//! | `<prefix>_sluice/bodies/<id>` | the texts before and after of that record |
//!
//! `follow.rs` keeps the state in step, `commit.rs` writes, `reach.rs` waits, `snapshot.rs` is the state on disk.
mod client;
mod commit;
mod connector;
mod follow;
mod layout;
mod list;
mod message;
mod reach;
mod records;
mod settings;
mod shared;
mod snapshot;

pub use settings::EtcdSettings;

use crate::history::{Revision, outline};
use crate::state::State;
use crate::store::{Condition, Pending, Source, Store, StoreError, Watch};
use crate::transaction::{Committed, Transaction};
use client::{Client, Failure};
use follow::Members;
use message::{Compare, PutRequest, Request, TxnRequest};
use shared::Shared;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The longest attempt at one member at start (apisix/cli/etcd.lua has the same).
const START_PATIENCE: Duration = Duration::from_secs(3);
/// The history is pruned after so many commits of this process.
const PRUNE_EVERY: usize = 64;

pub struct EtcdStore {
    shared: Arc<Shared>,
    control: Handle,
    tasks: Vec<JoinHandle<()>>,
    commits: AtomicUsize,
}

impl EtcdStore {
    /// Reads everything, or the snapshot where etcd is away; then follows on tasks of `control` until dropped.
    /// Errors: no member can be reached and there is no snapshot that could be used; settings that cannot be.
    pub async fn connect(
        settings: EtcdSettings,
        snapshot: Option<PathBuf>,
        control: &Handle,
    ) -> Result<EtcdStore, StoreError> {
        let all = connector::members(&settings).map_err(StoreError::Away)?;
        if all.is_empty() {
            return Err(StoreError::Away("no address of etcd is configured".to_owned()));
        }
        let mut members = Members::new(all);
        let shared = Arc::new(Shared::new(settings));
        // The connection lives on the runtime that made it: that must not be the caller's.
        let starting = {
            let shared = shared.clone();
            control.spawn(async move { (start(&shared, &mut members).await, members) })
        };
        let (started, members) = starting.await.map_err(|error| StoreError::Away(error.to_string()))?;
        let first = match started {
            Ok(connected) => Some(connected),
            Err(reasons) => {
                from_snapshot(&shared, snapshot.as_deref(), &reasons)?;
                None
            }
        };
        let mut tasks = Vec::new();
        if let Some(path) = snapshot {
            tasks.push(control.spawn(keep_snapshot(shared.clone(), path)));
        }
        tasks.push(control.spawn(follow::run(shared.clone(), members, first)));
        Ok(EtcdStore { shared, control: control.clone(), tasks, commits: AtomicUsize::new(0) })
    }

    /// Commits are counted: now and then the oldest records go.
    fn prune(&self, client: Client) {
        let kept = self.shared.settings.history;
        if kept == 0 || self.commits.fetch_add(1, Ordering::Relaxed) % PRUNE_EVERY != PRUNE_EVERY - 1 {
            return;
        }
        let shared = self.shared.clone();
        self.control.spawn(async move {
            match records::prune(&client, &shared.layout, kept).await {
                // A revision without anything for the watch to tell; whoever catches up need not find that out.
                Ok(Some(revision)) => shared.skip(revision - 1, revision),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "etcd: the history could not be pruned"),
            }
        });
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.shared.settings.timeout
    }

    fn failed(&self, failure: Failure) -> StoreError {
        self.shared.failed(failure)
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Connects and lists; several rounds. Errors: what was wrong with each member.
async fn start(shared: &Shared, members: &mut Members) -> Result<(Client, message::Header), String> {
    let patience = shared.settings.timeout.min(START_PATIENCE);
    let mut reasons = String::new();
    for _ in 0..shared.settings.startup_retry.max(1) {
        match members.connect(shared, patience).await {
            Err(wrong) => reasons = wrong,
            Ok((client, header)) => match follow::resync(shared, &client).await {
                Err(failure) => reasons = format!("{}: {failure}", client.url()),
                Ok(()) => {
                    if shared.settings.init_dirs {
                        make_directories(shared, &client).await;
                    }
                    shared.fresh(&client);
                    return Ok((client, header));
                }
            },
        }
    }
    Err(reasons)
}

async fn make_directories(shared: &Shared, client: &Client) {
    for key in shared.layout.directories() {
        if shared.ignores(&key) {
            continue;
        }
        let compare = vec![Compare::modified(key.clone(), 0)];
        let put = PutRequest { key, value: layout::DIRECTORY_VALUE.as_bytes().to_vec(), lease: 0 };
        let request = TxnRequest { compare, success: vec![Request::Put(put).into()], failure: Vec::new() };
        if let Err(error) = client.txn(request).await {
            tracing::warn!(%error, "etcd: the directories APISIX needs could not be made");
            return;
        }
    }
}

fn from_snapshot(shared: &Shared, path: Option<&Path>, reasons: &str) -> Result<(), StoreError> {
    let loaded = match path {
        None => Ok(None),
        Some(path) => snapshot::load(path, &shared.settings.prefix),
    };
    match loaded {
        Ok(Some(loaded)) => {
            tracing::warn!(%reasons, revision = loaded.state.revision, "etcd is away; starting from the snapshot on disk");
            shared.start_from(loaded.state, reasons.to_owned(), loaded.written);
            Ok(())
        }
        Ok(None) => Err(StoreError::Away(format!("etcd cannot be reached: {reasons}; there is no snapshot on disk"))),
        Err(refused) => Err(StoreError::Corrupt(format!("etcd cannot be reached: {reasons}; {refused}"))),
    }
}

/// Writes the state to disk a while after it changed. Never returns.
async fn keep_snapshot(shared: Arc<Shared>, path: PathBuf) {
    let mut changes = shared.changes();
    if shared.cluster() != 0 {
        changes.mark_changed();
    }
    while changes.changed().await.is_ok() {
        changes.borrow_and_update();
        let (state, cluster) = (shared.state.read().unwrap_or_else(PoisonError::into_inner).clone(), shared.cluster());
        let (place, prefix) = (path.clone(), shared.settings.prefix.clone());
        let started = Instant::now();
        let saved = tokio::task::spawn_blocking(move || snapshot::save(&place, &prefix, cluster, &state)).await;
        match saved {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(path = %path.display(), %error, "etcd: the snapshot was not written"),
            Err(error) => tracing::error!(%error, "etcd: the snapshot was not written"),
        }
        // A large state is written less often: at most a tenth of the time goes into it.
        tokio::time::sleep(shared.settings.snapshot_delay.max(started.elapsed() * 10)).await;
    }
}

impl Store for EtcdStore {
    fn source(&self) -> Source {
        Source::Etcd
    }

    fn condition(&self) -> Condition {
        self.shared.condition()
    }

    fn state(&self) -> &RwLock<State> {
        &self.shared.state
    }

    fn catch_up(&self) -> Pending<'_, u64> {
        Box::pin(async {
            let deadline = self.deadline();
            let client = self.shared.client(deadline).await?;
            commit::catch_up(&self.shared, &client, deadline).await
        })
    }

    fn commit(&self, transaction: Transaction) -> Pending<'_, Committed> {
        Box::pin(async move {
            let committed = commit::commit(&self.shared, &transaction).await?;
            if let Ok(client) = self.shared.client(Instant::now()).await {
                self.prune(client);
            }
            Ok(committed)
        })
    }

    fn watch(&self) -> mpsc::Receiver<Watch> {
        self.shared.watch()
    }

    fn revisions(&self, before: Option<u64>, limit: usize) -> Pending<'_, Vec<Revision>> {
        Box::pin(async move {
            let client = self.shared.client(self.deadline()).await?;
            let mut all =
                records::newest(&client, &self.shared.layout, before, limit).await.map_err(|f| self.failed(f))?;
            let wanted = |record: &Revision| before.is_none_or(|before| record.revision < before);
            let others = self.shared.remembered(wanted, limit);
            all.extend(others.iter().map(outline));
            // Stable: of two with one revision the record in etcd comes first.
            all.sort_by_key(|record| std::cmp::Reverse(record.revision));
            all.dedup_by_key(|record| record.revision);
            all.truncate(limit);
            Ok(all)
        })
    }

    fn revision(&self, revision: u64) -> Pending<'_, Option<Revision>> {
        Box::pin(async move {
            let client = self.shared.client(self.deadline()).await?;
            let kept = records::one(&client, &self.shared.layout, revision).await.map_err(|f| self.failed(f))?;
            Ok(kept.or_else(|| self.shared.remembered(|record| record.revision == revision, 1).pop()))
        })
    }

    fn state_at(&self, revision: u64) -> Pending<'_, State> {
        Box::pin(async move {
            if revision == 0 {
                return Err(StoreError::Compacted(revision));
            }
            let client = self.shared.client(self.deadline()).await?;
            match list::list(&client, &self.shared.layout, Some(revision)).await {
                Ok(listing) => Ok(listing.into_state()),
                Err(Failure::Compacted) => Err(StoreError::Compacted(revision)),
                Err(failure) => Err(self.failed(failure)),
            }
        })
    }
}
