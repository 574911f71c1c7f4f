//! Batch semantics on tokio's paused clock.
use super::*;
use std::sync::Mutex;

type Log = Arc<Mutex<Vec<(u64, Vec<u32>)>>>;

/// Records (seconds, entries); fails as scripted.
struct Sink {
    log: Log,
    start: Instant,
    failures: Mutex<Vec<usize>>,
    hang: bool,
}

impl BatchSink<u32> for Sink {
    async fn deliver(&self, entries: &[u32]) -> Result<(), BatchError> {
        self.log.lock().unwrap().push((self.start.elapsed().as_secs(), entries.to_vec()));
        if self.hang {
            std::future::pending::<()>().await;
        }
        match self.failures.lock().unwrap().pop() {
            Some(delivered) => Err(BatchError { message: "no".into(), delivered }),
            None => Ok(()),
        }
    }
}

fn queue(options: BatchOptions, failures: &[usize], hang: bool) -> (BatchQueue<u32>, Log) {
    let log = Log::default();
    let sink = Sink { log: log.clone(), start: Instant::now(), failures: Mutex::new(failures.to_vec()), hang };
    (BatchQueue::start(&Handle::current(), options, sink), log)
}

async fn seconds(n: u64) {
    sleep(Duration::from_secs(n)).await;
}

#[tokio::test(start_paused = true)]
async fn full_batches_go_at_once_and_the_rest_when_inactive() {
    let (queue, log) = queue(BatchOptions { batch_max_size: 2, ..BatchOptions::default() }, &[], false);
    (1..=3).for_each(|n| assert!(queue.push(n)));
    seconds(1).await;
    assert_eq!(*log.lock().unwrap(), [(0, vec![1, 2])]);
    assert_eq!(queue.buffered(), 1);
    seconds(10).await;
    assert_eq!(*log.lock().unwrap(), [(0, vec![1, 2]), (5, vec![3])]);
    assert_eq!(queue.stats(), BatchStats { pushed: 3, delivered: 3, dropped: 0, discarded: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_busy_batch_goes_when_its_first_entry_is_old() {
    let options = BatchOptions { buffer_duration: Duration::from_secs(10), ..BatchOptions::default() };
    let (queue, log) = queue(options, &[], false);
    for n in 0..5 {
        queue.push(n);
        seconds(3).await;
    }
    assert_eq!(*log.lock().unwrap(), [(10, vec![0, 1, 2, 3])]);
}

#[tokio::test(start_paused = true)]
async fn only_undelivered_entries_are_tried_again_and_then_dropped() {
    let options = BatchOptions {
        batch_max_size: 3,
        max_retry_count: 2,
        retry_delay: Duration::from_secs(4),
        ..BatchOptions::default()
    };
    let (queue, log) = queue(options, &[0, 1, 1], false);
    (1..=3).for_each(|n| assert!(queue.push(n)));
    seconds(30).await;
    assert_eq!(*log.lock().unwrap(), [(0, vec![1, 2, 3]), (4, vec![2, 3]), (8, vec![3])]);
    assert_eq!(queue.stats(), BatchStats { pushed: 3, delivered: 2, dropped: 1, discarded: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_stuck_sink_discards_and_shutdown_keeps_its_deadline() {
    let options = BatchOptions { batch_max_size: 1, max_pending_entries: 5, ..BatchOptions::default() };
    let (queue, _log) = queue(options, &[], true);
    for n in 0..9 {
        queue.push(n);
        tokio::task::yield_now().await;
    }
    assert_eq!(queue.stats(), BatchStats { pushed: 5, delivered: 0, dropped: 0, discarded: 4 });
    let start = Instant::now();
    assert_eq!(queue.shutdown(Duration::from_secs(3)).await, 5);
    assert_eq!(start.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn shutdown_and_drop_deliver_what_is_queued() {
    let (first, log) = queue(BatchOptions::default(), &[], false);
    first.push(1);
    assert_eq!(first.shutdown(Duration::from_secs(3)).await, 0);
    assert!(!first.push(2), "closed");
    assert_eq!(*log.lock().unwrap(), [(0, vec![1])]);
    let (second, log) = queue(BatchOptions::default(), &[], false);
    second.push(7);
    drop(second);
    seconds(1).await;
    assert_eq!(*log.lock().unwrap(), [(0, vec![7])]);
}
