//! All queues of loggers in the process: one budget of memory, counts per plugin, one drain at the end. The surprise: an
//! entry that finds no room is discarded at once, whichever logger filled the budget; nothing is ever taken back from a queue.
use super::{BatchEntry, BatchOptions, BatchQueue, BatchSink};
use crate::metrics::{Kind, MetricError, Registry};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

/// Bytes that may wait in all queues where nothing else is set (`sluice.limits.log_pending_bytes`).
const DEFAULT_BUDGET: u64 = 64 << 20;
/// Entries of a plugin that may wait (apisix/utils/batch-processor-manager.lua `DEFAULT_MAX_PENDING_ENTRIES`).
pub(super) const DEFAULT_MAX_PENDING: u64 = 8192;
/// How often the drain looks whether all is delivered.
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// Something with entries that should go out before the process ends.
pub trait Draining: Send + Sync {
    /// Takes no more; sends what is there without waiting for a batch to fill.
    fn close(&self);
    /// Entries neither delivered nor given up.
    fn left(&self) -> u64;
    /// Shows name, route, server address and entries of the batch being filled.
    fn buffered(&self, _show: &mut dyn FnMut(&str, &str, &str, u64)) {}
}

struct Budget {
    limit: u64,
    used: AtomicU64,
}

/// What became of a plugin's entries so far. `delivered + dropped + discarded + pending` is how many there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogTotals {
    pub delivered: u64,
    /// Given up after the retries.
    pub dropped: u64,
    /// Refused because too much was waiting, or at shutdown.
    pub discarded: u64,
    pub pending: u64,
}

/// A plugin's entries: counts, and how many may wait.
pub struct Account {
    budget: Arc<Budget>,
    limit: AtomicU64,
    pending: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
    discarded: AtomicU64,
    /// Discarded since the log told so, and when that was, in ms since the account began.
    unreported: AtomicU64,
    reported: AtomicU64,
    since: std::time::Instant,
}

impl Account {
    fn new(budget: Arc<Budget>) -> Account {
        Account {
            budget,
            limit: AtomicU64::new(DEFAULT_MAX_PENDING),
            pending: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            discarded: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            since: std::time::Instant::now(),
        }
    }

    /// Entries that may wait, of all queues of the plugin (`max_pending_entries` of its metadata).
    pub fn set_limit(&self, entries: u64) {
        self.limit.store(entries.max(1), Relaxed);
    }

    /// Makes room for an entry; `false`: there is none, and the entry is counted as discarded.
    #[inline]
    pub fn admit(&self, bytes: usize) -> bool {
        let pending = self.pending.fetch_add(1, Relaxed);
        let used = self.budget.used.fetch_add(bytes as u64, Relaxed);
        if pending < self.limit.load(Relaxed) && used + bytes as u64 <= self.budget.limit {
            return true;
        }
        self.discard(bytes);
        self.report();
        false
    }

    /// Gives the room of an admitted entry back, which counts as discarded.
    pub fn discard(&self, bytes: usize) {
        self.pending.fetch_sub(1, Relaxed);
        self.budget.used.fetch_sub(bytes as u64, Relaxed);
        self.discarded.fetch_add(1, Relaxed);
        self.unreported.fetch_add(1, Relaxed);
    }

    /// Counts an entry that was never admitted as discarded.
    pub fn refuse(&self) {
        self.discarded.fetch_add(1, Relaxed);
    }

    /// Admitted entries that are delivered, or given up.
    pub fn gone(&self, entries: u64, bytes: usize, delivered: bool) {
        if entries == 0 {
            return;
        }
        self.budget.used.fetch_sub(bytes as u64, Relaxed);
        self.pending.fetch_sub(entries, Relaxed);
        if delivered { &self.delivered } else { &self.dropped }.fetch_add(entries, Relaxed);
    }

    pub fn totals(&self) -> LogTotals {
        LogTotals {
            delivered: self.delivered.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            discarded: self.discarded.load(Relaxed),
            pending: self.pending.load(Relaxed),
        }
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
        let (used, budget) = (self.budget.used.load(Relaxed), self.budget.limit);
        tracing::error!(
            "max pending entries limit exceeded. discarding entry. total_pushed_entries: {}, \
             total_processed_entries: {processed}, max_pending_entries: {}, discarded_entries: {}, \
             pending bytes of all loggers: {used} of {budget}",
            processed + t.pending,
            self.limit.load(Relaxed),
            self.unreported.swap(0, Relaxed),
        );
    }
}

/// All queues. One per process; a test makes its own.
pub struct LogQueues {
    budget: Arc<Budget>,
    accounts: Mutex<BTreeMap<&'static str, Arc<Account>>>,
    /// Handles by key, so that a reload finds its queue again.
    open: Mutex<BTreeMap<String, Weak<dyn Any + Send + Sync>>>,
    draining: Mutex<Vec<Weak<dyn Draining>>>,
}

