//! Batches for loggers, with the semantics of apisix/utils/batch-processor.lua. The surprise: ages are kept exactly, where
//! APISIX looks at them only every `inactive_timeout` seconds.
//!
//! What it guarantees: [`BatchQueue::push`] never waits for a sink, and wakes another thread only for the first entry of a
//! batch and for a full one. What is neither delivered nor given up is bounded twice: in entries per plugin and in bytes over
//! all queues of the process, with a share of both that is this queue's alone ([`budget`]); more is discarded and counted.
//! Batches are delivered by up to `max_in_flight` tasks, so their order may change.
pub(crate) mod budget;
mod queues;
#[cfg(test)]
mod tests;

pub use budget::{Account, LogTotals};
use budget::{Holder, Room, Share};
pub use queues::{Draining, LogQueues};

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// Settings under APISIX's names and defaults (docs/en/latest/batch-processor.md).
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOptions {
    pub name: String,
    /// Entries of a full batch; 1 sends each at once.
    pub batch_max_size: usize,
    /// A batch is sent when no entry came for so long.
    pub inactive_timeout: Duration,
    /// A batch is sent when its first entry is so old.
    pub buffer_duration: Duration,
    /// Deliveries after the first before the entries are dropped.
    pub max_retry_count: u32,
    pub retry_delay: Duration,
    /// Batches being delivered at a time.
    pub max_in_flight: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        BatchOptions {
            name: "log buffer".to_owned(),
            batch_max_size: 1000,
            inactive_timeout: Duration::from_secs(5),
            buffer_duration: Duration::from_secs(60),
            max_retry_count: 0,
            retry_delay: Duration::from_secs(1),
            max_in_flight: 4,
        }
    }
}

/// A failed delivery.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct BatchError {
    pub message: String,
    /// How many entries from the start were delivered all the same; only the rest is tried again.
    pub delivered: usize,
}

impl BatchError {
    /// Nothing was delivered.
    pub fn new(message: impl Into<String>) -> BatchError {
        BatchError { message: message.into(), delivered: 0 }
    }
}

/// What a queue holds.
pub trait BatchEntry: Send + Sync + 'static {
    /// Bytes that it keeps in memory, roughly; counted against the budget until it is gone.
    fn bytes(&self) -> usize;
}

impl BatchEntry for Vec<u8> {
    fn bytes(&self) -> usize {
        self.capacity()
    }
}

/// Where batches go.
pub trait BatchSink<T>: Send + Sync + 'static {
    /// Delivers entries in order. It bounds its own time.
    fn deliver(&self, entries: &[T]) -> impl Future<Output = Result<(), BatchError>> + Send;
}

/// Bytes that an entry costs beside its own.
const OVERHEAD: usize = 64;

fn cost(entry: &impl BatchEntry) -> usize {
    entry.bytes() + OVERHEAD
}

/// The queue's handle. When it is dropped, what is queued is still delivered.
pub struct BatchQueue<T: BatchEntry> {
    state: Arc<State<T>>,
}

struct State<T> {
    name: String,
    buffer: Mutex<Buffer<T>>,
    wake: Notify,
    share: Share,
    size: usize,
    /// Entries of this queue that are neither delivered nor given up.
    pending: AtomicU64,
    /// Of these, entries and bytes on their way to the sink.
    flying: [AtomicU64; 2],
    /// `route_id` and `server_addr` of the first entry.
    labels: OnceLock<(Box<str>, Box<str>)>,
}

struct Buffer<T> {
    entries: Vec<T>,
    /// Of `entries`.
    bytes: usize,
    first: Instant,
    last: Instant,
    /// Full batches and their bytes.
    ready: VecDeque<(Vec<T>, usize)>,
    closed: bool,
}

impl<T: BatchEntry> Buffer<T> {
    /// Takes the newest entry back.
    fn pop(&mut self) -> Option<T> {
        if let Some(entry) = self.entries.pop() {
            self.bytes -= cost(&entry);
            return Some(entry);
        }
        let (batch, bytes) = self.ready.back_mut()?;
        let entry = batch.pop();
        *bytes -= entry.as_ref().map_or(0, cost);
        if batch.is_empty() {
            self.ready.pop_back();
        }
        entry
    }
}

impl<T> State<T> {
    fn buffer(&self) -> MutexGuard<'_, Buffer<T>> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: BatchEntry> State<T> {
    /// Whether the batch being filled is as much as may be on its way: it is sent then.
    fn is_heavy(&self, buffer: &Buffer<T>) -> bool {
        let most = self.share.flight();
        buffer.bytes as u64 >= most.bytes || buffer.entries.len() as u64 >= most.entries
    }

