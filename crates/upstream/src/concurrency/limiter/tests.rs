//! The limiter under calls in any order and from several threads.
use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Wake, Waker};

fn fixed(limit: u32, size: usize) -> Settings {
    let queue = QueueSettings { size, timeout: Duration::from_millis(100) };
    Settings { kind: Kind::Fixed(limit), queue, rejected_code: 503, retry_after: 1 }
}

fn new(settings: Settings) -> ConcurrencyLimit {
    ConcurrencyLimit::new(settings, Arc::default())
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(ticket: &mut Ticket) -> Poll<Slot> {
    ticket.poll(&mut Context::from_waker(Waker::noop()))
}

fn passed(limit: &ConcurrencyLimit) -> Slot {
    match limit.enter() {
        Admission::Passed(slot) => slot,
        other => panic!("{other:?}"),
    }
}

fn waits(limit: &ConcurrencyLimit) -> Ticket {
    match limit.enter() {
        Admission::Waits(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn over_the_limit_requests_wait_and_over_the_queue_they_are_refused() {
    let limit = new(fixed(1, 1));
    let slot = passed(&limit);
    let mut ticket = waits(&limit);
    assert!(matches!(limit.enter(), Admission::Refused));
    assert!(poll(&mut ticket).is_pending());
    drop(slot);
    let Poll::Ready(slot) = poll(&mut ticket) else { panic!("the place was free") };
    assert_eq!((limit.limiter.in_flight(), limit.limiter.waiting()), (1, 0));
    drop(slot);
    assert_eq!(limit.limiter.in_flight(), 0);
    assert_eq!(limit.limiter.totals(), [1, 1, 0]);
}

#[test]
fn who_waits_is_woken_in_turn_and_before_newcomers() {
    let limit = new(fixed(1, 8));
    let slot = passed(&limit);
    let (mut first, mut second) = (waits(&limit), waits(&limit));
    let woken: Arc<Woken> = Arc::default();
    let waker = Waker::from(woken.clone());
    assert!(first.poll(&mut Context::from_waker(&waker)).is_pending());
    drop(slot);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    let newcomer = waits(&limit);
    assert!(poll(&mut second).is_pending());
    let Poll::Ready(slot) = poll(&mut first) else { panic!("it is its turn") };
    drop(slot);
    assert!(poll(&mut second).is_ready());
    drop(newcomer);
}

#[test]
fn who_leaves_passes_its_place_on() {
    let limit = new(fixed(1, 8));
    let slot = passed(&limit);
    let (first, mut second, third) = (waits(&limit), waits(&limit), waits(&limit));
    drop(slot);
    drop(first);
    drop(third);
    let Poll::Ready(slot) = poll(&mut second) else { panic!("the first one's place is its") };
    drop(slot);
    assert_eq!((limit.limiter.in_flight(), limit.limiter.waiting()), (0, 0));
}

#[test]
fn a_higher_limit_lets_those_in_who_wait_and_the_count_lives_on() {
    let limit = new(fixed(1, 8));
    let first = passed(&limit);
    let mut ticket = waits(&limit);
    let wider = ConcurrencyLimit::new(fixed(2, 8), limit.limiter.clone());
    let Poll::Ready(second) = poll(&mut ticket) else { panic!("there is room") };
    assert_eq!(wider.limiter.in_flight(), 2);
    let narrower = ConcurrencyLimit::new(fixed(1, 0), limit.limiter.clone());
    drop(first);
    assert!(matches!(narrower.enter(), Admission::Refused));
    drop(second);
    drop(passed(&narrower));
}

#[test]
fn a_gradient_shrinks_under_slow_answers() {
    let gradient = Gradient { min_limit: 2, ..Gradient::default() };
    let settings = Settings { kind: Kind::Gradient(20, gradient), ..fixed(1, 0) };
    let limit = new(settings);
    let feed = |latency, from_ms: u64| {
        for ms in (from_ms..from_ms + 5_000).step_by(10) {
            let slots: Vec<Slot> = (0..limit.limiter.limit()).map(|_| passed(&limit)).collect();
            limit.sample(latency, ms);
            drop(slots);
        }
    };
    feed(Duration::from_millis(5), 1);
    let usual = limit.limiter.limit();
    assert!(usual > 20, "{usual}");
    assert!((0.004..0.006).contains(&limit.limiter.usual_latency()));
    feed(Duration::from_millis(200), 10_000);
    let slow = limit.limiter.limit();
    assert!(slow < usual / 2 && slow >= 2, "{usual} {slow}");
    let reloaded = ConcurrencyLimit::new(settings, limit.limiter.clone());
    assert_eq!(reloaded.limiter.limit(), slow, "what was learned stays");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Enter,
    Leave(usize),
    GiveUp(usize),
    Limit(u32),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_limit_and_the_order_hold(
        steps in prop::collection::vec(prop_oneof![
            4 => Just(Step::Enter),
            3 => (0usize..10).prop_map(Step::Leave),
            1 => (0usize..10).prop_map(Step::GiveUp),
            1 => (1u32..6).prop_map(Step::Limit),
        ], 1..200),
        size in 0usize..5,
    ) {
        let mut limit = new(fixed(3, size));
        let mut most = 3;
        let (mut slots, mut waiting): (Vec<Slot>, VecDeque<Ticket>) = Default::default();
        for step in steps {
            match step {
                Step::Enter => match limit.enter() {
                    Admission::Passed(slot) => {
                        prop_assert!(waiting.is_empty() && slots.len() < most as usize);
                        slots.push(slot);
                    }
                    Admission::Waits(ticket) => {
                        prop_assert!(slots.len() >= most as usize || !waiting.is_empty());
                        waiting.push_back(ticket);
                        prop_assert!(waiting.len() <= size);
                    }
                    Admission::Refused => prop_assert_eq!(waiting.len(), size),
                },
                Step::Leave(at) if at < slots.len() => drop(slots.swap_remove(at)),
                Step::GiveUp(at) if at < waiting.len() => drop(waiting.remove(at)),
                Step::Limit(wanted) => {
                    most = wanted;
                    limit = ConcurrencyLimit::new(fixed(wanted, size), limit.limiter.clone());
                }
                _ => {}
            }
            // first come, first served: whoever is ready stands at the front
            while let Some(front) = waiting.front_mut() {
                let Poll::Ready(slot) = poll(front) else { break };
                slots.push(slot);
                waiting.pop_front();
                prop_assert!(slots.len() <= most as usize);
            }
            prop_assert!(waiting.iter_mut().all(|ticket| poll(ticket).is_pending()));
            prop_assert!(waiting.is_empty() || slots.len() >= most as usize, "room, and somebody waits");
            prop_assert_eq!(limit.limiter.in_flight() as usize, slots.len());
            prop_assert_eq!(limit.limiter.waiting() as usize, waiting.len());
        }
    }
}

#[test]
fn threads_never_exceed_the_limit_and_nobody_is_forgotten() {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let limit = new(fixed(2, 64));
    let (flying, most, served) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
                for turn in 0..500 {
                    let slot = match limit.enter() {
                        Admission::Passed(slot) => slot,
                        Admission::Refused => panic!("the queue is long enough"),
                        Admission::Waits(ticket) if turn % 7 == 0 => {
                            drop(ticket);
                            continue;
                        }
                        Admission::Waits(mut ticket) => loop {
                            match ticket.poll(&mut Context::from_waker(&waker)) {
                                Poll::Ready(slot) => break slot,
                                Poll::Pending => std::thread::park(),
                            }
                        },
                    };
                    most.fetch_max(flying.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    flying.fetch_sub(1, Ordering::SeqCst);
                    served.fetch_add(1, Ordering::SeqCst);
                    drop(slot);
                }
            });
        }
    });
    assert!(most.load(Ordering::SeqCst) <= 2 && served.load(Ordering::SeqCst) > 500);
    assert_eq!((limit.limiter.in_flight(), limit.limiter.waiting()), (0, 0));
}
