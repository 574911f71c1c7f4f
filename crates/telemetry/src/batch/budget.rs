//! How much may wait for sinks: bytes over all queues of the process, entries of each plugin, and a fair share of both for
//! each queue. The surprise: a full budget is no refusal. A queue within its share takes room back from one beyond its own.
//!
//! The share of a queue is the limit divided by the number of queues. What others do not use it may borrow. When nothing is
//! free, a queue that holds less than its share gets room at once: the queue that is furthest beyond its own gives its newest
//! waiting entries up, which count as discarded, just as its next ones will. So a sink that hangs costs its own entries
//! alone. Entries on their way to a sink cannot be taken back; [`super::BatchQueue`] sends no more of them at a time than half
//! of the share, or one batch.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// Entries of a plugin that may wait (apisix/utils/batch-processor-manager.lua `DEFAULT_MAX_PENDING_ENTRIES`).
const DEFAULT_MAX_PENDING: u64 = 8192;
/// Milliseconds without another search for somebody to give way, after one that found nobody.
const BARREN: u64 = 10;
/// Searches for one entry: others may take what was freed.
const SEARCHES: u32 = 4;
/// A queue that gives way frees at least this part of a share, so that the next entries need no search.
const CHUNK: u64 = 16;

/// Something that holds entries of a share and can give waiting ones up.
pub(crate) trait Holder: Send + Sync {
    fn share(&self) -> Option<&Share>;
    /// Takes the newest waiting entries back until so many entries and bytes are free, or none are left. They leave the share
    /// as discarded.
    fn give_way(&self, wanted: Room);
}

/// An amount of entries and of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub entries: u64,
    pub bytes: u64,
}

impl Room {
    /// Whether this is at least as much in both.
    pub(crate) fn covers(self, wanted: Room) -> bool {
        self.entries >= wanted.entries && self.bytes >= wanted.bytes
    }
}

/// The bytes of all queues.
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    /// `limit` divided by the number of holders.
    share: AtomicU64,
    holders: Mutex<Vec<Weak<dyn Holder>>>,
    /// No search before then, in ms since `since`.
    barren: AtomicU64,
    since: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Budget {
    pub(super) fn new(limit: u64) -> Budget {
        Budget {
            limit,
            used: AtomicU64::new(0),
            share: AtomicU64::new(limit),
            holders: Mutex::default(),
            barren: AtomicU64::new(0),
            since: Instant::now(),
        }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    fn divide(&self, holders: &mut Vec<Weak<dyn Holder>>) {
        holders.retain(|h| h.strong_count() > 0);
        self.share.store(self.limit / holders.len().max(1) as u64, Relaxed);
    }

    fn join(&self, holder: Weak<dyn Holder>) {
        let mut holders = lock(&self.holders);
        holders.push(holder);
        self.divide(&mut holders);
    }

    /// Has the holder furthest beyond its share give way, or the next one if that has nothing waiting; `false`: nobody.
    fn take_back(&self, wanted: Room, beyond: impl Fn(&Share) -> Room) -> bool {
        let holders: Vec<Arc<dyn Holder>> = lock(&self.holders).iter().filter_map(Weak::upgrade).collect();
        let mut over: Vec<(Room, &Share, &Arc<dyn Holder>)> =
            holders.iter().filter_map(|h| h.share().map(|share| (beyond(share), share, h))).collect();
        over.retain(|(beyond, ..)| *beyond != Room::default());
        over.sort_by_key(|(beyond, ..)| std::cmp::Reverse(beyond.bytes.max(beyond.entries)));
        over.into_iter().any(|(beyond, share, holder)| {
            let before = share.discarded.load(Relaxed);
            let (entries, bytes) = (wanted.entries.min(beyond.entries), wanted.bytes.min(beyond.bytes));
            holder.give_way(Room { entries, bytes });
            share.discarded.load(Relaxed) != before
        })
    }
}

/// What became of a plugin's entries so far. `delivered + dropped + discarded + pending` is how many there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogTotals {
    pub delivered: u64,
    /// Given up after the retries.
    pub dropped: u64,
    /// Refused or given up because too much was waiting, or at shutdown.
    pub discarded: u64,
    pub pending: u64,
}

