//! The task that keeps the state in step with etcd: connect, list where that is needed, watch, and again when the
//! connection breaks. The surprise: after a break it goes on from the last revision it saw; a listing is read only at
//! start, after a compaction, or where etcd is another one than before.
use super::client::{Client, Failure};
use super::connector::Member;
use super::layout::end_of;
use super::list::{Leases, entry, list, signed, unsigned};
use super::message::{Header, WatchEvent};
use super::reach::confirm;
use super::shared::{Seen, Shared};
use crate::store::Event;
use rand::Rng;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The first pause after all members failed; it doubles up to `resync_delay`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The members, tried in turn.
pub(crate) struct Members {
    all: Vec<Member>,
    next: usize,
}

impl Members {
    pub fn new(all: Vec<Member>) -> Members {
        // Processes that start together do not all choose the same member.
        let next = if all.len() > 1 { rand::rng().random_range(0..all.len()) } else { 0 };
        Members { all, next }
    }

    /// One attempt at each member, beginning with the next one. Errors: what was wrong with each.
    pub async fn connect(&mut self, shared: &Shared, patience: Duration) -> Result<(Client, Header), String> {
        let mut reasons = Vec::new();
        for _ in 0..self.all.len() {
            let index = self.next % self.all.len();
            self.next = index + 1;
            let Some(member) = self.all.get(index) else { break };
            let probe = shared.layout.root().as_bytes().to_vec();
            match Client::connect(member, &shared.settings, probe, patience).await {
                Ok(connected) => {
                    // The same one is tried first after a break: it is the next that fails over.
                    self.next = index;
                    return Ok(connected);
                }
                Err(failure) => reasons.push(format!("{}: {failure}", member.url)),
            }
        }
        Err(reasons.join("; "))
    }

    fn pass_over(&mut self) {
        self.next = self.next.wrapping_add(1);
    }
}

/// Never returns. `first`: the connection made at start.
pub(crate) async fn run(shared: Arc<Shared>, mut members: Members, first: Option<(Client, Header)>) {
    let mut connected = first;
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some((client, header)) = connected.take() {
            let started = Instant::now();
            let failure = session(&shared, &client, &header).await;
            let reason = format!("{}: {failure}", client.url());
            tracing::warn!(%reason, "etcd: connection lost; the last state stays in force");
            shared.away(reason);
            members.pass_over();
            if started.elapsed() > shared.settings.health_check_timeout {
                pause = FIRST_PAUSE;
            } else {
                // One that works and breaks again and again must not be a busy loop.
                pause = rest(&shared, pause).await;
            }
        }
        let patience = shared.settings.timeout.min(shared.settings.health_check_timeout);
        match members.connect(&shared, patience).await {
            Ok(fresh) => connected = Some(fresh),
            Err(reasons) => {
                tracing::debug!(%reasons, "etcd: no member can be reached");
                shared.away(reasons);
                pause = rest(&shared, pause).await;
            }
        }
    }
}

/// Sleeps and says how long to sleep the next time.
async fn rest(shared: &Shared, pause: Duration) -> Duration {
    let jitter = rand::rng().random_range(0.0..0.5);
    tokio::time::sleep(pause.mul_f64(1.0 + jitter)).await;
    (pause * 2).min(shared.settings.resync_delay.max(FIRST_PAUSE))
}

/// Follows over one connection until it breaks.
async fn session(shared: &Shared, client: &Client, header: &Header) -> Failure {
    let at = shared.state.read().unwrap_or_else(PoisonError::into_inner).revision;
    let same = shared.cluster() == header.cluster_id && unsigned(header.revision) >= at;
    let mut relist = !same;
    loop {
        let ended = async {
            if relist {
                resync(shared, client).await?;
            }
            watch(shared, client).await
        };
        match ended.await {
            Err(Failure::Compacted | Failure::AnswerTooLong) => {
                tracing::info!("etcd: revisions since the last one seen are compacted; reading everything");
                relist = true;
            }
            Err(failure) => return failure,
            Ok(()) => return Failure::Away("the watch ended".to_owned()),
        }
    }
}

