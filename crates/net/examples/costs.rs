//! Prints what the pieces on the request path cost, in nanoseconds. Build it optimised, or the figures mean nothing.
//! The one surprise: an idle connection's check is measured on a socket that has been read dry, as in a pool.
#![allow(clippy::unwrap_used, reason = "a measurement that may stop at any failure")]
use sluice_net::{Address, BoundListener, ConnectOptions, Drain, ListenConfig, Stream, Timeout, connect, timer};
use std::hint::black_box;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn time(what: &str, mut f: impl FnMut()) {
    const N: u32 = 1_000_000;
    let mut best = f64::MAX;
    for _ in 0..5 {
        let begin = Instant::now();
        for _ in 0..N {
            f();
        }
        best = best.min(begin.elapsed().as_nanos() as f64 / f64::from(N));
    }
    println!("{what:<44} {best:7.2} ns");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            tokio::task::spawn_local(timer::ticker());
            tokio::task::yield_now().await;
            let c = ListenConfig::new("127.0.0.1:0".parse::<Address>().unwrap());
            let l = BoundListener::bind(&c, 1).unwrap().remove(0).listen().unwrap();
            let o = ConnectOptions::default();
            let (mut a, b) = {
                let (a, b) = tokio::join!(connect(l.address(), &o, None), l.accept());
                (a.unwrap(), Stream::from(b.unwrap().0))
            };
            let mut b = b;
            b.write_all(b"x").await.unwrap();
            a.read_exact(&mut [0; 1]).await.unwrap();
            assert!(a.is_quiet());
            let t = Timeout::new();
            let mut cx = Context::from_waker(Waker::noop());
            let d = Drain::new();
            time("Instant::now", || _ = black_box(Instant::now()));
            time("now_coarse", || _ = black_box(timer::now_coarse()));
            time("Timeout::arm", || t.arm(Duration::from_secs(60)));
            time("Timeout::arm, poll, disarm", || {
                t.arm(Duration::from_secs(60));
                let _ = black_box(t.poll(&mut cx));
                t.disarm();
            });
            time("Timeout::new, arm, drop", || Timeout::new().arm(Duration::from_secs(60)));
            time("Stream::is_quiet (idle TCP)", || _ = black_box(a.is_quiet()));
            time("Drain::is_draining", || _ = black_box(d.is_draining()));
        })
        .await;
}
