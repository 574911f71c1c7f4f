//! Circuit breakers and concurrency limits of upstreams, seen by clients and by the Control API.

use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::ports::free_port;
use sluice_testkit::{Behaviour, Gateway, Upstream, Wire};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

fn node(status: u16, name: &str) -> Upstream {
    let node = Upstream::start().unwrap();
    node.otherwise(Behaviour::answer(status, name));
    node
}

/// One route to these nodes, with more fields of its upstream.
fn to(nodes: &[String], more: Value) -> Value {
    let nodes: serde_json::Map<_, _> = nodes.iter().map(|n| (n.clone(), json!(1))).collect();
    let mut upstream = json!({"type": "roundrobin", "retries": 0, "nodes": nodes});
    upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"routes": [{"id": "1", "uri": "/*", "upstream": upstream}]})
}

fn addr(node: &Upstream) -> String {
    node.addr().to_string()
}

fn control(gateway: &Gateway, target: &str) -> Value {
    Wire::connect(("127.0.0.1", gateway.dir().control_port)).unwrap().get(target).unwrap().json()
}

fn breaker(gateway: &Gateway) -> Value {
    control(gateway, "/v1/circuit_breakers/routes/1")
}

/// Looks until it is as wanted.
fn until(gateway: &Gateway, target: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let seen = control(gateway, target);
        if wanted(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{seen}\n{}", gateway.log_text());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn cooled(gateway: &Gateway) {
    until(gateway, "/v1/circuit_breakers/routes/1", |own| own["state"] == "open" && own["remaining"] == 0.0);
    // The workers' clocks are a tick behind the Control API's.
    std::thread::sleep(Duration::from_millis(30));
}

fn statuses(gateway: &Gateway, count: usize) -> Vec<u16> {
    let mut wire = gateway.connect().unwrap();
    (0..count).map(|_| wire.get("/x").unwrap().status).collect()
}

const GET: &str = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn failures_open_it_a_canned_response_serves_and_probes_close_it() {
    let node = node(500, "ill");
    let port = free_port();
    let settings = json!({"plugin_attr": {"prometheus": {"export_addr": {"ip": "127.0.0.1", "port": port}}}});
    let circuit_breaker = json!({"max_failures": 3, "unhealthy": {"interval": 0.3, "growth": 1}, "healthy": {"successes": 2},
        "break_response_code": 503, "break_response_body": "{\"message\":\"later\"}",
        "break_response_headers": [{"key": "Content-Type", "value": "application/json"}, {"key": "X-Host", "value": "$host"}]});
    let gateway = gateway(&settings, &to(&[addr(&node)], json!({"circuit_breaker": circuit_breaker})));
    assert_eq!(statuses(&gateway, 3), [500, 500, 500]);
    let answer = gateway.connect().unwrap().get("/x").unwrap();
    assert_eq!((answer.status, answer.text()), (503, "{\"message\":\"later\"}".to_owned()));
    assert_eq!(answer.header_all("content-type"), ["application/json"]);
    assert!(answer.header("x-host").is_some());
    assert_eq!(node.requests(), 3);
    let seen = breaker(&gateway);
    assert_eq!((&seen["name"], &seen["scope"]), (&json!("/apisix/routes/1"), &json!("upstream")));
    assert_eq!((&seen["state"], &seen["total"]["refused"]), (&json!("open"), &json!(1)), "{seen}");
    let metrics = Wire::connect(("127.0.0.1", port)).unwrap().get("/apisix/prometheus/metrics").unwrap().text();
    for line in [
        "sluice_circuit_breaker_state{name=\"/apisix/routes/1\",node=\"\"} 2",
        "sluice_circuit_breaker_refused_total{name=\"/apisix/routes/1\",node=\"\"} 1",
        "sluice_circuit_breaker_transitions_total{name=\"/apisix/routes/1\",node=\"\",to=\"open\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    node.otherwise(Behaviour::answer(200, "well"));
    cooled(&gateway);
    assert_eq!(statuses(&gateway, 3), [200, 200, 200]);
    assert_eq!(breaker(&gateway)["state"], "closed");
    gateway.wait_for_log("circuit breaker closed", LIMIT).unwrap();
}

#[test]
fn half_open_lets_only_so_many_pass_over_all_workers() {
    let node = node(500, "ill");
    let circuit_breaker = json!({"max_failures": 1, "unhealthy": {"interval": 0.2}, "half_open_requests": 2, "healthy": {"successes": 2}});
    let settings = json!({"nginx_config": {"worker_processes": 2}});
    let gateway = gateway(&settings, &to(&[addr(&node)], json!({"circuit_breaker": circuit_breaker})));
    assert_eq!(statuses(&gateway, 1), [500]);
    node.otherwise(Behaviour::Delay(Duration::from_millis(1500), Box::new(Behaviour::answer(200, "well"))));
    cooled(&gateway);
    let mut wires: Vec<Wire> = (0..8).map(|_| gateway.connect().unwrap()).collect();
    wires.iter_mut().for_each(|wire| wire.send(GET).unwrap());
    let mut seen: Vec<u16> = wires.iter_mut().map(|wire| wire.read_answer(false).unwrap().status).collect();
    seen.sort_unstable();
    assert_eq!(seen, [200, 200, 503, 503, 503, 503, 503, 503]);
    assert_eq!(node.requests(), 1 + 2);
    until(&gateway, "/v1/circuit_breakers/routes/1", |own| own["state"] == "closed");
}

#[test]
fn a_probe_whose_client_leaves_gives_its_place_back() {
    let node = node(500, "ill");
    let circuit_breaker = json!({"max_failures": 1, "unhealthy": {"interval": 0.1}, "healthy": {"successes": 1}});
    let gateway = gateway(&Value::Null, &to(&[addr(&node)], json!({"circuit_breaker": circuit_breaker})));
    assert_eq!(statuses(&gateway, 1), [500]);
    node.otherwise(Behaviour::Silence);
    cooled(&gateway);
    let mut wire = gateway.connect().unwrap();
    wire.send(GET).unwrap();
    until(&gateway, "/v1/circuit_breakers/routes/1", |own| own["probes"] == 1);
    assert_eq!(statuses(&gateway, 1), [503]);
    drop(wire);
    until(&gateway, "/v1/circuit_breakers/routes/1", |own| own["probes"] == 0);
    node.otherwise(Behaviour::answer(200, "well"));
    assert_eq!(statuses(&gateway, 1), [200]);
}

#[test]
fn the_cool_down_grows_with_each_opening() {
    let node = node(500, "ill");
    let unhealthy = json!({"interval": 0.1, "growth": 3, "max_interval": 0.5});
    let circuit_breaker = json!({"max_failures": 2, "unhealthy": unhealthy});
    let gateway = gateway(&Value::Null, &to(&[addr(&node)], json!({"circuit_breaker": circuit_breaker})));
    statuses(&gateway, 2);
    for length in ["100ms", "300ms", "500ms", "500ms"] {
        gateway.wait_for_log(&format!("cool_down={length}"), LIMIT).unwrap();
        cooled(&gateway);
        assert_eq!(statuses(&gateway, 1), [500]);
    }
    assert_eq!(breaker(&gateway)["openings"], 5);
}

#[test]
fn a_share_of_failures_opens_it_and_connections_count() {
    let node = node(200, "well");
    // A pooled connection that turns out to be closed costs no try: the second one is the failure.
    let sequence = [200, 500, 200, 404, 200].map(|status| Behaviour::answer(status, ""));
    node.on("/x", Behaviour::Sequence([&sequence[..], &[Behaviour::Close, Behaviour::Close]].concat()));
    let circuit_breaker = json!({"failure_ratio": 0.3, "min_requests": 6, "unhealthy": {"interval": 600}});
    let gateway = gateway(&Value::Null, &to(&[addr(&node)], json!({"circuit_breaker": circuit_breaker})));
    assert_eq!(statuses(&gateway, 7), [200, 500, 200, 404, 200, 502, 503]);
}

#[test]
fn a_fallback_serves_once_whether_named_or_inline() {
    let (node, standby, broken) = (node(500, "ill"), node(200, "standby"), node(500, "broken"));
    let breaker = |fallback: Value| json!({"circuit_breaker": {"max_failures": 1, "unhealthy": {"interval": 600}, "fallback": fallback}});
    let mut resources = to(&[addr(&node)], breaker(json!("standby")));
    let of = |id: &str, node: &Upstream, more: Value| {
        let mut upstream = json!({"id": id, "type": "roundrobin", "nodes": {addr(node): 1}});
        upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        upstream
    };
    resources["upstreams"] =
        json!([of("standby", &standby, json!({})), of("broken", &broken, breaker(json!("standby")))]);
    let inline = to(&[addr(&node)], breaker(json!({"nodes": {addr(&standby): 1}})));
    let without = to(&[], breaker(json!("standby")));
    let chain = to(&[addr(&node)], breaker(json!("broken")));
    for (uri, other) in [("/inline", inline), ("/without", without), ("/chain", chain)] {
        let mut route = other["routes"][0].clone();
        (route["id"], route["uri"]) = (json!(&uri[1..]), json!(uri));
        resources["routes"].as_array_mut().unwrap().push(route);
    }
    let gateway = gateway(&Value::Null, &resources);
    let mut wire = gateway.connect().unwrap();
    let mut get = |target: &str| {
        let answer = wire.get(target).unwrap();
        (answer.status, answer.text())
    };
    assert_eq!(get("/x").0, 500);
    assert_eq!(get("/x"), (200, "standby".into()));
    assert_eq!(get("/inline").0, 500);
    assert_eq!(get("/inline"), (200, "standby".into()));
    assert_eq!(get("/without"), (200, "standby".into()), "no node at all");
    // The fallback's own breaker holds, its fallback does not serve.
    assert_eq!((get("/chain").0, get("/chain").0), (500, 500));
    assert_eq!(get("/chain").0, 503);
    assert_eq!((node.requests(), broken.requests(), standby.requests()), (3, 1, 3));
}

#[test]
fn a_broken_node_is_stepped_over() {
    let (well, ill) = (node(200, "well"), node(500, "ill"));
    let dead = format!("127.0.0.1:{}", free_port());
    let circuit_breaker = json!({"scope": "node", "max_failures": 2, "unhealthy": {"interval": 600}});
    let more = json!({"circuit_breaker": circuit_breaker, "retries": 2});
    let nodes = [addr(&well), addr(&ill), dead.clone()];
    let gateway = gateway(&Value::Null, &to(&nodes, more.clone()));
    let seen = statuses(&gateway, 40);
    assert_eq!(seen.iter().filter(|status| **status != 200).count(), 2, "{seen:?}");
    assert_eq!(ill.requests(), 2);
    let shown = breaker(&gateway);
    let states: Vec<&Value> = shown["nodes"].as_array().unwrap().iter().map(|node| &node["state"]).collect();
    assert_eq!(states.iter().filter(|state| ***state == "open").count(), 2, "{shown}");
    assert_eq!(gateway.log_text().matches("no connection to the upstream").count(), 2);
    well.otherwise(Behaviour::answer(500, "ill"));
    assert_eq!(statuses(&gateway, 4), [500, 500, 503, 503]);
    assert_eq!(breaker(&gateway)["refused"], 2);
}

#[test]
fn its_state_outlives_a_reload() {
    let node = node(500, "ill");
    let circuit_breaker = json!({"max_failures": 1, "unhealthy": {"interval": 600}});
    let mut resources = to(&[addr(&node)], json!({"circuit_breaker": circuit_breaker}));
    let gateway = gateway(&Value::Null, &resources);
    assert_eq!(statuses(&gateway, 2), [500, 503]);
    resources["routes"][0]["uri"] = json!("/x*");
    resources["routes"][0]["upstream"]["circuit_breaker"]["max_failures"] = json!(7);
    gateway.dir().write_resources(&resources).unwrap();
    gateway.wait_until("/y", LIMIT, |answer| answer.status == 404).unwrap();
    assert_eq!(statuses(&gateway, 2), [503, 503]);
    assert_eq!(node.requests(), 1);
}

fn slow(ms: u64) -> Behaviour {
    Behaviour::Delay(Duration::from_millis(ms), Box::new(Behaviour::answer(200, "well")))
}

fn limit(gateway: &Gateway) -> Value {
    control(gateway, "/v1/concurrency_limits/routes/1")
}

fn when(gateway: &Gateway, wanted: impl Fn(&Value) -> bool) -> Value {
    until(gateway, "/v1/concurrency_limits/routes/1", wanted)
}

#[test]
fn over_the_limit_requests_are_refused_with_a_hint() {
    let node = node(200, "well");
    node.on("/x", Behaviour::Silence);
    let more = json!({"concurrency_limit": {"limit": 2, "retry_after": 7}});
    let gateway = gateway(&Value::Null, &to(&[addr(&node)], more));
    let mut wires: Vec<Wire> = (0..2).map(|_| gateway.connect().unwrap()).collect();
    wires.iter_mut().for_each(|wire| wire.send(GET).unwrap());
    when(&gateway, |own| own["in_flight"] == 2);
    let refused = gateway.connect().unwrap().get("/y").unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("7")));
    // Clients that leave make room.
    drop(wires);
    when(&gateway, |own| own["in_flight"] == 0);
    assert_eq!(gateway.connect().unwrap().get("/y").unwrap().status, 200);
    assert_eq!(limit(&gateway)["refused"], 1);
}

