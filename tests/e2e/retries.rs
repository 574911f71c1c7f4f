//! What is tried again, where, how often and for how long, seen by clients and by the nodes.

use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::ports::free_port;
use sluice_testkit::{Authority, Behaviour, Gateway, Upstream, Wire};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

/// Nodes that answer every request alike.
fn nodes(behaviours: &[Behaviour]) -> Vec<Upstream> {
    let start = |behaviour: &Behaviour| {
        let node = Upstream::start().unwrap();
        node.otherwise(behaviour.clone());
        node
    };
    behaviours.iter().map(start).collect()
}

/// Everything to these nodes, by these settings of the upstream.
fn to(nodes: &[Upstream], settings: &Value) -> Value {
    let weights: serde_json::Map<_, _> = nodes.iter().map(|n| (n.addr().to_string(), json!(1))).collect();
    let mut upstream = json!({"type": "roundrobin", "nodes": weights});
    for (name, value) in settings.as_object().unwrap() {
        upstream[name] = value.clone();
    }
    json!({"routes": [{"id": "1", "uri": "/*", "upstream": upstream}]})
}

fn seen(nodes: &[Upstream]) -> Vec<u64> {
    nodes.iter().map(Upstream::requests).collect()
}

fn post(method: &str, body: &str) -> String {
    format!("{method} /x HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Settings with metrics on a port, and that port.
fn with_metrics() -> (Value, u16) {
    let port = free_port();
    (json!({"plugin_attr": {"prometheus": {"export_addr": {"ip": "127.0.0.1", "port": port}}}}), port)
}

fn metrics(port: u16) -> String {
    // that server comes up after the proxy
    let deadline = Instant::now() + LIMIT;
    let mut wire = loop {
        match Wire::connect(("127.0.0.1", port)) {
            Ok(wire) => break wire,
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    wire.get("/apisix/prometheus/metrics").unwrap().text()
}

fn value(metrics: &str, series: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or_else(|| panic!("no {series} in\n{metrics}"))
}

fn wait_until(gateway: &Gateway, what: &str, wanted: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !wanted() {
        assert!(Instant::now() < deadline, "{what}\n{}", gateway.log_text());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn each_condition_retries_what_it_names_and_nothing_else() {
    let answer = |status| Behaviour::answer(status, status.to_string());
    let short = json!({"connect": 5, "send": 5, "read": 0.2});
    for (behaviour, retry_on, plain) in [
        // what the failing node does, a condition that retries it, what a client gets without
        (Behaviour::Close, "connection_error", 502),
        (Behaviour::Silence, "timeout", 504),
        (answer(500), "http_5xx", 500),
        (answer(599), "http_5xx", 599),
        (answer(503), "http_503", 503),
        (answer(429), "http_429", 429),
        (answer(404), "http_404", 404),
    ] {
        let all = nodes(&[behaviour.clone(), answer(200)]);
        for (on, retried) in [(json!([retry_on]), true), (json!(["http_418", "non_idempotent"]), false)] {
            let gateway = gateway(&Value::Null, &to(&all, &json!({"retry_on": on, "timeout": short})));
            let mut got: Vec<u16> = (0..2).map(|_| gateway.connect().unwrap().get("/x").unwrap().status).collect();
            got.sort_unstable();
            let wanted = if retried { [200, 200] } else { [200, plain] };
            assert_eq!(got, wanted, "{behaviour:?} {on}\n{}", gateway.log_text());
        }
    }
}

#[test]
fn without_conditions_answers_pass_and_failures_go_on() {
    let all = nodes(&[Behaviour::answer(503, "ill"), Behaviour::Close, Behaviour::answer(200, "well")]);
    let gateway = gateway(&Value::Null, &to(&all, &json!({})));
    let mut got: Vec<u16> = (0..6).map(|_| gateway.connect().unwrap().get("/x").unwrap().status).collect();
    got.sort_unstable();
    assert!(got.iter().all(|status| [200, 503].contains(status)), "{got:?}");
    assert!(got.contains(&503) && got.contains(&200));
}

#[test]
fn no_node_is_asked_twice_and_the_last_answer_is_passed_on() {
    let all: Vec<_> = (0..4).map(|n| Behaviour::answer(500 + n, format!("node {n}"))).collect();
    let all = nodes(&all);
    let gateway = gateway(&Value::Null, &to(&all, &json!({"retry_on": ["http_5xx"]})));
    let mut wire = gateway.connect().unwrap();
    let answer = wire.get("/x").unwrap();
    assert_eq!(seen(&all), [1, 1, 1, 1]);
    assert_eq!(answer.text(), format!("node {}", answer.status - 500), "head and body are of one node");
    let told = answer.header("x-apisix-upstream-status").unwrap();
    let mut statuses: Vec<&str> = told.split(", ").collect();
    assert_eq!(statuses.last(), Some(&answer.status.to_string().as_str()));
    statuses.sort_unstable();
    assert_eq!(statuses, ["500", "501", "502", "503"]);
    // dropped answers were read to their ends: their connections serve on
    wire.get("/x").unwrap();
    assert_eq!(seen(&all), [2, 2, 2, 2]);
    assert_eq!(all.iter().map(Upstream::connections).collect::<Vec<_>>(), [1, 1, 1, 1]);
}

#[test]
fn more_retries_than_nodes_begin_anew_after_a_wait() {
    let all = nodes(&[Behaviour::answer(500, ""), Behaviour::answer(500, "")]);
    let settings = json!({"retry_on": ["http_5xx"], "retries": 5, "retry_backoff": {"base_interval": 0.001}});
    let gateway = gateway(&Value::Null, &to(&all, &settings));
    let answer = gateway.connect().unwrap().get("/x").unwrap();
    assert_eq!(answer.header("x-apisix-upstream-status"), Some("500, 500, 500, 500, 500, 500"));
    assert_eq!(seen(&all), [3, 3]);
}

#[test]
fn a_node_that_is_well_again_in_the_second_round_answers() {
    let sequence = Behaviour::Sequence(vec![Behaviour::answer(503, ""), Behaviour::answer(200, "well")]);
    let all = nodes(&[Behaviour::Echo]);
    all[0].on("/x", sequence);
    let gateway = gateway(&Value::Null, &to(&all, &json!({"retry_on": ["http_503"], "retries": 1})));
    assert_eq!(gateway.connect().unwrap().get("/x").unwrap().text(), "well");
    assert_eq!(seen(&all), [2]);
}

#[test]
fn a_post_is_sent_twice_only_where_that_is_asked_for() {
    for method in ["POST", "PATCH", "LOCK"] {
        for (behaviour, on, statuses) in [
            (Behaviour::Close, json!(["connection_error"]), [200, 502]),
            (Behaviour::Close, json!(["connection_error", "non_idempotent"]), [200, 200]),
            (Behaviour::answer(503, ""), json!(["http_503"]), [200, 503]),
            (Behaviour::answer(503, ""), json!(["http_503", "non_idempotent"]), [200, 200]),
        ] {
            let all = nodes(&[behaviour, Behaviour::answer(200, "")]);
            let gateway = gateway(&Value::Null, &to(&all, &json!({"retry_on": on})));
            let ask = || gateway.connect().unwrap().request(post(method, "hello")).unwrap().status;
            let mut got = [ask(), ask()];
            got.sort_unstable();
            assert_eq!(got, statuses, "{method} {on}");
            let bodies: Vec<_> = all[1].seen().into_iter().map(|seen| seen.body).collect();
            assert!(bodies.iter().all(|body| body == b"hello"), "{bodies:?}");
        }
    }
}

/// A body in chunks, with its framing.
fn chunked(payload: &[u8]) -> Vec<u8> {
    let mut out = b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for part in payload.chunks(10_000) {
        out.extend(format!("{:x}\r\n", part.len()).into_bytes());
        out.extend(part);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n\r\n");
    out
}

#[test]
fn bodies_are_sent_again_up_to_the_limit() {
    // more than one read takes, so that it is streamed
    let payload: Vec<u8> = (0..600_000u32).map(|n| (n % 251) as u8).collect();
    let whole = [
        format!("PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", payload.len()).into_bytes(),
        payload.clone(),
    ]
    .concat();
    for request in [whole, chunked(&payload)] {
        for (limit, refused) in [(1_000_000, false), (64_000, true), (0, true)] {
            let all = nodes(&[Behaviour::Close, Behaviour::answer(200, "")]);
            let (settings, port) = with_metrics();
            let gateway = gateway(&settings, &to(&all, &json!({"retry_body_limit": limit})));
            let mut got = Vec::new();
            for _ in 0..2 {
                let mut wire = gateway.connect().unwrap();
                got.push(wire.request(&request).unwrap().status);
                // and the connection is in step
                if got.last() == Some(&200) {
                    assert_eq!(wire.get("/y").unwrap().status, 200);
                }
            }
            got.sort_unstable();
            assert_eq!(got, if refused { [200, 502] } else { [200, 200] }, "{limit}\n{}", gateway.log_text());
            for seen in all[1].seen().iter().filter(|seen| seen.method == "PUT") {
                assert!(seen.body == payload, "{} bytes", seen.body.len());
            }
            let metrics = metrics(port);
            let figure = value(&metrics, "sluice_upstream_retries_refused_total{reason=\"body\"}");
            assert_eq!(figure, u64::from(refused), "{metrics}");
        }
    }
}

#[test]
fn a_body_without_an_answer_is_not_the_next_request() {
    let closed = free_port();
    let resources = json!({"routes": [{"id": "1", "uri": "/x", "upstream": {"type": "roundrobin", "nodes": {format!("127.0.0.1:{closed}"): 1}}},
        {"id": "2", "uri": "/close", "upstream": {"type": "roundrobin", "nodes": {}}}]});
    let all = nodes(&[Behaviour::Close]);
    let mut resources = resources;
    resources["routes"][1]["upstream"]["nodes"] = json!({all[0].addr().to_string(): 1});
    let gateway = gateway(&Value::Null, &resources);
    for path in ["/x", "/close"] {
        let mut wire = gateway.connect().unwrap();
        let hidden = "GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n";
        let request = post("POST", hidden).replace("/x", path);
        assert_eq!(wire.request(request).unwrap().status, 502);
        // a body that passed for a request would be answered by 404 here, and this by nobody
        assert_eq!(wire.request(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap().status, 502);
        assert_eq!(wire.get("/nowhere").unwrap().status, 404);
    }
}

#[test]
fn a_storm_is_bounded_by_the_budget() {
    let all = nodes(&[Behaviour::Close, Behaviour::Close, Behaviour::Close]);
    all.iter().for_each(|node| {
        node.forget_requests();
    });
    let (settings, port) = with_metrics();
    let budget = json!({"percent": 20, "min_retries_per_second": 0});
    let mut resources = to(&all, &json!({"retry_budget": budget}));
    let gateway = gateway(&settings, &resources);
    let storm = |requests: usize| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut wire = gateway.connect().unwrap();
                    for _ in 0..requests / 4 {
                        assert_eq!(wire.get("/x").unwrap().status, 502);
                    }
                });
            }
        });
        seen(&all).iter().sum::<u64>()
    };
    let attempts = storm(400);
    assert!((440..=480).contains(&attempts), "{attempts} attempts for 400 requests");
    let text = metrics(port);
    let retries = value(&text, "sluice_upstream_retries_total{reason=\"connection_error\"}");
    assert_eq!(retries, attempts - 400);
    // a refused retry is a request answered with its first failure, or its second
    assert!((320..=400).contains(&value(&text, "sluice_upstream_retries_refused_total{reason=\"budget\"}")), "{text}");
    // a change of the upstream does not fill the budget anew
    resources["routes"][0]["upstream"]["timeout"] = json!({"connect": 5, "send": 5, "read": 5});
    resources["routes"][0]["uri"] = json!("/x*");
    gateway.dir().write_resources(&resources).unwrap();
    gateway.wait_until("/y", LIMIT, |answer| answer.status == 404).unwrap();
    let before = seen(&all).iter().sum::<u64>();
    let after = storm(40) - before;
    assert!(after <= 40 + 8 + 1, "{after} attempts for 40 more requests");
}

#[test]
fn a_quiet_upstream_is_not_held_back_by_the_default_budget() {
    let all = nodes(&[Behaviour::Close, Behaviour::answer(200, "")]);
    let gateway = gateway(&Value::Null, &to(&all, &json!({"retry_budget": {}})));
    let mut wire = gateway.connect().unwrap();
    assert!((0..100).all(|_| wire.get("/x").unwrap().status == 200));
}

/// The access log's lines, status alone.
fn logged(log: &std::path::Path) -> Vec<String> {
    std::fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_client_that_leaves_ends_waits_and_attempts() {
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("access.log");
    let authority = Authority::new("servers").unwrap();
    let server = authority.server(&["api.test"]).unwrap();
    let format = json!({"enable_access_log": true, "access_log": log, "access_log_format": "$status $upstream_status", "access_log_buffer": 0});
    let settings = json!({"nginx_config": {"http": format}});
    for tls in [false, true] {
        for (behaviour, backoff) in [(Behaviour::Close, 60), (Behaviour::Silence, 1)] {
            let all = nodes(&[behaviour.clone(), behaviour.clone()]);
            let backoff = json!({"base_interval": backoff});
            let mut resources = to(&all, &json!({"retry_backoff": backoff, "retries": 50}));
            resources["ssls"] = json!([{"id": 1, "snis": ["api.test"], "cert": server.cert, "key": server.key}]);
            std::fs::remove_file(&log).ok();
            let gateway = gateway(&settings, &resources);
            let mut wire = if tls {
                let addr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
                Wire::connect_tls(addr, "api.test", authority.client_config(None).unwrap()).unwrap()
            } else {
                gateway.connect().unwrap()
            };
            wire.send("GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
            wait_until(&gateway, "no request came", || seen(&all).iter().sum::<u64>() > 0);
            drop(wire);
            wait_until(&gateway, "not ended", || logged(&log).iter().any(|line| line.starts_with("499")));
            wait_until(&gateway, "not closed", || all.iter().all(|node| node.open_connections() == 0));
            assert!(seen(&all).iter().sum::<u64>() <= 6, "{behaviour:?}: {:?}", seen(&all));
        }
    }
}

#[test]
fn deadlines_end_retries() {
    let slow = Behaviour::Delay(Duration::from_millis(300), Box::new(Behaviour::answer(503, "")));
    let all = nodes(&[slow.clone(), slow.clone(), slow]);
    // the second try begins within the time, the third would not
    let gateway_ = gateway(&Value::Null, &to(&all, &json!({"retry_on": ["http_503"], "retry_timeout": 0.45})));
    let answer = gateway_.connect().unwrap().get("/x").unwrap();
    assert_eq!((answer.status, answer.header("x-apisix-upstream-status")), (503, Some("503, 503")));
    // a wait that would pass the deadline is not begun
    let ill = nodes(&[Behaviour::Close]);
    let settings =
        json!({"retries": 1000, "retry_timeout": 0.5, "retry_backoff": {"base_interval": 0.1, "max_interval": 30}});
    let gateway_ = gateway(&Value::Null, &to(&ill, &settings));
    let begun = Instant::now();
    assert_eq!(gateway_.connect().unwrap().get("/x").unwrap().status, 502);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(seen(&ill)[0] > 1);
}

#[test]
fn the_whole_request_has_its_time() {
    let all = nodes(&[Behaviour::Silence, Behaviour::Silence, Behaviour::Silence]);
    let timeout = json!({"connect": 30, "send": 30, "read": 0.4, "request": 0.6});
    let gateway = gateway(&Value::Null, &to(&all, &json!({"timeout": timeout})));
    let begun = Instant::now();
    let answer = gateway.connect().unwrap().get("/x").unwrap();
    assert_eq!((answer.status, answer.header("x-apisix-upstream-status")), (504, Some("504, 504")));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(seen(&all).iter().sum::<u64>(), 2);
}

#[test]
fn variables_list_all_attempts() {
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("access.log");
    let format = "$upstream_status|$upstream_addr|$upstream_connect_time|$upstream_header_time|$upstream_response_time|$upstream_response_length";
    let settings = json!({"nginx_config": {"http": {"enable_access_log": true, "access_log": log, "access_log_format": format, "access_log_buffer": 0}}});
    let all = nodes(&[Behaviour::answer(503, "ill"), Behaviour::answer(200, "well")]);
    let gateway = gateway(&settings, &to(&all, &json!({"retry_on": ["http_503"]})));
    (0..2).for_each(|_| assert_eq!(gateway.connect().unwrap().get("/x").unwrap().text(), "well"));
    wait_until(&gateway, "no log", || logged(&log).len() >= 2);
    let lines = logged(&log);
    let line = lines.iter().find(|line| line.starts_with("503, 200|")).unwrap_or_else(|| panic!("{lines:?}"));
    let parts: Vec<&str> = line.split('|').collect();
    assert_eq!(parts[1], format!("{}, {}", all[0].addr(), all[1].addr()));
    for times in &parts[2..5] {
        let all: Vec<f64> = times.split(", ").map(|time| time.parse().unwrap()).collect();
        assert_eq!(all.len(), 2, "{line}");
    }
    assert_eq!(parts[5], "0, 4", "{line}");
}

#[test]
fn explain_shows_the_policy() {
    let all = nodes(&[Behaviour::Echo, Behaviour::Echo, Behaviour::Echo]);
    let settings = json!({"retry_on": ["http_5xx", "timeout"], "retry_timeout": 5, "retry_backoff": {"base_interval": 0.5},
        "retry_budget": {"percent": 12.5}});
    let dir = sluice_testkit::ConfigDir::new(&Value::Null, &to(&all, &settings)).unwrap();
    let mut command = std::process::Command::new(crate::start::binary());
    let output = command
        .args(["explain", "--output", "json", "-c"])
        .arg(dir.config_file())
        .args(["GET", "/x"])
        .output()
        .unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let wanted = json!({"retries": 2, "retry_timeout": 5.0, "retry_on": ["timeout", "http_5xx"],
        "retry_backoff": {"base_interval": 0.5, "max_interval": 5.0}, "retry_body_limit": 65536,
        "retry_budget": {"percent": 12.5, "min_retries_per_second": 10, "last_10_seconds": {"requests": 0, "retries": 0}}});
    assert_eq!(said["route"]["upstream"]["retry"], wanted, "{said}");
}

#[test]
fn a_client_that_leaves_ends_connecting() {
    use std::io::Read as _;
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let resources = json!({"routes": [{"id": "1", "uri": "/*", "upstream": {"type": "roundrobin", "scheme": "https",
        "timeout": {"connect": 600, "send": 600, "read": 600}, "nodes": {silent.local_addr().unwrap().to_string(): 1}}}]});
    let gateway = gateway(&Value::Null, &resources);
    let mut wire = gateway.connect().unwrap();
    wire.send("GET /x HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let (mut node, _) = silent.accept().unwrap();
    node.set_read_timeout(Some(LIMIT)).unwrap();
    // the handshake has begun and is not answered
    let mut bytes = [0; 4096];
    assert!(node.read(&mut bytes).unwrap() > 0);
    drop(wire);
    while node.read(&mut bytes).expect("the connection is closed") > 0 {}
}
