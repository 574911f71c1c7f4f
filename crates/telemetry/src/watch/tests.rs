//! What watchers see, and what they lose.
use super::*;
use proptest::prelude::*;

fn passing(status: u16, target: &'static str) -> Passing<'static> {
    Passing {
        method: "GET",
        host: "api.example.com",
        target,
        status,
        duration: Duration::from_millis(10),
        route: Some("r1"),
        route_name: Some("orders"),
        source: "apisix",
        ..Passing::default()
    }
}

fn wants(filter: &[(&str, &str)], passing: &Passing<'_>) -> bool {
    Filter::new(filter.iter().copied()).unwrap().wants(passing)
}

#[test]
fn filters_hold_together() {
    let one = passing(404, "/orders/1");
    for status in ["404", "4xx", "400-499", ">=400", ""] {
        assert!(wants(&[("status", status)], &one), "{status}");
    }
    for status in ["403", "5xx", "500-599", ">=405"] {
        assert!(!wants(&[("status", status)], &one), "{status}");
    }
    for (name, yes, no) in [
        ("route", "r1", "r"),
        ("route", "orders", "r2"),
        ("host", "API.example.com", "example.com"),
        ("host", "*.example.com", "*.api.example.com"),
        ("method", "get", "POST"),
        ("path", "/orders", "/1"),
    ] {
        assert!(wants(&[(name, yes), ("status", "4xx")], &one), "{name} {yes}");
        assert!(!wants(&[(name, no), ("status", "4xx")], &one), "{name} {no}");
    }
    assert_eq!(Filter::new([("status", "often")]).unwrap_err(), FilterError::Status("often".into()));
    assert!(Filter::new([("colour", "red")]).is_err());
}

#[test]
fn a_slow_tail_loses_lines_and_knows_how_many() {
    let (tail, mut lines) = Tail::new(Filter::default(), 2);
    for _ in 0..5 {
        tail.passed(0, &passing(200, "/a"));
    }
    assert_eq!((tail.take_dropped(), tail.take_dropped()), (3, 0));
    let line: serde_json::Value = serde_json::from_slice(&lines.try_recv().unwrap()).unwrap();
    assert_eq!((&line["target"], &line["duration"]), (&serde_json::json!("/a"), &serde_json::json!(10.0)));
    assert!(lines.try_recv().is_ok() && lines.try_recv().is_err());
}

#[test]
fn traffic_is_summed_over_workers_and_begins_anew() {
    let traffic = Traffic::new(2);
    let node = "127.0.0.1:80".parse().unwrap();
    let tried = [
        Tried { node, status: 502, duration: Duration::from_millis(1) },
        Tried { node, status: 200, duration: Duration::from_millis(9) },
    ];
    for worker in 0..2 {
        traffic.passed(worker, &Passing { upstream: Some("upstreams/1"), attempts: &tried, ..passing(200, "/") });
        traffic.passed(worker, &Passing { route: None, ..passing(404, "/") });
    }
    let sums = traffic.take();
    assert_eq!((sums.total.requests, sums.total.client_errors, sums.total.server_errors), (4, 2, 0));
    let names: Vec<_> = sums.routes.iter().map(|row| (row.name.as_str(), row.requests)).collect();
    assert_eq!(names, [("(no route)", 2), ("r1", 2)]);
    assert_eq!((sums.upstreams[0].name.as_str(), sums.upstreams[0].requests), ("upstreams/1", 2));
    assert_eq!((sums.nodes[0].requests, sums.nodes[0].server_errors), (4, 2));
    assert!((9.0..11.5).contains(&sums.total.p50_ms), "{}", sums.total.p50_ms);
    assert_eq!(traffic.take().total.requests, 0);
}

#[test]
fn many_routes_become_one_row() {
    let traffic = Traffic::new(1);
    for route in 0..5000 {
        traffic.passed(0, &Passing { route: Some(&format!("r{route}")), ..passing(200, "/") });
    }
    let sums = traffic.take();
    assert_eq!(sums.routes.len(), 2049);
    assert_eq!((sums.routes[0].name.as_str(), sums.routes[0].requests), ("(others)", 5000 - 2048));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn quantiles_are_near(micros in 1u64..10_000_000_000) {
        let traffic = Traffic::new(1);
        let duration = Duration::from_micros(micros);
        traffic.passed(0, &Passing { duration, ..passing(200, "/") });
        let (p99, ms) = (traffic.take().total.p99_ms, micros as f64 / 1000.0);
        prop_assert!((p99 - ms).abs() <= ms * 0.0651 + 0.01, "{} {}", p99, ms);
    }
}
