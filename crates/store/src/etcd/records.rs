//! The history's records in etcd. The surprise: a record cannot be named by its revision, which is known only when it
//! is written; its id is a time and a random number, its revision is the entry's own `create_revision`.
use super::client::{Client, Failure, header};
use super::layout::{Layout, end_of};
use super::list::{signed, unsigned};
use super::message::*;
use crate::history::{Change, Revision, outline};
use std::time::{SystemTime, UNIX_EPOCH};

/// Adds the record to a transaction: an outline, and the texts beside it. The id is returned.
pub(crate) fn write(layout: &Layout, record: &Revision, ops: &mut Vec<RequestOp>) -> String {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let id = format!("{millis:015}-{:016x}", rand::random::<u64>());
    let outline = serde_json::to_vec(&Revision { revision: 0, ..outline(record) }).unwrap_or_default();
    let bodies = serde_json::to_vec(&record.changes).unwrap_or_default();
    for (place, value) in [(layout.records(), outline), (layout.bodies(), bodies)] {
        ops.push(Request::Put(PutRequest { key: format!("{place}{id}").into_bytes(), value, lease: 0 }).into());
    }
    id
}

/// The newest first.
pub(crate) async fn newest(
    client: &Client,
    layout: &Layout,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<Revision>, Failure> {
    let request = RangeRequest {
        limit: i64::try_from(limit).unwrap_or(i64::MAX),
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Create.into(),
        max_create_revision: match before {
            // 0 would mean any.
            Some(0 | 1) => return Ok(Vec::new()),
            Some(before) => signed(before - 1),
            None => 0,
        },
        ..all(layout.records())
    };
    let answer = client.range(request).await?;
    Ok(answer.kvs.iter().filter_map(read).collect())
}

/// One record with its texts.
pub(crate) async fn one(client: &Client, layout: &Layout, revision: u64) -> Result<Option<Revision>, Failure> {
    let exactly = RangeRequest {
        min_create_revision: signed(revision),
        max_create_revision: signed(revision),
        limit: 1,
        ..all(layout.records())
    };
    let answer = client.range(exactly).await?;
    let Some((kv, record)) = answer.kvs.first().and_then(|kv| Some((kv, read(kv)?))) else { return Ok(None) };
    let Some(id) = kv.key.get(layout.records().len()..) else { return Ok(None) };
    let key = [layout.bodies().as_bytes(), id].concat();
    let answer = client.range(RangeRequest { key, ..RangeRequest::default() }).await?;
    let changes: Option<Vec<Change>> = answer.kvs.first().and_then(|kv| serde_json::from_slice(&kv.value).ok());
    Ok(changes.map(|changes| Revision { changes, ..record }))
}

/// The revision that wrote the record of this id, if it was written.
pub(crate) async fn revision_of(client: &Client, layout: &Layout, id: &str) -> Result<Option<u64>, Failure> {
    let key = format!("{}{id}", layout.records()).into_bytes();
    let answer = client.range(RangeRequest { key, keys_only: true, ..RangeRequest::default() }).await?;
    Ok(answer.kvs.first().map(|kv| unsigned(kv.create_revision)))
}

/// Deletes the oldest where there are a tenth more than are to be kept. The revision that did it.
pub(crate) async fn prune(client: &Client, layout: &Layout, kept: usize) -> Result<Option<u64>, Failure> {
    let count = client.range(RangeRequest { count_only: true, ..all(layout.records()) }).await?.count;
    let excess = unsigned(count).saturating_sub(kept as u64);
    if excess <= kept as u64 / 10 {
        return Ok(None);
    }
    // Ids begin with the time: the first keys are the oldest.
    let oldest = RangeRequest { limit: signed(excess), keys_only: true, ..all(layout.records()) };
    let answer = client.range(oldest).await?;
    let Some(id) = answer.kvs.last().and_then(|kv| kv.key.get(layout.records().len()..)) else { return Ok(None) };
    let until = |place: &str| {
        let range_end = [place.as_bytes(), id, &[0]].concat();
        Request::DeleteRange(DeleteRangeRequest { key: place.as_bytes().to_vec(), range_end }).into()
    };
    let success = vec![until(layout.records()), until(layout.bodies())];
    let answer = client.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
    Ok(Some(unsigned(header(answer.header)?.revision)))
}

fn all(place: &str) -> RangeRequest {
    RangeRequest { key: place.as_bytes().to_vec(), range_end: end_of(place.as_bytes()), ..RangeRequest::default() }
}

fn read(kv: &KeyValue) -> Option<Revision> {
    let record: Revision = serde_json::from_slice(&kv.value).ok()?;
    Some(Revision { revision: unsigned(kv.create_revision), ..record })
}