/// Reads everything and takes in what differs.
pub(crate) async fn resync(shared: &Shared, client: &Client) -> Result<(), Failure> {
    let listing = list(client, &shared.layout, None).await?;
    tracing::debug!(revision = listing.revision, entries = listing.entries.len(), "etcd: listed");
    shared.replace(listing);
    Ok(())
}

async fn watch(shared: &Shared, client: &Client) -> Result<(), Failure> {
    let from = shared.state.read().unwrap_or_else(PoisonError::into_inner).revision + 1;
    let root = shared.layout.root().as_bytes();
    let mut stream = client.watch(root.to_vec(), end_of(root), signed(from)).await?;
    let heard = Mutex::new(Instant::now());
    let mut health = std::pin::pin!(health(shared, client, &heard));
    let mut events: Vec<WatchEvent> = Vec::new();
    loop {
        let message = tokio::select! {
            failure = &mut health => return Err(failure),
            message = stream.message() => message?,
        };
        let Some(mut message) = message else { return Ok(()) };
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if message.compact_revision > 0 {
            return Err(Failure::Compacted);
        }
        if message.canceled {
            let reason = message.cancel_reason;
            return Err(if reason.contains("compacted") { Failure::Compacted } else { Failure::Away(reason) });
        }
        if message.created {
            shared.fresh(client);
            continue;
        }
        let notice = message.events.is_empty() && events.is_empty();
        events.append(&mut message.events);
        if message.fragment {
            continue;
        }
        if notice {
            // A progress notification comes after all events up to its revision.
            let at = shared.state.read().unwrap_or_else(PoisonError::into_inner).revision;
            shared.skip(at, message.header.map_or(0, |header| unsigned(header.revision)));
        } else {
            shared.advance(read(shared, client, std::mem::take(&mut events)).await);
        }
    }
}

/// The revision of the answer's header is not that of its events: etcd may have more of them.
async fn read(shared: &Shared, client: &Client, events: Vec<WatchEvent>) -> Vec<Seen> {
    let mut seen = Vec::with_capacity(events.len());
    let mut leases = Leases::default();
    for event in events {
        let Some(kv) = event.kv else { continue };
        let revision = unsigned(kv.mod_revision);
        let gone = event.kind == 1;
        seen.push(match shared.layout.key(&kv.key) {
            None => Seen::Ignored { key: kv.key, gone, revision },
            Some(key) if gone => Seen::Object(revision, Event::Delete(key)),
            Some(key) => {
                let expires = leases.end(client, kv.lease).await;
                Seen::Object(revision, Event::Put(entry(key, &kv, expires)))
            }
        });
    }
    seen
}

/// Asks for etcd's revision again and again. Returns when there is no answer in time.
async fn health(shared: &Shared, client: &Client, heard: &Mutex<Instant>) -> Failure {
    let settings = &shared.settings;
    let patience = settings.health_check_timeout;
    loop {
        tokio::select! {
            () = tokio::time::sleep(patience / 2) => {}
            () = shared.suspect.notified() => {}
        }
        let probe = client.probe(shared.layout.root().as_bytes().to_vec());
        let header = match tokio::time::timeout(patience, probe).await {
            Err(_) => return Failure::Away(format!("no answer within {patience:?}")),
            Ok(Err(failure)) => return failure,
            Ok(Ok(header)) => header,
        };
        let at = shared.state.read().unwrap_or_else(PoisonError::into_inner).revision;
        if unsigned(header.revision) < at {
            return Failure::Away("etcd's revision went back".to_owned());
        }
        let silent = heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if unsigned(header.revision) > at && silent > settings.watch_timeout {
            *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            match confirm(shared, client).await {
                // Events that are late by so much do not come any more.
                Ok(false) => return Failure::Away("the watch is silent although there are changes".to_owned()),
                Ok(true) => {}
                Err(failure) => return failure,
            }
        }
    }
}
