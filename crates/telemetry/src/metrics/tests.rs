//! Counts under threads, the exposition as text, expiry and overflow.
use super::*;
use std::time::{Duration, Instant};

fn text(registry: &Registry, now: Instant) -> String {
    let mut out = Vec::new();
    registry.render(now, &mut out);
    String::from_utf8(out).unwrap()
}

fn plain() -> FamilyOptions {
    FamilyOptions::default()
}

#[test]
fn shards_of_many_threads_sum_up() {
    let registry = Registry::new();
    let counter = registry.counter("requests", "all", &["kind"], plain()).unwrap();
    let latency = registry.histogram("latency", "ms", &[], &[1.0, 10.0], plain()).unwrap();
    let handle = counter.with(&["a"]);
    let times = latency.with(&[]);
    for _round in 0..2 {
        std::thread::scope(|scope| {
            for worker in 0..6 {
                let (handle, times, counter) = (handle.clone(), times.clone(), counter.clone());
                scope.spawn(move || {
                    // Odd threads have no shard and use the shared one.
                    let _shard = (worker % 2 == 0).then(register_worker);
                    for i in 0..5000 {
                        handle.inc();
                        counter.add(&["b"], 2);
                        times.observe(f64::from(i % 20));
                    }
                });
            }
        });
    }
    assert_eq!(handle.value(), 60_000);
    assert_eq!(counter.with(&["b"]).value(), 120_000);
    assert_eq!(times.count_and_sum(), (60_000, 570_000.0));
    let shown = text(&registry, Instant::now());
    assert!(shown.contains("latency_bucket{le=\"1\"} 6000\nlatency_bucket{le=\"10\"} 33000\n"), "{shown}");
}

