//! Prints what one update costs, in nanoseconds. For people, not a test; build with optimisation to learn anything.
use sluice_telemetry::{FamilyOptions, MetricError, Registry, register_worker};
use std::hint::black_box;
use std::time::Instant;

fn measure(what: &str, mut update: impl FnMut(u64)) {
    const ROUNDS: u64 = 20_000_000;
    let start = Instant::now();
    for i in 0..ROUNDS {
        update(black_box(i));
    }
    println!("{what:44} {:7.2} ns", start.elapsed().as_secs_f64() * 1e9 / ROUNDS as f64);
}

fn main() -> Result<(), MetricError> {
    let registry = Registry::new();
    let counter = registry.counter("c", "counter", &["code", "route"], FamilyOptions::default())?;
    let bounds = [1.0, 2.0, 5.0, 7.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 100.0, 500.0, 1000.0];
    let histogram = registry.histogram("h", "histogram", &[], &bounds, FamilyOptions::default())?;
    let (one, times) = (counter.with(&["200", "1"]), histogram.with(&[]));
    measure("counter handle, thread without a shard", |_| one.inc());
    let _shard = register_worker();
    measure("counter handle, worker", |_| one.inc());
    measure("histogram handle, worker", |i| times.observe((i & 63) as f64));
    measure("counter by labels, worker", |_| counter.add(&["200", "1"], 1));
    println!("{} {:?}", one.value(), times.count_and_sum());

    for i in 0..100_000 {
        counter.add(&["200", &i.to_string()], 1);
    }
    let mut out = Vec::new();
    for _ in 0..2 {
        out.clear();
        let start = Instant::now();
        registry.render(start, &mut out);
        println!("rendered {} KiB in {:?}", out.len() / 1024, start.elapsed());
    }
    Ok(())
}
