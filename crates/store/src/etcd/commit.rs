//! Transactions. The surprise: every key is compared with the revision this process knows it by, also where anything
//! is fine: so the history's record, written in the same etcd transaction, is true. Where somebody else was faster,
//! the transaction is worked out again on what is there now.
use super::client::{Client, Failure, header};
use super::list::{signed, unsigned};
use super::message::{Compare, DeleteRangeRequest, PutRequest, Request, RequestOp, TxnRequest};
use super::reach::reach;
use super::records;
use super::shared::Shared;
use crate::history::Revision;
use crate::plan::{Outcome, plan};
use crate::store::StoreError;
use crate::transaction::{Committed, Op, Transaction};
use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How long another connection is waited for to learn what became of a transaction.
const ASK_AGAIN: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(50);

pub(crate) async fn commit(shared: &Shared, transaction: &Transaction) -> Result<Committed, StoreError> {
    let deadline = Instant::now() + shared.settings.timeout;
    let client = shared.client(deadline).await?;
    let mut leases = HashMap::new();
    let result = attempts(shared, &client, transaction, &mut leases, deadline).await;
    if result.is_err() {
        for lease in leases.into_values() {
            // A lease that cannot be given back ends by itself.
            drop(client.revoke(lease).await);
        }
    }
    result
}

async fn attempts(
    shared: &Shared,
    client: &Client,
    transaction: &Transaction,
    leases: &mut HashMap<i64, i64>,
    deadline: Instant,
) -> Result<Committed, StoreError> {
    let mut current = false;
    loop {
        let planned = {
            let state = shared.state.read().unwrap_or_else(PoisonError::into_inner);
            plan(&state, transaction, SystemTime::now()).map(|outcome| (outcome, compares(shared, &state, transaction)))
        };
        let (mut outcome, compare) = match planned {
            Ok(planned) => planned,
            Err(conflict) if current => return Err(conflict),
            Err(_) => {
                // The state may only be behind.
                catch_up(shared, client, deadline).await?;
                current = true;
                continue;
            }
        };
        current = false;
        let mut success = operations(shared, client, transaction, leases).await?;
        let id = (!outcome.batch.events.is_empty() && shared.settings.history > 0)
            .then(|| records::write(&shared.layout, &outcome.record, &mut success));
        let request = TxnRequest { compare, success, failure: Vec::new() };
        let (succeeded, revision) = match tokio::time::timeout_at(deadline, client.txn(request)).await {
            Err(_) => return Err(shared.unknown("it did not answer in time")),
            Ok(Err(Failure::Away(reason))) => {
                // The connection broke; another one tells whether the record, and so all of it, was written.
                shared.suspect.notify_one();
                match written(shared, id.as_deref(), deadline).await {
                    Some(revision) => (true, revision),
                    None => return Err(shared.unknown(&reason)),
                }
            }
            Ok(Err(failure)) => return Err(shared.failed(failure)),
            Ok(Ok(answer)) => {
                let header = header(answer.header).map_err(|failure| shared.failed(failure))?;
                (answer.succeeded, unsigned(header.revision))
            }
        };
        if !succeeded {
            reach(shared, client, revision, deadline).await?;
            if Instant::now() >= deadline {
                return Err(StoreError::Away("others keep changing the same objects; nothing was written".to_owned()));
            }
            continue;
        }
        if outcome.batch.events.is_empty() {
            return Ok(outcome.committed);
        }
        settle(&mut outcome, revision);
        seen(shared, client, revision, deadline).await;
        shared.remember(Revision { revision, ..outcome.record });
        return Ok(outcome.committed);
    }
}

/// Until the state has all that was written before this call.
pub(crate) async fn catch_up(shared: &Shared, client: &Client, deadline: Instant) -> Result<u64, StoreError> {
    let probe = client.probe(shared.layout.root().as_bytes().to_vec());
    let now = match tokio::time::timeout_at(deadline, probe).await {
        Err(_) => return Err(StoreError::Away("etcd is away: it did not answer in time".to_owned())),
        Ok(answer) => unsigned(answer.map_err(|failure| shared.failed(failure))?.revision),
    };
    reach(shared, client, now, deadline).await?;
    Ok(now)
}

/// The revision of a transaction whose answer was lost, if it is there. That it is not says nothing: it may be on its
/// way still.
async fn written(shared: &Shared, id: Option<&str>, deadline: Instant) -> Option<u64> {
    let id = id?;
    let until = deadline.min(Instant::now() + ASK_AGAIN);
    loop {
        if let Ok(client) = shared.client(until).await
            && let Ok(found) = records::revision_of(&client, &shared.layout, id).await
        {
            return found;
        }
        if Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Until the state has what was written. Whatever happens to the connection, it is written; to say otherwise would have
/// it written twice.
async fn seen(shared: &Shared, client: &Client, revision: u64, deadline: Instant) {
    let mut client = client.clone();
    while let Err(late) = reach(shared, &client, revision, deadline).await {
        if Instant::now() >= deadline {
            tracing::warn!(%late, revision, "etcd: written, but not seen by this process yet");
            return;
        }
        tokio::time::sleep(RETRY).await;
        if let Ok(other) = shared.client(deadline).await {
            client = other;
        }
    }
}

fn compares(shared: &Shared, state: &crate::State, transaction: &Transaction) -> Vec<Compare> {
    let modified = |op: &Op| state.get(op.key()).map_or(0, |entry| signed(entry.modified));
    transaction.ops.iter().map(|op| Compare::modified(shared.layout.full(op.key()), modified(op))).collect()
}

async fn operations(
    shared: &Shared,
    client: &Client,
    transaction: &Transaction,
    leases: &mut HashMap<i64, i64>,
) -> Result<Vec<RequestOp>, StoreError> {
    let mut all = Vec::with_capacity(transaction.ops.len() + 2);
    for op in &transaction.ops {
        let key = shared.layout.full(op.key());
        all.push(match op {
            Op::Check { .. } => continue,
            Op::Delete { .. } => Request::DeleteRange(DeleteRangeRequest { key, range_end: Vec::new() }).into(),
            Op::Put { body, ttl, .. } => {
                let lease = match ttl {
                    None => 0,
                    Some(ttl) => lease(shared, client, *ttl, leases).await?,
                };
                Request::Put(PutRequest { key, value: body.as_str().as_bytes().to_vec(), lease }).into()
            }
        });
    }
    Ok(all)
}

/// One lease for all keys with the same time to live, in whole seconds.
async fn lease(
    shared: &Shared,
    client: &Client,
    ttl: Duration,
    leases: &mut HashMap<i64, i64>,
) -> Result<i64, StoreError> {
    let seconds = signed(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(1);
    if let Some(lease) = leases.get(&seconds) {
        return Ok(*lease);
    }
    let granted = client.grant(seconds).await.map_err(|failure| shared.failed(failure))?;
    leases.insert(seconds, granted.id);
    Ok(granted.id)
}

/// The plan's revision was a guess; etcd's is the true one.
fn settle(outcome: &mut Outcome, revision: u64) {
    let guess = outcome.committed.revision;
    for entry in &mut outcome.committed.written {
        if entry.created == guess {
            entry.created = revision;
        }
        entry.modified = revision;
    }
    outcome.committed.revision = revision;
}

impl Shared {
    fn unknown(&self, reason: &str) -> StoreError {
        self.suspect.notify_one();
        StoreError::Away(format!("etcd is away: {reason}; it is not known whether it wrote the transaction"))
    }
}