impl Default for LogQueues {
    fn default() -> LogQueues {
        LogQueues::new(DEFAULT_BUDGET)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogQueues {
    /// At most `bytes` wait in all queues together.
    pub fn new(bytes: u64) -> LogQueues {
        LogQueues {
            budget: Arc::new(Budget { limit: bytes, used: AtomicU64::new(0) }),
            accounts: Mutex::default(),
            open: Mutex::default(),
            draining: Mutex::default(),
        }
    }

    /// The account of a plugin, by its name.
    pub fn account(&self, plugin: &'static str) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        accounts.entry(plugin).or_insert_with(|| Arc::new(Account::new(self.budget.clone()))).clone()
    }

    /// The queue of this key, started with `sink` if there is none. `key` holds all that the sink depends on: who asks with
    /// the same key gets the same queue, entries and all.
    pub fn open<T: BatchEntry, S: BatchSink<T>>(
        &self,
        runtime: &Handle,
        plugin: &'static str,
        key: &str,
        options: BatchOptions,
        sink: impl FnOnce() -> S,
    ) -> Arc<BatchQueue<T>> {
        let mut open = lock(&self.open);
        if let Some(queue) = open.get(key).and_then(Weak::upgrade).and_then(|q| q.downcast::<BatchQueue<T>>().ok()) {
            return queue;
        }
        open.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::new(BatchQueue::start(runtime, options, self.account(plugin), sink()));
        self.drain_at_end(&queue.draining());
        let any: Arc<dyn Any + Send + Sync> = queue.clone();
        open.insert(key.to_owned(), Arc::downgrade(&any));
        queue
    }

    /// Takes part in [`LogQueues::shutdown`].
    pub fn drain_at_end(&self, draining: &Arc<dyn Draining>) {
        let mut all = lock(&self.draining);
        all.retain(|d| d.strong_count() > 0);
        all.push(Arc::downgrade(draining));
    }

    fn all(&self) -> Vec<Arc<dyn Draining>> {
        lock(&self.draining).iter().filter_map(Weak::upgrade).collect()
    }

    /// Bytes that wait now.
    pub fn pending_bytes(&self) -> u64 {
        self.budget.used.load(Relaxed)
    }

    /// Takes no more entries, delivers what is queued, and waits at most `deadline`. Returns how many were left then.
    pub async fn shutdown(&self, deadline: Duration) -> u64 {
        let all = self.all();
        all.iter().for_each(|d| d.close());
        let end = Instant::now() + deadline;
        loop {
            let left: u64 = all.iter().map(|d| d.left()).sum();
            if left == 0 || Instant::now() >= end {
                return left;
            }
            sleep(DRAIN_POLL).await;
        }
    }

    /// Shows entries by plugin and fate, and the budget.
    pub fn report(self: &Arc<Self>, registry: &Registry) -> Result<(), MetricError> {
        let queues = self.clone();
        let help = "Entries of loggers by what became of them: delivered, dropped after all retries, discarded for want of room";
        registry.callback("sluice_log_entries_total", help, &["plugin", "result"], Kind::Counter, move |samples| {
            for (plugin, account) in lock(&queues.accounts).iter() {
                let totals = account.totals();
                samples.push(&[plugin, "delivered"], totals.delivered as f64);
                samples.push(&[plugin, "dropped"], totals.dropped as f64);
                samples.push(&[plugin, "discarded"], totals.discarded as f64);
            }
        })?;
        let queues = self.clone();
        let help = "Bytes of log entries that wait for their sinks";
        registry.callback("sluice_log_pending_bytes", help, &[], Kind::Gauge, move |samples| {
            samples.push(&[], queues.pending_bytes() as f64);
        })?;
        let queues = self.clone();
        let help = "Entries of loggers that wait for their sinks";
        registry.callback("sluice_log_pending_entries", help, &["plugin"], Kind::Gauge, move |samples| {
            for (plugin, account) in lock(&queues.accounts).iter() {
                samples.push(&[plugin], account.totals().pending as f64);
            }
        })?;
        let limit = self.budget.limit;
        let help = "Bytes of log entries that may wait, of all loggers together";
        registry.callback("sluice_log_max_pending_bytes", help, &[], Kind::Gauge, move |samples| {
            samples.push(&[], limit as f64);
        })
    }

    /// Shows the entries of batches being filled under APISIX's name with `prefix`.
    pub fn report_buffered(self: &Arc<Self>, registry: &Registry, prefix: &str) -> Result<(), MetricError> {
        let queues = self.clone();
        let labels = &["name", "route_id", "server_addr"];
        let name = format!("{prefix}batch_process_entries");
        registry.callback(&name, "batch process remaining entries", labels, Kind::Gauge, move |samples| {
            let mut sums: BTreeMap<[String; 3], u64> = BTreeMap::new();
            for draining in queues.all() {
                draining.buffered(&mut |name, route, address, entries| {
                    *sums.entry([name.into(), route.into(), address.into()]).or_default() += entries;
                });
            }
            for ([name, route, address], entries) in sums {
                samples.push(&[&name, &route, &address], entries as f64);
            }
        })
    }
}
