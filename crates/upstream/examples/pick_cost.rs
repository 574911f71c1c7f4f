//! Prints what a pick with its `done` costs, in nanoseconds on one thread; `chash` includes the CRC of an 8-byte key.
//! The best of many short batches, so that a busy machine does not spoil it:
//! `cargo run --release -p sluice-upstream --example pick_cost`.
use std::hint::black_box;
use std::time::{Duration, Instant};

use sluice_upstream::{Algorithm, Balancer, BalancerError, BalancerSettings, Endpoint, Outcome, PickInput, Tried};

const BATCHES: u32 = 2_000;
const PICKS: u32 = 1_000;

fn main() -> Result<(), BalancerError> {
    for (algorithm, count, weight) in [
        (Algorithm::RoundRobin, 1u16, 1),
        (Algorithm::RoundRobin, 4, 1),
        (Algorithm::RoundRobin, 40, 1000),
        (Algorithm::Chash, 4, 1),
        (Algorithm::Chash, 100, 1),
        (Algorithm::LeastConn, 4, 1),
        (Algorithm::Ewma, 4, 1),
        (Algorithm::Random, 4, 1),
        (Algorithm::P2c, 5, 1),
        (Algorithm::P2c, 40, 1000),
        (Algorithm::Adaptive, 5, 1),
        (Algorithm::Adaptive, 8, 1),
        (Algorithm::Adaptive, 40, 1000),
        (Algorithm::Random, 40, 1000),
    ] {
        let nodes = (0..count).map(|port| Endpoint::new("10.0.0.1", 1 + port, weight + u32::from(port) * (weight - 1)));
        let balancer = Balancer::build(&BalancerSettings { algorithm, ..Default::default() }, nodes.collect())?;
        let tried = Tried::new();
        let mut best = Duration::MAX;
        for batch in 0..BATCHES {
            let started = Instant::now();
            for pick in 0..PICKS {
                let random = u64::from(batch * PICKS + pick).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let key = random.to_le_bytes();
                let input = PickInput { hash_key: Some(&key), random, now_ms: 1, ..Default::default() };
                if let Some(picked) = black_box(balancer.pick(black_box(&input), &tried)) {
                    let latency = Duration::from_millis(u64::from(picked.index));
                    balancer.hold(&picked).answered(200, None, &Outcome { latency, ok: true, now_ms: 1 });
                }
            }
            best = best.min(started.elapsed());
        }
        let nanoseconds = best.as_secs_f64() * 1e9 / f64::from(PICKS);
        println!("{algorithm:?} of {count}, weight {weight}: {nanoseconds:.1} ns");
    }
    Ok(())
}