    /// Whether a batch may go to the sink beside those on their way.
    fn may_fly(&self, entries: usize, bytes: usize) -> bool {
        let [flying, weight] = [&self.flying[0], &self.flying[1]].map(|n| n.load(Relaxed));
        let with = Room { entries: flying + entries as u64, bytes: weight + bytes as u64 };
        flying == 0 || self.share.flight().covers(with)
    }
}

impl<T: BatchEntry> Draining for State<T> {
    fn close(&self) {
        self.buffer().closed = true;
        self.wake.notify_one();
    }
    fn left(&self) -> u64 {
        self.pending.load(Relaxed)
    }
    fn buffered(&self, show: &mut dyn FnMut(&str, &str, &str, u64)) {
        if let Some((route, address)) = self.labels.get() {
            let buffered = self.buffer().entries.len() as u64;
            show(&self.name, route, address, buffered);
        }
    }
}

impl<T: BatchEntry> Holder for State<T> {
    fn share(&self) -> Option<&Share> {
        Some(&self.share)
    }
    fn give_way(&self, wanted: Room) {
        let mut taken = Vec::new();
        let mut room = Room::default();
        let mut buffer = self.buffer();
        while !room.covers(wanted) {
            let Some(entry) = buffer.pop() else { break };
            room.entries += 1;
            room.bytes += cost(&entry) as u64;
            taken.push(entry);
        }
        drop(buffer);
        self.pending.fetch_sub(room.entries, Relaxed);
        self.share.gave_way(room);
    }
}

impl<T: BatchEntry> BatchQueue<T> {
    /// Starts the queue's task on `runtime`, the control threads' one.
    pub fn start(
        runtime: &Handle,
        options: BatchOptions,
        account: Arc<Account>,
        sink: impl BatchSink<T>,
    ) -> BatchQueue<T> {
        let now = Instant::now();
        let state = Arc::new(State {
            name: options.name.clone(),
            buffer: Mutex::new(Buffer {
                entries: Vec::new(),
                bytes: 0,
                first: now,
                last: now,
                ready: VecDeque::new(),
                closed: false,
            }),
            wake: Notify::new(),
            share: Share::new(account),
            size: options.batch_max_size.max(1),
            pending: AtomicU64::new(0),
            flying: Default::default(),
            labels: OnceLock::new(),
        });
        let holder: Arc<dyn Holder> = state.clone();
        state.share.join(Arc::downgrade(&holder));
        drop(holder);
        let batcher = Batcher { options: Arc::new(options), sink: Arc::new(sink), state: state.clone() };
        runtime.spawn(batcher.run());
        BatchQueue { state }
    }

    /// Queues an entry; `false` when it was discarded. Never waits for a sink; workers may call it.
    pub fn push(&self, entry: T) -> bool {
        let state = &*self.state;
        let bytes = cost(&entry);
        if !state.share.admit(bytes) {
            return false;
        }
        let mut buffer = state.buffer();
        if buffer.closed {
            drop(buffer);
            state.share.discard(bytes);
            return false;
        }
        state.pending.fetch_add(1, Relaxed);
        buffer.last = Instant::now();
        let mut wake = buffer.entries.is_empty();
        if wake {
            buffer.first = buffer.last;
        }
        buffer.entries.push(entry);
        buffer.bytes += bytes;
        if buffer.entries.len() >= state.size || state.is_heavy(&buffer) {
            let batch = (std::mem::take(&mut buffer.entries), std::mem::take(&mut buffer.bytes));
            buffer.ready.push_back(batch);
            wake = true;
        }
        drop(buffer);
        if wake {
            state.wake.notify_one();
        }
        true
    }

    /// Counts an entry that the logger does not want as discarded.
    pub fn refuse(&self) {
        self.state.share.refuse(1);
    }

    /// Names route and server of the queue's entries, for the gauge `batch_process_entries`; asked for once.
    #[inline]
    pub fn label(&self, labels: impl FnOnce() -> (Box<str>, Box<str>)) {
        if self.state.labels.get().is_none() {
            let _ = self.state.labels.set(labels());
        }
    }

    /// Entries in the batch being filled.
    pub fn buffered(&self) -> u64 {
        self.state.buffer().entries.len() as u64
    }

    pub(crate) fn draining(&self) -> Arc<dyn Draining> {
        self.state.clone()
    }
}

