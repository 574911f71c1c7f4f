//! Time-outs and the coarse clock, by hand and for real.
use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Count(AtomicUsize);
impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn counting() -> (Arc<Count>, Waker) {
    let c = Arc::new(Count(AtomicUsize::new(0)));
    (c.clone(), c.into())
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn fires_after_its_time_and_not_before() {
    let mut clock = FakeClock::start();
    let (woken, waker) = counting();
    let mut cx = Context::from_waker(&waker);
    let t = Timeout::new();
    assert!(t.poll(&mut cx).is_pending());
    t.arm(100 * MS);
    assert!(t.poll(&mut cx).is_pending());
    clock.advance(100 * MS);
    assert!(t.poll(&mut cx).is_pending());
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    clock.advance(2 * TICK);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert!(t.poll(&mut cx).is_ready() && t.is_elapsed());
    t.arm(50 * MS);
    assert!(t.poll(&mut cx).is_pending());
}

#[test]
fn rearming_moves_the_deadline_both_ways() {
    let mut clock = FakeClock::start();
    let (woken, waker) = counting();
    let mut cx = Context::from_waker(&waker);
    let t = Timeout::new();
    t.arm(60_000 * MS);
    assert!(t.poll(&mut cx).is_pending());
    t.arm(20 * MS);
    clock.advance(30 * MS);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    t.arm(20 * MS);
    assert!(t.poll(&mut cx).is_pending());
    t.arm(60_000 * MS);
    clock.advance(59_000 * MS);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    t.disarm();
    clock.advance(60_000 * MS);
    assert!(t.poll(&mut cx).is_pending());
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
}

#[test]
fn wake_all_wakes_without_expiring() {
    let _clock = FakeClock::start();
    let (woken, waker) = counting();
    let mut cx = Context::from_waker(&waker);
    let (a, b) = (Timeout::new(), Timeout::new());
    a.arm(1000 * MS);
    assert!(a.poll(&mut cx).is_pending() && b.poll(&mut cx).is_pending());
    wake_all();
    assert_eq!(woken.0.load(Ordering::Relaxed), 2);
    assert!(a.poll(&mut cx).is_pending());
    drop((a, b));
    assert_eq!(live_timeouts(), 0);
}

#[test]
fn coarse_time_stands_between_ticks() {
    let mut clock = FakeClock::start();
    let (a, ms) = (now_coarse(), unix_ms_coarse());
    std::hint::black_box((0..100_000).sum::<u64>());
    assert_eq!(now_coarse(), a);
    clock.advance(7 * MS);
    assert_eq!(now_coarse() - a, 7 * MS);
    assert_eq!(unix_ms_coarse() - ms, 7);
}

#[tokio::test]
async fn the_ticker_fires_for_real_and_sleeps_when_idle() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            tokio::task::spawn_local(ticker());
            tokio::task::yield_now().await;
            let t = Timeout::new();
            let begin = Instant::now();
            assert_eq!(t.limit(30 * MS, std::future::pending::<()>()).await, None);
            assert!(begin.elapsed() >= 30 * MS);
            assert_eq!(t.limit(10_000 * MS, async { 5 }).await, Some(5));
            // From an idle clock: the value must be fresh although the ticker sleeps.
            while !CLOCK.with(|c| c.asleep.get()) {
                tokio::time::sleep(TICK).await;
            }
            let before = Instant::now();
            assert!(now_coarse() >= before);
            assert!((wall().as_millis() as u64).abs_diff(unix_ms_coarse()) < 1000);
        })
        .await;
    drop(local);
    assert!(CLOCK.with(|c| c.now.get().is_none()));
}
