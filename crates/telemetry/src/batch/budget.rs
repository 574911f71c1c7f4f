//! How much may wait for sinks: bytes over all queues of the process, and entries of each plugin. The surprise: a full budget is
//! no refusal. Room is taken back from the queue that holds most; only that one is refused.
//!
//! So a queue may borrow what others leave free, and whatever they do it has its share, the limit divided by the number of
//! queues: as long as it holds less, some other holds more. The one that gives way loses its newest waiting entries, which
//! count as discarded, just as its next ones will. A sink that hangs costs its own entries alone. Entries on their way to a
//! sink cannot be taken back; beyond a quarter of the limit a queue sends no more of them at a time than [`Share::flight`].
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// Entries of a plugin that may wait (apisix/utils/batch-processor-manager.lua `DEFAULT_MAX_PENDING_ENTRIES`).
const DEFAULT_MAX_PENDING: u64 = 8192;
/// Milliseconds for which a queue that held most is refused without another look, but within its share.
const BARREN: u64 = 10;
/// Searches for one entry: others may take what was freed.
const SEARCHES: u32 = 4;
/// Who gives way frees at least this part of what it holds more, so that the next entries need no search.
const CHUNK: u64 = 16;
/// Bytes that may be on their way to a sink however many queues there are; of small limits a 64th.
const FLIGHT: u64 = 64 << 10;

/// What of a limit may be on its way to one of `holders` sinks.
fn flight(limit: u64, used: u64, holders: u64, floor: u64) -> u64 {
    if used <= limit / 4 {
        return u64::MAX;
    }
    (limit / holders.max(1) / 2).max(floor.min(limit / 64)).max(1)
}

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
    /// How many `holders` are alive.
    count: AtomicU64,
    holders: Mutex<Vec<Weak<dyn Holder>>>,
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
            count: AtomicU64::new(0),
            holders: Mutex::default(),
            since: Instant::now(),
        }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    fn count(&self, holders: &mut Vec<Weak<dyn Holder>>) {
        holders.retain(|h| h.strong_count() > 0);
        self.count.store(holders.len() as u64, Relaxed);
    }

    fn join(&self, holder: Weak<dyn Holder>) {
        let mut holders = lock(&self.holders);
        holders.push(holder);
        self.count(&mut holders);
    }

    /// Has the queue that holds most give way, or the next one if nothing of it waits; `false`: none holds more than `own`.
    /// `held` is what of a share counts.
    fn take_back(&self, own: u64, held: impl Fn(&Share) -> u64, wanted: impl Fn(u64) -> Room) -> bool {
        let holders: Vec<Arc<dyn Holder>> = lock(&self.holders).iter().filter_map(Weak::upgrade).collect();
        let mut more: Vec<(u64, &Share, &Arc<dyn Holder>)> =
            holders.iter().filter_map(|h| h.share().map(|share| (held(share), share, h))).collect();
        more.retain(|(held, ..)| *held > own);
        more.sort_by_key(|(held, ..)| std::cmp::Reverse(*held));
        more.into_iter().any(|(held, share, holder)| {
            let before = share.discarded.load(Relaxed);
            holder.give_way(wanted((held - own) / CHUNK));
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
    /// Refused without a search until then, in ms since the budget began.
    barren: AtomicU64,
}

impl Share {
    pub(crate) fn new(account: Arc<Account>) -> Share {
        account.holders.fetch_add(1, Relaxed);
        let zero = || AtomicU64::new(0);
        Share { account, entries: zero(), bytes: zero(), discarded: zero(), barren: zero() }
    }

    /// From now on the holder gives way, and its share is kept for it.
    pub(crate) fn join(&self, holder: Weak<dyn Holder>) {
        self.account.budget.join(holder);
    }

    /// What may be on its way to the sink at a time, and how large a batch may become.
    #[inline]
    pub(crate) fn flight(&self) -> Room {
        let account = &*self.account;
        let (limit, pending) = (account.limit.load(Relaxed), account.pending.load(Relaxed));
        let budget = &account.budget;
        Room {
            entries: flight(limit, pending, account.holders.load(Relaxed), u64::MAX),
            bytes: flight(budget.limit, budget.used(), budget.count.load(Relaxed), FLIGHT),
        }
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

    /// As `admit`, where not all is free.
    #[cold]
    fn squeeze(&self, bytes: u64) -> bool {
        let account = &*self.account;
        let budget = &*account.budget;
        let now = budget.since.elapsed().as_millis() as u64;
        let within = |held: &AtomicU64, limit: u64, holders: &AtomicU64| {
            held.load(Relaxed) <= limit / holders.load(Relaxed).max(1)
        };
        let has_share = within(&self.bytes, budget.limit, &budget.count)
            && within(&self.entries, account.limit.load(Relaxed), &account.holders);
        let searches = if has_share || self.barren.load(Relaxed) <= now { SEARCHES } else { 0 };
        for _ in 0..searches {
            let found = if account.pending.load(Relaxed) > account.limit.load(Relaxed) {
                let held = |share: &Share| if share.is_of(account) { share.entries.load(Relaxed) } else { 0 };
                let wanted = |chunk: u64| Room { entries: chunk.max(1), bytes: 0 };
                budget.take_back(self.entries.load(Relaxed), held, wanted)
            } else {
                let held = |share: &Share| share.bytes.load(Relaxed);
                let wanted = |chunk: u64| Room { entries: 0, bytes: chunk.max(bytes) };
                budget.take_back(self.bytes.load(Relaxed), held, wanted)
            };
            if account.fits() {
                return true;
            }
            if !found {
                self.barren.store(now + BARREN, Relaxed);
                break;
            }
        }
        self.discard(bytes as usize);
        account.report();
        false
    }

    fn is_of(&self, account: &Account) -> bool {
        std::ptr::eq(&*self.account, account)
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
        budget.count(&mut lock(&budget.holders));
    }
}
