//! Waiting until the state has a revision. The surprise: etcd counts revisions for all of its keys, so the watch may
//! have nothing to tell; then etcd is asked whether anything below the prefix changed.
use super::client::{Client, Failure, header};
use super::layout::end_of;
use super::list::{signed, unsigned};
use super::message::RangeRequest;
use super::shared::Shared;
use crate::store::StoreError;
use std::time::Duration;
use tokio::time::Instant;

/// How long the watch gets before etcd is asked; doubled each time up to the second.
const HEAD_START: Duration = Duration::from_millis(20);
const MOST: Duration = Duration::from_secs(1);

pub(crate) async fn reach(shared: &Shared, client: &Client, wanted: u64, deadline: Instant) -> Result<(), StoreError> {
    let mut revision = shared.revision();
    let mut pause = HEAD_START;
    loop {
        let until = deadline.min(Instant::now() + pause);
        if tokio::time::timeout_at(until, revision.wait_for(|revision| *revision >= wanted)).await.is_ok() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(StoreError::Away(format!("etcd is at revision {wanted}, its watch did not tell in time")));
        }
        let question = confirm(shared, client);
        if let Ok(Err(failure)) = tokio::time::timeout_at(deadline, question).await {
            return Err(shared.failed(failure));
        }
        pause = (pause * 2).min(MOST);
    }
}

/// Whether the state is as new as etcd; its revision is set forward then. Nothing changed where no key was modified
/// since and there are as many as before.
pub(crate) async fn confirm(shared: &Shared, client: &Client) -> Result<bool, Failure> {
    let (at, count) = shared.extent();
    let root = shared.layout.root().as_bytes();
    let request = RangeRequest {
        key: root.to_vec(),
        range_end: end_of(root),
        limit: 1,
        keys_only: true,
        min_mod_revision: signed(at + 1),
        ..RangeRequest::default()
    };
    let answer = client.range(request).await?;
    let now = unsigned(header(answer.header)?.revision);
    let same = answer.kvs.is_empty() && usize::try_from(answer.count) == Ok(count);
    if same {
        shared.skip(at, now);
    }
    Ok(same)
}

impl Shared {
    /// A failed call as callers see it.
    pub fn failed(&self, failure: Failure) -> StoreError {
        match failure {
            Failure::Away(reason) => {
                self.suspect.notify_one();
                StoreError::Away(format!("etcd is away: {reason}"))
            }
            Failure::TooLarge(reason) => StoreError::TooLarge(format!(
                "etcd refuses the transaction as a whole: {reason}; nothing was written (etcd's options \
                 --max-txn-ops and --max-request-bytes are its limits)"
            )),
            Failure::Denied(reason) => StoreError::Away(format!(
                "etcd: {reason}: its user needs read and write permission below {} and {}",
                self.layout.root(),
                self.layout.records()
            )),
            other => StoreError::Away(format!("etcd: {other}")),
        }
    }
}
