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

struct Started {
    queue: Arc<BatchQueue<u32>>,
    queues: Arc<LogQueues>,
    log: Log,
}

impl BatchEntry for u32 {
    fn bytes(&self) -> usize {
        36
    }
}

fn start(options: BatchOptions, failures: &[usize], hang: bool) -> Started {
    let log = Log::default();
    let sink = Sink { log: log.clone(), start: Instant::now(), failures: Mutex::new(failures.to_vec()), hang };
    let queues = Arc::new(LogQueues::new(1000));
    let queue = queues.open(&Handle::current(), "test", "1", options, || sink);
    Started { queue, queues, log }
}

impl Started {
    fn totals(&self) -> LogTotals {
        self.queues.account("test").totals()
    }
}

fn totals(delivered: u64, dropped: u64, discarded: u64, pending: u64) -> LogTotals {
    LogTotals { delivered, dropped, discarded, pending }
}

async fn seconds(n: u64) {
    sleep(Duration::from_secs(n)).await;
}

#[tokio::test(start_paused = true)]
async fn full_batches_go_at_once_and_the_rest_when_inactive() {
    let t = start(BatchOptions { batch_max_size: 2, ..BatchOptions::default() }, &[], false);
    (1..=3).for_each(|n| assert!(t.queue.push(n)));
    seconds(1).await;
    assert_eq!(*t.log.lock().unwrap(), [(0, vec![1, 2])]);
    assert_eq!(t.queue.buffered(), 1);
    assert_eq!(t.queues.pending_bytes(), 100);
    seconds(10).await;
    assert_eq!(*t.log.lock().unwrap(), [(0, vec![1, 2]), (5, vec![3])]);
    assert_eq!((t.totals(), t.queues.pending_bytes()), (totals(3, 0, 0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn a_busy_batch_goes_when_its_first_entry_is_old() {
    let options = BatchOptions { buffer_duration: Duration::from_secs(10), ..BatchOptions::default() };
    let t = start(options, &[], false);
    for n in 0..5 {
        t.queue.push(n);
        seconds(3).await;
    }
    assert_eq!(*t.log.lock().unwrap(), [(10, vec![0, 1, 2, 3])]);
}

#[tokio::test(start_paused = true)]
async fn only_undelivered_entries_are_tried_again_and_then_dropped() {
    let options = BatchOptions {
        batch_max_size: 3,
        max_retry_count: 2,
        retry_delay: Duration::from_secs(4),
        ..BatchOptions::default()
    };
    let t = start(options, &[0, 1, 1], false);
    (1..=3).for_each(|n| assert!(t.queue.push(n)));
    seconds(30).await;
    assert_eq!(*t.log.lock().unwrap(), [(0, vec![1, 2, 3]), (4, vec![2, 3]), (8, vec![3])]);
    assert_eq!(t.totals(), totals(2, 1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stuck_sink_discards_and_shutdown_keeps_its_deadline() {
    let t = start(BatchOptions { batch_max_size: 1, ..BatchOptions::default() }, &[], true);
    t.queues.account("test").set_limit(5);
    for n in 0..9 {
        t.queue.push(n);
        tokio::task::yield_now().await;
    }
    assert_eq!(t.totals(), totals(0, 0, 4, 5));
    let start = Instant::now();
    assert_eq!(t.queues.shutdown(Duration::from_secs(3)).await, 5);
    assert!(start.elapsed() < Duration::from_millis(3010));
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_one_for_all_queues() {
    let t = start(BatchOptions::default(), &[], true);
    let sink = Sink { log: t.log.clone(), start: Instant::now(), failures: Mutex::default(), hang: false };
    let other = t.queues.open(&Handle::current(), "other", "2", BatchOptions::default(), || sink);
    (0..7).for_each(|n| assert!(t.queue.push(n)));
    let taken = (0..7).filter(|n| other.push(*n)).count();
    assert_eq!(taken, 5, "1000 bytes are ten entries: half for each");
    let hanging = t.totals();
    assert_eq!((hanging, t.queues.pending_bytes()), (totals(0, 0, 2, 5), 1000));
    assert_eq!(t.queues.account("other").totals(), totals(0, 0, 2, 5));
    seconds(6).await;
    assert_eq!((t.queues.account("other").totals(), t.queues.pending_bytes()), (totals(5, 0, 2, 0), 500));
    assert!(t.queue.push(7), "what the other does not use is free again");
}

/// A hanging and a sound sink with the same entries: the sound one drops nothing, whichever bound is reached.
#[tokio::test(start_paused = true)]
async fn a_sound_sink_loses_nothing_beside_a_hanging_one() {
    // By the bytes of two plugins, then by the entries of one; and where shares are small, as there are many more queues.
    for (plugin, budget, limit, idle) in
        [("other", 20_000, 10_000, 0), ("test", 1_000_000, 100, 0), ("other", 20_000, 10_000, 10)]
    {
        let queues = Arc::new(LogQueues::new(budget));
        let log = Log::default();
        let sink = |hang| Sink { log: log.clone(), start: Instant::now(), failures: Mutex::default(), hang };
        let options = BatchOptions { batch_max_size: 10, ..BatchOptions::default() };
        let hanging = queues.open(&Handle::current(), "test", "1", options.clone(), || sink(true));
        let sound = queues.open(&Handle::current(), plugin, "2", options, || sink(false));
        ["test", plugin].iter().for_each(|p| queues.account(p).set_limit(limit));
        let name = |n: usize| format!("idle {n}");
        let _idle: Vec<Arc<BatchQueue<u32>>> = (0..idle)
            .map(|n| queues.open(&Handle::current(), "idle", &name(n), BatchOptions::default(), || sink(false)))
            .collect();
        let mut pushed = 0;
        for burst in 0..60 {
            for n in 0..30 {
                hanging.push(n);
                assert!(sound.push(n), "{plugin}: entry {n} of burst {burst}");
                pushed += 1;
            }
            assert!(queues.pending_bytes() <= budget);
            seconds(1).await;
        }
        seconds(10).await;
        let stuck = hanging.state.pending.load(Relaxed);
        assert_eq!(sound.state.pending.load(Relaxed), 0);
        let mut sum = totals(0, 0, 0, 0);
        for name in std::collections::BTreeSet::from(["test", plugin]) {
            let t = queues.account(name).totals();
            sum.delivered += t.delivered;
            sum.discarded += t.discarded;
            sum.pending += t.pending;
        }
        assert_eq!(sum, totals(pushed, 0, pushed - stuck, stuck), "{plugin}: all are accounted for");
        assert!(stuck > 20, "{plugin}: it may have what is free: {stuck}");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_and_drop_deliver_what_is_queued() {
    let t = start(BatchOptions::default(), &[], false);
    t.queue.push(1);
    assert_eq!(t.queues.shutdown(Duration::from_secs(3)).await, 0);
    assert!(!t.queue.push(2), "closed");
    assert_eq!(*t.log.lock().unwrap(), [(0, vec![1])]);
    assert_eq!(t.totals(), totals(1, 0, 1, 0));
    let t = start(BatchOptions::default(), &[], false);
    t.queue.push(7);
    let Started { queue, log, .. } = t;
    drop(queue);
    seconds(1).await;
    assert_eq!(*log.lock().unwrap(), [(0, vec![7])]);
}

#[tokio::test(start_paused = true)]
async fn a_reload_finds_its_queue_again() {
    let t = start(BatchOptions::default(), &[], false);
    t.queue.push(1);
    let sink = || -> Sink { unreachable!("the first one's serves") };
    let again = t.queues.open::<u32, _>(&Handle::current(), "test", "1", BatchOptions::default(), sink);
    again.push(2);
    seconds(6).await;
    assert_eq!(*t.log.lock().unwrap(), [(5, vec![1, 2])]);
}

#[tokio::test(start_paused = true)]
async fn metrics_tell_what_became_of_entries() {
    let t = start(BatchOptions { name: "n".into(), ..BatchOptions::default() }, &[], false);
    let registry = crate::Registry::new();
    t.queues.report(&registry).unwrap();
    t.queues.report_buffered(&registry, "apisix_").unwrap();
    t.queue.label(|| ("r".into(), "127.0.0.1".into()));
    t.queue.push(1);
    let text = || {
        let mut out = Vec::new();
        registry.render(std::time::Instant::now(), &mut out);
        String::from_utf8(out).unwrap()
    };
    let line = "apisix_batch_process_entries{name=\"n\",route_id=\"r\",server_addr=\"127.0.0.1\"}";
    assert!(text().contains(&format!("{line} 1\n")), "{}", text());
    assert!(text().contains("sluice_log_pending_bytes 100\n"), "{}", text());
    seconds(6).await;
    assert!(text().contains(&format!("{line} 0\n")), "{}", text());
    assert!(text().contains("sluice_log_entries_total{plugin=\"test\",result=\"delivered\"} 1\n"), "{}", text());
}