#[test]
fn the_queue_lets_in_whoever_waits_and_gives_up_after_its_time() {
    let node = node(200, "well");
    node.on("/x", slow(400)).on("/stuck", Behaviour::Silence);
    let more = json!({"concurrency_limit": {"limit": 1, "queue": {"size": 2, "timeout": 5}}});
    let settings = json!({"nginx_config": {"worker_processes": 2}});
    let mut resources = to(&[addr(&node)], more);
    let gateway = gateway(&settings, &resources);
    let mut wires: Vec<Wire> = (0..3).map(|_| gateway.connect().unwrap()).collect();
    for (at, wire) in wires.iter_mut().enumerate() {
        wire.send(GET).unwrap();
        when(&gateway, |own| own["in_flight"] == 1 && own["waiting"] == at);
    }
    let refused = gateway.connect().unwrap().get("/y").unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    for wire in &mut wires {
        assert_eq!(wire.read_answer(false).unwrap().status, 200);
    }
    let seen = limit(&gateway);
    assert_eq!((&seen["queued"], &seen["refused"], &seen["waiting"]), (&json!(2), &json!(1), &json!(0)), "{seen}");

    // One holds the place for ever: one who waits leaves, another waits too long.
    resources["routes"][0]["upstream"]["concurrency_limit"]["queue"]["timeout"] = json!(0.2);
    resources["routes"][0]["uris"] = json!(["/y", "/stuck"]);
    resources["routes"][0].as_object_mut().unwrap().remove("uri");
    gateway.dir().write_resources(&resources).unwrap();
    gateway.wait_until("/z", LIMIT, |answer| answer.status == 404).unwrap();
    let mut stuck = gateway.connect().unwrap();
    stuck.send("GET /stuck HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    when(&gateway, |own| own["in_flight"] == 1);
    let began = Instant::now();
    assert_eq!(gateway.connect().unwrap().get("/y").unwrap().status, 503);
    assert!(began.elapsed() >= Duration::from_millis(190), "{:?}", began.elapsed());
    assert_eq!(limit(&gateway)["given_up"], 1);
    let mut leaves = gateway.connect().unwrap();
    leaves.send("GET /y HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    drop(leaves);
    when(&gateway, |own| own["waiting"] == 0 && own["queued"] == 4);
    drop(stuck);
    when(&gateway, |own| own["in_flight"] == 0);
}

#[test]
fn a_gradient_shrinks_when_the_backend_slows_down() {
    let node = node(200, "well");
    let more = json!({"concurrency_limit": {"type": "gradient", "limit": 16, "min_limit": 2, "max_limit": 16, "headroom": 1,
        "window": 0.05, "queue": {"size": 64, "timeout": 10}}});
    let gateway = gateway(&Value::Null, &to(&[addr(&node)], more));
    node.otherwise(slow(5));
    let over = std::sync::atomic::AtomicBool::new(false);
    // Ends the load also where the test fails.
    struct End<'a>(&'a std::sync::atomic::AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let end = End(&over);
        for _ in 0..16 {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(statuses(&gateway, 5), [200; 5]);
                }
            });
        }
        // Sixteen clients that wait 5 ms for each answer need 0.75 s for these: more windows than the warm-up has.
        let usual = when(&gateway, |own| own["usual_latency"].as_f64() > Some(0.004) && node.requests() >= 2400);
        assert!(usual["limit"].as_u64().unwrap() > 8, "{usual}");
        node.otherwise(slow(300));
        let slow = when(&gateway, |own| own["limit"].as_u64() <= Some(6));
        drop(end);
        assert!(slow["limit"].as_u64().unwrap() >= 2, "{slow}");
    });
}
