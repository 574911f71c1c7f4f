//! Batches for loggers, with the semantics of apisix/utils/batch-processor.lua. The surprise: ages are kept exactly, where
//! APISIX looks at them only every `inactive_timeout` seconds.
//!
//! What it guarantees: [`BatchQueue::push`] never waits. At most `max_pending_entries` are neither delivered nor given up;
//! more are discarded and counted. Batches are delivered by up to `max_in_flight` tasks, so their order may change.
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

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
    /// Entries neither delivered nor dropped; more are discarded.
    pub max_pending_entries: usize,
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
            max_pending_entries: 8192,
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

/// Where batches go.
pub trait BatchSink<T>: Send + Sync + 'static {
    /// Delivers entries in order.
    fn deliver(&self, entries: &[T]) -> impl Future<Output = Result<(), BatchError>> + Send;
}

/// Entries so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchStats {
    pub pushed: u64,
    pub delivered: u64,
    /// Given up after the retries or at shutdown.
    pub dropped: u64,
    /// Refused because too many were pending.
    pub discarded: u64,
}

#[derive(Default)]
struct Counts {
    pushed: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
    discarded: AtomicU64,
    buffered: AtomicU64,
}

impl Counts {
    fn pending(&self) -> u64 {
        let gone = self.delivered.load(Relaxed) + self.dropped.load(Relaxed);
        self.pushed.load(Relaxed).saturating_sub(gone)
    }
}

/// The queue's handle. Cloning shares it; when the last clone is dropped, what is queued is still delivered.
pub struct BatchQueue<T> {
    sender: mpsc::Sender<T>,
    counts: Arc<Counts>,
    limit: u64,
    stop: Arc<watch::Sender<bool>>,
    ended: watch::Receiver<bool>,
}

impl<T> Clone for BatchQueue<T> {
    fn clone(&self) -> Self {
        let (sender, counts, stop) = (self.sender.clone(), self.counts.clone(), self.stop.clone());
        BatchQueue { sender, counts, limit: self.limit, stop, ended: self.ended.clone() }
    }
}

impl<T: Send + Sync + 'static> BatchQueue<T> {
    /// Starts the queue's task on `runtime`, the control threads' one.
    pub fn start(runtime: &Handle, options: BatchOptions, sink: impl BatchSink<T>) -> BatchQueue<T> {
        let limit = options.max_pending_entries.max(1);
        let (sender, receiver) = mpsc::channel(limit);
        let counts = Arc::new(Counts::default());
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        let batcher = Batcher { options: Arc::new(options), sink: Arc::new(sink), counts: counts.clone(), stopped };
        runtime.spawn(async move {
            batcher.run(receiver).await;
            end.send_replace(true);
        });
        BatchQueue { sender, counts, limit: limit as u64, stop: Arc::new(stop), ended }
    }

    /// Queues an entry; `false` when it was discarded. Never waits; workers may call it.
    pub fn push(&self, entry: T) -> bool {
        // Not exact among racing threads; the channel's capacity is the hard limit.
        if self.counts.pending() < self.limit {
            self.counts.pushed.fetch_add(1, Relaxed);
            if self.sender.try_send(entry).is_ok() {
                return true;
            }
            self.counts.pushed.fetch_sub(1, Relaxed);
        }
        self.counts.discarded.fetch_add(1, Relaxed);
        false
    }

    pub fn stats(&self) -> BatchStats {
        let counts = &self.counts;
        BatchStats {
            pushed: counts.pushed.load(Relaxed),
            delivered: counts.delivered.load(Relaxed),
            dropped: counts.dropped.load(Relaxed),
            discarded: counts.discarded.load(Relaxed),
        }
    }

    /// Entries in the batch being filled: the gauge `batch_process_entries`.
    pub fn buffered(&self) -> u64 {
        self.counts.buffered.load(Relaxed)
    }

    /// Takes no more entries, delivers what is queued, and waits at most `deadline`. Returns how many were left then;
    /// their deliveries go on until the runtime ends.
    pub async fn shutdown(&self, deadline: Duration) -> u64 {
        self.stop.send_replace(true);
        let mut ended = self.ended.clone();
        let _ = timeout(deadline, ended.wait_for(|ended| *ended)).await;
        self.counts.pending()
    }
}

