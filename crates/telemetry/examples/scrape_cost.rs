//! Prints what a scrape of very many series takes, and how long an update by a worker takes meanwhile at most. For people, not
//! a test; build with optimisation to learn anything.
//!
//! `cargo run --release -p sluice-telemetry --example scrape_cost [series]`
use sluice_telemetry::{FamilyOptions, Registry, register_worker};
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let series: usize = std::env::args().nth(1).map_or(Ok(100_000), |n| n.parse())?;
    let registry = Registry::new();
    let options = || FamilyOptions { budget: series, ..FamilyOptions::default() };
    let labels = ["code", "route", "matched_uri", "matched_host", "service", "consumer", "node", "response_source"];
    let status = registry.counter("apisix_http_status", "Requests", &labels, options())?;
    let handles: Vec<_> = (0..series)
        .map(|i| {
            let route = format!("route-{i}");
            status.with(&["200", &route, "/api/v1/*", "api.example.com", "orders", "anna", "10.0.0.1", "upstream"])
        })
        .collect();
    let (stop, longest, updates) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut times = Vec::new();
    let mut bytes = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _worker = register_worker();
            let mut before = Instant::now();
            for handle in handles.iter().cycle() {
                handle.inc();
                let now = Instant::now();
                longest.fetch_max((now - before).as_nanos() as u64, Ordering::Relaxed);
                before = now;
                updates.fetch_add(1, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        for _ in 0..11 {
            let begun = Instant::now();
            let mut out = Vec::with_capacity(bytes + bytes / 8);
            registry.render(begun, &mut out);
            bytes = out.len();
            times.push(begun.elapsed());
            std::thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
    });
    times.sort();
    println!(
        "{series} series, {:.1} MB: median {:.1} ms, longest {:.1} ms; meanwhile {} updates, the longest took {:.1} us",
        bytes as f64 / 1e6,
        times.get(times.len() / 2).map_or(0.0, |t| t.as_secs_f64() * 1e3),
        times.last().map_or(0.0, |t| t.as_secs_f64() * 1e3),
        updates.load(Ordering::Relaxed),
        longest.load(Ordering::Relaxed) as f64 / 1e3,
    );
    Ok(())
}