/// A plugin's entries: counts, and how many may wait.
pub struct Account {
    plugin: &'static str,
    budget: Arc<Budget>,
    limit: AtomicU64,
    /// Queues that share `limit`.
    holders: AtomicU64,
    pending: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
    discarded: AtomicU64,
    /// Discarded since the log told so, and when that was, in ms since the account began.
    unreported: AtomicU64,
    reported: AtomicU64,
    since: Instant,
}

impl Account {
    pub(super) fn new(plugin: &'static str, budget: Arc<Budget>) -> Account {
        Account {
            plugin,
            budget,
            limit: AtomicU64::new(DEFAULT_MAX_PENDING),
            holders: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            discarded: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            since: Instant::now(),
        }
    }

    /// Entries that may wait, of all queues of the plugin (`max_pending_entries` of its metadata).
    pub fn set_limit(&self, entries: u64) {
        self.limit.store(entries.max(1), Relaxed);
    }

    pub fn totals(&self) -> LogTotals {
        LogTotals {
            delivered: self.delivered.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            discarded: self.discarded.load(Relaxed),
            pending: self.pending.load(Relaxed),
        }
    }

    fn fits(&self) -> bool {
        self.pending.load(Relaxed) <= self.limit.load(Relaxed) && self.budget.used() <= self.budget.limit
    }

    /// At most once a second, in APISIX's words (`report_discard`).
    #[cold]
    fn report(&self) {
        let now = self.since.elapsed().as_millis() as u64 + 1000;
        let last = self.reported.load(Relaxed);
        if now < last + 1000 || self.reported.compare_exchange(last, now, Relaxed, Relaxed).is_err() {
            return;
        }
        let t = self.totals();
        let processed = t.delivered + t.dropped;
        let (used, budget) = (self.budget.used(), self.budget.limit);
        tracing::error!(
            plugin = self.plugin,
            "max pending entries limit exceeded. discarding entry. total_pushed_entries: {}, \
             total_processed_entries: {processed}, max_pending_entries: {}, discarded_entries: {}, \
             pending bytes of all loggers: {used} of {budget}",
            processed + t.pending,
            self.limit.load(Relaxed),
            self.unreported.swap(0, Relaxed),
        );
    }
}

/// A queue's part of its plugin's account and of the budget.
pub(crate) struct Share {
    account: Arc<Account>,
    entries: AtomicU64,
    bytes: AtomicU64,
    discarded: AtomicU64,
}

impl Share {
    pub(crate) fn new(account: Arc<Account>) -> Share {
        account.holders.fetch_add(1, Relaxed);
        Share { account, entries: AtomicU64::new(0), bytes: AtomicU64::new(0), discarded: AtomicU64::new(0) }
    }

    /// From now on the holder gives way, and its share is kept for it.
    pub(crate) fn join(&self, holder: Weak<dyn Holder>) {
        self.account.budget.join(holder);
    }

    /// Bytes that this queue may have whatever others do.
    #[inline]
    pub(crate) fn bytes_kept(&self) -> u64 {
        self.account.budget.share.load(Relaxed)
    }

    /// Entries that this queue may have whatever others of its plugin do.
    pub(crate) fn entries_kept(&self) -> u64 {
        (self.account.limit.load(Relaxed) / self.account.holders.load(Relaxed).max(1)).max(1)
    }

    /// Whether more than half of the plugin's entries wait.
    pub(crate) fn is_tight(&self) -> bool {
        self.account.pending.load(Relaxed) > self.account.limit.load(Relaxed) / 2
    }