struct Batcher<S> {
    options: Arc<BatchOptions>,
    sink: Arc<S>,
    counts: Arc<Counts>,
    stopped: watch::Receiver<bool>,
}

impl<S> Batcher<S> {
    async fn run<T>(mut self, mut receiver: mpsc::Receiver<T>)
    where
        T: Send + Sync + 'static,
        S: BatchSink<T>,
    {
        let size = self.options.batch_max_size.max(1);
        let mut tasks = JoinSet::new();
        let mut buffer = Vec::new();
        let mut first = Instant::now();
        let mut last = first;
        let mut stopped = self.stopped.clone();
        let mut stopping = false;
        loop {
            let due = (last + self.options.inactive_timeout).min(first + self.options.buffer_duration);
            tokio::select! {
                biased;
                // A dropped handle shows as a closed channel, below.
                true = async { stopped.wait_for(|stop| *stop).await.is_ok() }, if !stopping => {
                    stopping = true;
                    receiver.close();
                }
                () = sleep_until(due), if !buffer.is_empty() => self.send(&mut buffer, &mut tasks).await,
                entry = receiver.recv() => match entry {
                    Some(entry) => {
                        last = Instant::now();
                        if buffer.is_empty() {
                            first = last;
                        }
                        buffer.push(entry);
                        self.counts.buffered.store(buffer.len() as u64, Relaxed);
                        if buffer.len() >= size {
                            self.send(&mut buffer, &mut tasks).await;
                        }
                    }
                    None => break,
                },
            }
        }
        self.send(&mut buffer, &mut tasks).await;
        while tasks.join_next().await.is_some() {}
    }

    async fn send<T>(&mut self, buffer: &mut Vec<T>, tasks: &mut JoinSet<()>)
    where
        T: Send + Sync + 'static,
        S: BatchSink<T>,
    {
        while tasks.try_join_next().is_some() {}
        while tasks.len() >= self.options.max_in_flight.max(1) {
            tasks.join_next().await;
        }
        let batch = std::mem::take(buffer);
        self.counts.buffered.store(0, Relaxed);
        if !batch.is_empty() {
            let (options, sink, counts) = (self.options.clone(), self.sink.clone(), self.counts.clone());
            tasks.spawn(deliver(options, sink, counts, batch));
        }
    }
}

async fn deliver<T, S>(options: Arc<BatchOptions>, sink: Arc<S>, counts: Arc<Counts>, mut batch: Vec<T>)
where
    T: Send + Sync + 'static,
    S: BatchSink<T>,
{
    let name = &options.name;
    let mut failures = 0_u32;
    loop {
        let Err(error) = sink.deliver(&batch).await else {
            counts.delivered.fetch_add(batch.len() as u64, Relaxed);
            return;
        };
        let done = error.delivered.min(batch.len());
        // The wording is APISIX's: people search their logs for it.
        if done > 0 {
            let (left, all) = (batch.len() - done, batch.len());
            tracing::error!("Batch Processor[{name}] failed to process entries [{left}/{all}]: {error}");
        } else {
            tracing::error!("Batch Processor[{name}] failed to process entries: {error}");
        }
        batch.drain(..done);
        counts.delivered.fetch_add(done as u64, Relaxed);
        failures += 1;
        if failures > options.max_retry_count || batch.is_empty() {
            counts.dropped.fetch_add(batch.len() as u64, Relaxed);
            tracing::error!("Batch Processor[{name}] exceeded the max_retry_count[{failures}] dropping the entries");
            return;
        }
        sleep(options.retry_delay).await;
    }
}

#[cfg(test)]
mod tests;
