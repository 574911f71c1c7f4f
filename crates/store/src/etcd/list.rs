//! Everything below the prefix at one revision, page by page. The surprise: pages shrink by themselves where objects
//! are so large that an answer would be too long.
use super::client::{Client, Failure, header};
use super::layout::{Layout, end_of};
use super::message::{KeyValue, RangeRequest};
use crate::key::Key;
use crate::state::{Entry, State};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

/// Keys asked for at once.
const PAGE: i64 = 1000;

pub(crate) struct Listing {
    pub cluster: u64,
    pub revision: u64,
    pub entries: BTreeMap<Key, Entry>,
    pub ignored: HashSet<Vec<u8>>,
}

impl Listing {
    pub fn into_state(self) -> State {
        State { revision: self.revision, entries: self.entries }
    }
}

/// `at`: a revision, or the newest.
pub(crate) async fn list(client: &Client, layout: &Layout, at: Option<u64>) -> Result<Listing, Failure> {
    let mut request = RangeRequest {
        key: layout.root().as_bytes().to_vec(),
        range_end: end_of(layout.root().as_bytes()),
        limit: PAGE,
        revision: at.map_or(0, signed),
        ..RangeRequest::default()
    };
    let mut listing =
        Listing { cluster: 0, revision: at.unwrap_or(0), entries: BTreeMap::new(), ignored: HashSet::new() };
    let mut leases = Leases::default();
    loop {
        let answer = match client.range(request.clone()).await {
            Err(Failure::AnswerTooLong) if request.limit > 1 => {
                request.limit = (request.limit / 8).max(1);
                continue;
            }
            other => other?,
        };
        let header = header(answer.header)?;
        if request.revision == 0 {
            request.revision = header.revision;
            listing.revision = unsigned(header.revision);
        }
        listing.cluster = header.cluster_id;
        if let Some(last) = answer.kvs.last() {
            request.key.clone_from(&last.key);
            request.key.push(0);
        }
        let more = answer.more && !answer.kvs.is_empty();
        for kv in answer.kvs {
            match layout.key(&kv.key) {
                None => drop(listing.ignored.insert(kv.key)),
                Some(key) => {
                    let expires = leases.end(client, kv.lease).await;
                    listing.entries.insert(key.clone(), entry(key, &kv, expires));
                }
            }
        }
        if !more {
            return Ok(listing);
        }
    }
}

/// Text that is no UTF-8 becomes text that is no JSON: it is reported where resources are read.
pub(crate) fn entry(key: Key, kv: &KeyValue, expires: Option<SystemTime>) -> Entry {
    Entry {
        key,
        body: String::from_utf8_lossy(&kv.value).into_owned().into(),
        created: unsigned(kv.create_revision),
        modified: unsigned(kv.mod_revision),
        expires,
    }
}

/// When leases end, each asked for once. After a failure no more are asked for: the time is for show.
#[derive(Default)]
pub(crate) struct Leases {
    known: HashMap<i64, Option<SystemTime>>,
    failed: bool,
}

impl Leases {
    pub async fn end(&mut self, client: &Client, lease: i64) -> Option<SystemTime> {
        if lease == 0 {
            return None;
        }
        if let Some(known) = self.known.get(&lease) {
            return *known;
        }
        if self.failed {
            return None;
        }
        let left = client.time_left(lease).await;
        self.failed = left.is_err();
        let left = left.ok().and_then(|left| u64::try_from(left).ok());
        let end = left.map(|left| SystemTime::now() + Duration::from_secs(left));
        self.known.insert(lease, end);
        end
    }
}

pub(crate) fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

pub(crate) fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