#[test]
fn exposition_is_exactly_this() {
    let registry = Registry::new();
    let now = Instant::now();
    let status = registry.counter("apisix_http_status", "HTTP status\ncodes \\ here", &["code", "route"], plain());
    let status = status.unwrap();
    status.add(&["404", "r\"1\"\\\n"], 3);
    status.with(&["200", "é"]).add(7);
    registry.gauge("a_ratio", "ratio", &[], plain()).unwrap().with(&[]).set(0.25);
    registry.gauge("unused", "never shown", &["x"], plain()).unwrap();
    let bounds = [500.0, 0.5, 1.0, 1.0];
    let latency = registry.histogram("lat", "latency", &["type"], &bounds, plain()).unwrap();
    latency.observe(&["request"], 0.5);
    latency.observe(&["request"], 2.25);
    latency.observe(&["request"], 900.0);
    latency.observe(&["request"], f64::NAN);
    registry
        .callback("z", "asked", &["k"], Kind::Counter, |samples| {
            samples.push(&["b"], f64::INFINITY);
            samples.push(&["a"], 1e20);
        })
        .unwrap();
    let expected = "\
# HELP a_ratio ratio
# TYPE a_ratio gauge
a_ratio 0.25
# HELP apisix_http_status HTTP status\\ncodes \\\\ here
# TYPE apisix_http_status counter
apisix_http_status{code=\"200\",route=\"é\"} 7
apisix_http_status{code=\"404\",route=\"r\\\"1\\\"\\\\\\n\"} 3
# HELP lat latency
# TYPE lat histogram
lat_bucket{type=\"request\",le=\"0.5\"} 1
lat_bucket{type=\"request\",le=\"1\"} 1
lat_bucket{type=\"request\",le=\"500\"} 2
lat_bucket{type=\"request\",le=\"+Inf\"} 3
lat_count{type=\"request\"} 3
lat_sum{type=\"request\"} 902.75
# HELP z asked
# TYPE z counter
z{k=\"a\"} 100000000000000000000
z{k=\"b\"} +Inf
";
    assert_eq!(text(&registry, now), expected);
    assert_eq!(text(&registry, now), expected, "a second scrape shows the same");
}

#[test]
fn gauges_go_up_and_down() {
    let registry = Registry::new();
    let gauge = registry.gauge("connections", "now", &["state"], plain()).unwrap();
    let handle = gauge.with(&["active"]);
    handle.add(5);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _shard = register_worker();
            handle.dec();
            handle.dec();
        });
    });
    assert_eq!(handle.value(), 3.0);
    handle.set(1.5);
    handle.inc();
    assert_eq!(handle.value(), 2.5);
}

#[test]
fn a_series_expires_and_starts_again_from_zero() {
    let registry = Registry::new();
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let options = FamilyOptions { expire: Some(Duration::from_secs(10)), budget: 10 };
    let counter = registry.counter("c", "h", &["k"], options.clone()).unwrap();
    let gauge = registry.gauge("g", "h", &[], options.clone()).unwrap();
    let histogram = registry.histogram("x", "h", &[], &[1.0], options).unwrap();
    let (kept, level, times) = (counter.with(&["kept"]), gauge.with(&[]), histogram.with(&[]));
    kept.add(5);
    counter.add(&["gone"], 1);
    level.set(4.0);
    times.observe(3.0);
    assert!(text(&registry, after(0)).contains("c{k=\"gone\"} 1\nc{k=\"kept\"} 5\n"));
    kept.inc();
    level.set(4.0);
    times.observe(0.5);
    let shown = text(&registry, after(9));
    assert!(shown.contains("c{k=\"gone\"} 1\n") && shown.contains("g 4\n"), "{shown}");
    let shown = text(&registry, after(12));
    assert!(
        shown.contains(
            "c{k=\"kept\"} 6
"
        ) && shown.contains(
            "g 4
"
        ),
        "{shown}"
    );
    assert!(!shown.contains("gone"), "{shown}");
    assert_eq!(text(&registry, after(40)), "");
    kept.add(2);
    counter.add(&["gone"], 1);
    level.set(4.0);
    times.observe(3.0);
    let shown = text(&registry, after(50));
    assert!(shown.contains("c{k=\"gone\"} 1\nc{k=\"kept\"} 2\n") && shown.contains("g 4\n"), "{shown}");
    assert!(shown.contains("x_bucket{le=\"1\"} 0\nx_bucket{le=\"+Inf\"} 1\nx_count 1\nx_sum 3\n"), "{shown}");
}

#[test]
fn a_series_expires_without_being_scraped() {
    let registry = Registry::new();
    let start = Instant::now();
    let options = FamilyOptions { expire: Some(Duration::from_secs(1)), budget: 10 };
    registry.counter("c", "h", &[], options).unwrap().add(&[], 1);
    registry.counter("kept", "h", &[], FamilyOptions::default()).unwrap().add(&[], 1);
    registry.expire(start);
    let shown = text(&registry, start + Duration::from_secs(2));
    assert!(!shown.contains("c 1\n") && shown.contains("kept 1\n"), "{shown}");
}

#[test]
fn freed_cells_start_at_zero_for_the_next_owner() {
    let now = Instant::now();
    let options = FamilyOptions { expire: Some(Duration::from_secs(1)), budget: 1000 };
    let registry = Registry::new();
    let counter = registry.counter("c", "h", &["k"], options).unwrap();
    for round in 0..5_u64 {
        let name = format!("k{round}");
        counter.add(&[&name], 7);
        assert_eq!(text(&registry, now + Duration::from_secs(round * 10)).matches(" 7\n").count(), 1);
        // A look-up of another label set drops this thread's cached handles of expired series.
        assert_eq!(text(&registry, now + Duration::from_secs(round * 10 + 5)), "");
    }
}

#[test]
fn over_budget_series_fold_into_one() {
    let registry = Registry::new();
    let counter = registry.counter("c", "h", &["k", "l"], FamilyOptions { expire: None, budget: 2 }).unwrap();
    registry.report_folded("folded_total").unwrap();
    for i in 0..10 {
        for _ in 0..3 {
            counter.add(&[&format!("k{i}"), "x"], 1);
        }
    }
    let shown = text(&registry, Instant::now());
    let expected = "c{k=\"k0\",l=\"x\"} 3\nc{k=\"k1\",l=\"x\"} 3\nc{k=\"other\",l=\"other\"} 24\n";
    assert!(shown.contains(expected), "{shown}");
    assert!(shown.contains("folded_total{family=\"c\"} 24\n"), "{shown}");
    counter.remove(&["k0", "x"]);
    counter.add(&["new", "x"], 1);
    let shown = text(&registry, Instant::now());
    assert!(shown.contains("c{k=\"new\",l=\"x\"} 1\n") && !shown.contains("k0"), "{shown}");
}

#[test]
fn definitions_must_agree_and_names_be_valid() {
    let registry = Registry::new();
    let first = registry.counter("c", "h", &["k"], plain()).unwrap();
    first.add(&["1"], 4);
    let again = registry.counter("c", "h", &["k"], plain()).unwrap();
    assert_eq!(again.with(&["1"]).value(), 4);
    assert!(matches!(registry.counter("c", "h", &["z"], plain()), Err(MetricError::Conflict(_))));
    assert!(matches!(registry.gauge("c", "h", &["k"], plain()), Err(MetricError::Conflict(_))));
    assert!(matches!(registry.gauge("1c", "h", &[], plain()), Err(MetricError::Name(_))));
    assert!(matches!(registry.gauge("d", "h", &["le"], plain()), Err(MetricError::Name(_))));
    assert!(matches!(registry.histogram("d", "h", &[], &[], plain()), Err(MetricError::Buckets(_))));
    assert!(matches!(registry.histogram("d", "h", &[], &[f64::NAN], plain()), Err(MetricError::Buckets(_))));
}

#[test]
fn wrong_numbers_of_labels_do_not_panic() {
    let registry = Registry::new();
    let counter = registry.counter("c", "h", &["a", "b"], plain()).unwrap();
    counter.add(&["1"], 1);
    counter.add(&["1", "2", "3"], 1);
    let shown = text(&registry, Instant::now());
    assert!(shown.ends_with("c{a=\"1\",b=\"\"} 1\nc{a=\"1\",b=\"2\"} 1\n"), "{shown}");
}

#[test]
fn asked_samples_over_the_budget_fold_into_one() {
    let registry = Registry::new();
    registry.report_folded("folded_total").unwrap();
    registry.report_series("series").unwrap();
    registry.counter("counted", "h", &["k"], plain()).unwrap().add(&["a"], 1);
    registry.counter("silent", "h", &["k"], plain()).unwrap();
    let all = |samples: &mut Samples<'_>| (0..100_003).for_each(|i| samples.push(&[&i.to_string()], 2.0));
    registry.callback("asked", "h", &["k"], Kind::Gauge, all).unwrap();
    let shown = text(&registry, Instant::now());
    assert_eq!(shown.lines().filter(|line| line.starts_with("asked{")).count(), 100_001);
    assert!(shown.contains("asked{k=\"other\"} 6\n"), "the rest is summed up");
    assert!(shown.contains("folded_total{family=\"asked\"} 3\n"));
    assert!(shown.contains("series{family=\"counted\"} 1\n") && !shown.contains("silent"));
}

/// What requests do goes on while a scrape stands still in the middle: neither known series nor new ones wait for it.
#[test]
fn a_scrape_holds_up_nobody() {
    let registry = Registry::new();
    let counter = registry.counter("c", "h", &["k"], plain()).unwrap();
    let known = counter.with(&["known"]);
    known.inc();
    let (reached, at_the_callback) = std::sync::mpsc::channel();
    let (go_on, told) = std::sync::mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let stop = move |samples: &mut Samples<'_>| {
        reached.send(()).unwrap();
        told.lock().unwrap().recv().unwrap();
        samples.push(&[], 1.0);
    };
    registry.callback("d_stops", "h", &[], Kind::Gauge, stop).unwrap();
    std::thread::scope(|scope| {
        let scrape = scope.spawn(|| text(&registry, Instant::now()));
        at_the_callback.recv().unwrap();
        known.inc();
        counter.add(&["new"], 1);
        let later = registry.counter("e_later", "h", &["k"], plain()).unwrap();
        later.add(&["x"], 1);
        go_on.send(()).unwrap();
        let shown = scrape.join().unwrap();
        assert!(shown.contains("c{k=\"known\"} 1\n"), "{shown}");
    });
    assert_eq!(known.value(), 2);
}

/// Within a family, too: while its series are shown one by one, the map that requests look into is free.
#[test]
fn a_family_that_is_being_shown_takes_new_series() {
    let family = super::family::Family::new("c", "h", &["k"], super::series::Shape::Counter, plain());
    for i in 0..10 {
        family.resolve(&[&i.to_string()], 0);
    }
    let reader = super::cell::Reader::new();
    let mut seen = 0;
    family.scrape(&reader, Instant::now(), |_, _| {
        seen += 1;
        let (series, folded) = family.resolve(&[&format!("new {seen}")], 0);
        assert!(!folded && !series.is_sink());
    });
    assert_eq!((seen, family.shown()), (10, 20));
}