    /// Makes room for an entry; `false`: there is none, and the entry is counted as discarded.
    #[inline]
    pub(crate) fn admit(&self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        self.entries.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        let account = &*self.account;
        let pending = account.pending.fetch_add(1, Relaxed);
        let used = account.budget.used.fetch_add(bytes, Relaxed);
        if pending < account.limit.load(Relaxed) && used + bytes <= account.budget.limit {
            return true;
        }
        self.squeeze(bytes)
    }

    /// As `admit`, where not all is free: from those beyond their shares, if this queue is within its own.
    #[cold]
    fn squeeze(&self, bytes: u64) -> bool {
        let account = &*self.account;
        let (budget, entries, room) = (&*account.budget, self.entries_kept(), self.bytes_kept());
        let within = self.entries.load(Relaxed) <= entries && self.bytes.load(Relaxed) <= room;
        let now = budget.since.elapsed().as_millis() as u64;
        // Whoever is beyond its share may borrow what is free, no more; and a search that found nobody is not repeated for
        // each entry.
        let searches = if within && budget.barren.load(Relaxed) <= now { SEARCHES } else { 0 };
        for _ in 0..searches {
            if account.fits() {
                break;
            }
            let found = if account.pending.load(Relaxed) > account.limit.load(Relaxed) {
                let wanted = Room { entries: (entries / CHUNK).max(1), bytes: 0 };
                budget.take_back(wanted, |share| share.beyond_entries(account, entries))
            } else {
                let wanted = Room { entries: 0, bytes: bytes.max(room / CHUNK) };
                budget.take_back(wanted, |share| share.beyond_bytes(room))
            };
            if !found {
                budget.barren.store(now + BARREN, Relaxed);
                break;
            }
        }
        if within && account.fits() {
            return true;
        }
        self.discard(bytes as usize);
        account.report();
        false
    }

    fn beyond_entries(&self, account: &Account, share: u64) -> Room {
        if !std::ptr::eq(&*self.account, account) {
            return Room::default();
        }
        Room { entries: self.entries.load(Relaxed).saturating_sub(share), bytes: 0 }
    }

    fn beyond_bytes(&self, share: u64) -> Room {
        Room { entries: 0, bytes: self.bytes.load(Relaxed).saturating_sub(share) }
    }

    fn leave(&self, entries: u64, bytes: u64) {
        self.entries.fetch_sub(entries, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
        self.account.pending.fetch_sub(entries, Relaxed);
        self.account.budget.used.fetch_sub(bytes, Relaxed);
    }

    /// Gives the room of an admitted entry back, which counts as discarded.
    pub(crate) fn discard(&self, bytes: usize) {
        self.given_up(Room { entries: 1, bytes: bytes as u64 });
    }

    /// As `discard`, for several.
    pub(crate) fn given_up(&self, room: Room) {
        self.leave(room.entries, room.bytes);
        self.refuse(room.entries);
        self.account.unreported.fetch_add(room.entries, Relaxed);
    }

    /// Entries that had to give way.
    pub(crate) fn gave_way(&self, room: Room) {
        if room.entries > 0 {
            self.given_up(room);
            self.account.report();
        }
    }

    /// Counts entries that were never admitted as discarded.
    pub(crate) fn refuse(&self, entries: u64) {
        self.discarded.fetch_add(entries, Relaxed);
        self.account.discarded.fetch_add(entries, Relaxed);
    }

    /// Admitted entries that are delivered, or given up.
    pub(crate) fn gone(&self, entries: u64, bytes: usize, delivered: bool) {
        if entries > 0 {
            self.leave(entries, bytes as u64);
            if delivered { &self.account.delivered } else { &self.account.dropped }.fetch_add(entries, Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.account.holders.fetch_sub(1, Relaxed);
        // The holder is going: its weak handle counts no longer.
        let budget = &*self.account.budget;
        budget.divide(&mut lock(&budget.holders));
    }
}
