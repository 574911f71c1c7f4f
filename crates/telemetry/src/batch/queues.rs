//! All queues of loggers in the process: one budget of memory, counts per plugin, one drain at the end. The surprise: a queue
//! is found again by its key, so a reload that leaves a logger as it was also leaves what waits for its sink.
use super::budget::{Account, Budget};
use super::{BatchEntry, BatchOptions, BatchQueue, BatchSink};
use crate::metrics::{Kind, MetricError, Registry};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

/// Bytes that may wait in all queues where nothing else is set (`sluice.limits.log_pending_bytes`).
const DEFAULT_BUDGET: u64 = 64 << 20;
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
            budget: Arc::new(Budget::new(bytes)),
            accounts: Mutex::default(),
            open: Mutex::default(),
            draining: Mutex::default(),
        }
    }

    /// The account of a plugin, by its name.
    pub fn account(&self, plugin: &'static str) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        accounts.entry(plugin).or_insert_with(|| Arc::new(Account::new(plugin, self.budget.clone()))).clone()
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
        self.budget.used()
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
        let limit = self.budget.limit();
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