impl<T: BatchEntry> Drop for BatchQueue<T> {
    fn drop(&mut self) {
        self.state.close();
    }
}

struct Batcher<T, S> {
    options: Arc<BatchOptions>,
    sink: Arc<S>,
    state: Arc<State<T>>,
}

enum Next<T> {
    Deliver(Vec<T>),
    /// Enough is on its way.
    Busy,
    Wait(Option<Instant>),
    End,
}

impl<T: BatchEntry, S: BatchSink<T>> Batcher<T, S> {
    async fn run(self) {
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            match self.next(tasks.len()) {
                Next::Deliver(entries) => {
                    let batch = Batch::take_off(entries, self.state.clone());
                    tasks.spawn(deliver(self.options.clone(), self.sink.clone(), batch));
                }
                Next::Busy => drop(tasks.join_next().await),
                Next::Wait(None) => self.state.wake.notified().await,
                Next::Wait(Some(due)) => tokio::select! {
                    () = self.state.wake.notified() => {}
                    () = sleep_until(due) => {}
                },
                Next::End => break,
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    fn next(&self, flying: usize) -> Next<T> {
        let mut buffer = self.state.buffer();
        let (entries, bytes) = match buffer.ready.front() {
            Some((batch, bytes)) => (batch.len(), *bytes),
            None if buffer.entries.is_empty() => {
                return if buffer.closed { Next::End } else { Next::Wait(None) };
            }
            None => {
                let idle = buffer.last + self.options.inactive_timeout;
                let due = idle.min(buffer.first + self.options.buffer_duration);
                if !buffer.closed && due > Instant::now() {
                    return Next::Wait(Some(due));
                }
                (buffer.entries.len(), buffer.bytes)
            }
        };
        if flying >= self.options.max_in_flight.max(1) || flying > 0 && !self.state.may_fly(entries, bytes) {
            return Next::Busy;
        }
        if let Some((batch, _)) = buffer.ready.pop_front() {
            return Next::Deliver(batch);
        }
        buffer.bytes = 0;
        Next::Deliver(std::mem::take(&mut buffer.entries))
    }
}

/// Entries on their way. What is still here when it goes (a sink that panics, a runtime that ends) is counted as dropped.
struct Batch<T: BatchEntry> {
    entries: Vec<T>,
    state: Arc<State<T>>,
}

impl<T: BatchEntry> Batch<T> {
    fn take_off(entries: Vec<T>, state: Arc<State<T>>) -> Batch<T> {
        let [count, bytes] = &state.flying;
        count.fetch_add(entries.len() as u64, Relaxed);
        bytes.fetch_add(entries.iter().map(cost).sum::<usize>() as u64, Relaxed);
        Batch { entries, state }
    }

    /// The first `count` entries are delivered, or given up.
    fn gone(&mut self, count: usize, delivered: bool) {
        let count = count.min(self.entries.len());
        let bytes: usize = self.entries.drain(..count).map(|e| cost(&e)).sum();
        let [flying, weight] = &self.state.flying;
        flying.fetch_sub(count as u64, Relaxed);
        weight.fetch_sub(bytes as u64, Relaxed);
        self.state.share.gone(count as u64, bytes, delivered);
        self.state.pending.fetch_sub(count as u64, Relaxed);
    }
}

impl<T: BatchEntry> Drop for Batch<T> {
    fn drop(&mut self) {
        self.gone(usize::MAX, false);
    }
}

async fn deliver<T: BatchEntry, S: BatchSink<T>>(options: Arc<BatchOptions>, sink: Arc<S>, mut batch: Batch<T>) {
    let name = &options.name;
    let state = batch.state.clone();
    let route = state.labels.get().map_or("", |(route, _)| &**route);
    let mut failures = 0_u32;
    loop {
        let Err(error) = sink.deliver(&batch.entries).await else {
            batch.gone(usize::MAX, true);
            return;
        };
        let (done, all) = (error.delivered.min(batch.entries.len()), batch.entries.len());
        // The wording is APISIX's: people search their logs for it.
        if done > 0 {
            tracing::error!(route, "Batch Processor[{name}] failed to process entries [{}/{all}]: {error}", all - done);
        } else {
            tracing::error!(route, "Batch Processor[{name}] failed to process entries: {error}");
        }
        batch.gone(done, true);
        failures += 1;
        if failures > options.max_retry_count || batch.entries.is_empty() {
            tracing::error!(
                route,
                "Batch Processor[{name}] exceeded the max_retry_count[{failures}] dropping the entries"
            );
            return;
        }
        sleep(options.retry_delay).await;
    }
}
