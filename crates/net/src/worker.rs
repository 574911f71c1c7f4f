//! Worker threads: each one core's worth of gateway, a tokio `current_thread` runtime with a `LocalSet`, nothing
//! shared. The one surprise: with wake-up batching a worker that is about to sleep first naps, so that one wake-up
//! serves several events (at 10–30 k requests/s wake-ups are most of the cost).
use crate::drain::Drain;
use crate::timer;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Number of a worker, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub usize);

/// How worker threads run.
#[derive(Clone, Debug, Default)]
pub struct WorkerSettings {
    /// Bind worker n to the n-th CPU this process may use (wrapping around).
    pub pin: bool,
    /// Nap this long before sleeping, if the turn just done was short. None: never. About 50 µs pays off at moderate
    /// load, at +0.2–0.4 ms median latency (the kernel's timer slack of 50 µs comes on top).
    pub wakeup_batching: Option<Duration>,
    /// Tasks polled between looks at the sockets; tokio's default (61) when None.
    pub event_interval: Option<u32>,
}

/// Running worker threads.
#[derive(Debug)]
pub struct Workers(Vec<JoinHandle<io::Result<()>>>);

thread_local! {
    static TURN: Cell<Option<Instant>> = const { Cell::new(None) };
    static ID: Cell<Option<WorkerId>> = const { Cell::new(None) };
}

impl WorkerId {
    /// The worker this thread is; None on other threads.
    #[inline]
    pub fn current() -> Option<Self> {
        ID.get()
    }
}

impl Workers {
    /// Starts `n` threads `sluice-w0` …. `make` is called here, once per worker, for what moves into that thread; the
    /// future built there runs until it ends, and the worker with it (connection tasks still running are dropped).
    pub fn spawn<M, S, F>(n: usize, settings: &WorkerSettings, mut make: M) -> io::Result<Self>
    where
        M: FnMut(WorkerId) -> S,
        S: FnOnce() -> F + Send + 'static,
        F: Future<Output = ()>,
    {
        let cpus = if settings.pin { allowed_cpus()? } else { Vec::new() };
        let mut threads = Vec::with_capacity(n);
        for id in 0..n {
            let start = make(WorkerId(id));
            let settings = settings.clone();
            let cpu = cpus.get(id % cpus.len().max(1)).copied();
            let thread = std::thread::Builder::new().name(format!("sluice-w{id}")).spawn(move || {
                ID.set(Some(WorkerId(id)));
                run(cpu, &settings, start)
            })?;
            threads.push(thread);
        }
        Ok(Self(threads))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Blocks until every worker has ended; the first failure (a runtime that could not start, a panic outside of a
    /// connection) is returned after all have.
    pub fn join(self) -> io::Result<()> {
        let mut result = Ok(());
        for t in self.0 {
            let name = t.thread().name().unwrap_or("worker").to_owned();
            let r = t.join().unwrap_or_else(|_| Err(io::Error::other(format!("{name} panicked"))));
            if result.is_ok() {
                result = r;
            }
        }
        result
    }
}

fn run<F: Future<Output = ()>>(
    cpu: Option<usize>,
    settings: &WorkerSettings,
    start: impl FnOnce() -> F,
) -> io::Result<()> {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        if let Err(e) = sched_setaffinity(None, &set) {
            tracing::warn!(cpu, error = %e, "could not pin a worker; it runs unpinned");
        }
    }
    let mut b = tokio::runtime::Builder::new_current_thread();
    b.enable_all();
    if let Some(n) = settings.event_interval {
        b.event_interval(n.max(1));
    }
    if let Some(nap) = settings.wakeup_batching {
        b.on_thread_park(move || {
            // A long turn means events have gathered already.
            if TURN.get().is_none_or(|t| t.elapsed() < nap * 4) {
                std::thread::sleep(nap);
            }
        });
    }
    b.on_thread_unpark(|| TURN.set(Some(timer::refresh())));
    let rt = b.build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&rt, async {
        tokio::task::spawn_local(timer::ticker());
        start().await;
    });
    Ok(())
}

fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&c| set.is_set(c)).collect())
}

/// Runs one connection as a task of this worker, counted by `drain`. A panic in it ends that connection alone: it is
/// logged and counted, and the worker goes on. Must be called on a worker (inside a `LocalSet`).
pub fn spawn_connection(drain: &Drain, connection: impl Future<Output = ()> + 'static) {
    let guard = drain.guard();
    let drain = drain.clone();
    // Boxed once per connection: moved into the task's own state it would take its place twice.
    let mut connection = Box::pin(connection);
    tokio::task::spawn_local(async move {
        let _guard = guard;
        poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| connection.as_mut().poll(cx))) {
            Ok(p) => p,
            Err(cause) => {
                drain.count_panic();
                tracing::error!(cause = panic_text(cause.as_ref()), "a connection panicked; it is closed");
                Poll::Ready(())
            }
        })
        .await;
    });
}

fn panic_text(cause: &(dyn std::any::Any + Send)) -> &str {
    match (cause.downcast_ref::<&str>(), cause.downcast_ref::<String>()) {
        (Some(s), _) => s,
        (_, Some(s)) => s,
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn each_worker_has_its_name_cpu_and_local_tasks() {
        let (tx, rx) = mpsc::channel();
        let settings =
            WorkerSettings { pin: true, wakeup_batching: Some(Duration::from_micros(50)), event_interval: Some(31) };
        let w = Workers::spawn(2, &settings, |id| {
            let tx = tx.clone();
            move || async move {
                assert_eq!(WorkerId::current(), Some(id));
                let local = std::rc::Rc::new(id);
                let got = tokio::task::spawn_local(async move { *local }).await.unwrap();
                let cpus = sched_getaffinity(None).unwrap().count();
                tx.send((got, std::thread::current().name().map(str::to_owned), cpus)).unwrap();
            }
        })
        .unwrap();
        assert_eq!(w.len(), 2);
        w.join().unwrap();
        let mut got: Vec<_> = rx.try_iter().collect();
        got.sort();
        assert_eq!(got, [(WorkerId(0), Some("sluice-w0".into()), 1), (WorkerId(1), Some("sluice-w1".into()), 1)]);
    }

    #[test]
    fn a_panicking_connection_leaves_the_worker_alive() {
        let drain = Drain::new();
        let seen = drain.clone();
        Workers::spawn(1, &WorkerSettings::default(), move |_| {
            let drain = drain.clone();
            move || async move {
                spawn_connection(&drain, async { panic!("boom") });
                spawn_connection(&drain, async { tokio::task::yield_now().await });
                assert!(drain.wait_idle(Duration::from_secs(10)).await);
            }
        })
        .unwrap()
        .join()
        .unwrap();
        assert_eq!((seen.panics(), seen.open()), (1, 0));
    }

    #[test]
    fn a_panic_of_the_worker_itself_is_reported() {
        let w = Workers::spawn(1, &WorkerSettings::default(), |_| || async { panic!("no") }).unwrap();
        assert!(w.join().unwrap_err().to_string().contains("sluice-w0 panicked"));
    }
}
