//! Nodes that fail and come back, seen by clients.

use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::directory::Scratch;
use sluice_testkit::ports::free_port;
use sluice_testkit::{Authority, Behaviour, Gateway, Upstream, Wire};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

/// A node that says its name and is well.
fn node(name: &str) -> Upstream {
    let node = Upstream::start().unwrap();
    node.on("/status", Behaviour::answer(200, "well")).otherwise(Behaviour::answer(200, name));
    node
}

fn to(nodes: &[&Upstream], kind: &str, checks: &Value) -> Value {
    let nodes: serde_json::Map<_, _> = nodes.iter().map(|n| (n.addr().to_string(), json!(1))).collect();
    json!({"routes": [{"id": "1", "uri": "/*", "upstream":
        {"type": kind, "key": "remote_port", "retries": 0, "nodes": nodes, "checks": checks}}]})
}

/// How often each answer came to so many requests: status and body.
fn answers(wire: &mut Wire, count: usize) -> HashMap<(u16, String), usize> {
    let mut all = HashMap::new();
    for _ in 0..count {
        let answer = wire.get("/x").unwrap();
        *all.entry((answer.status, String::from_utf8_lossy(&answer.body).into_owned())).or_default() += 1;
    }
    all
}

/// Asks until ten requests in a row are answered as wanted.
fn until(gateway: &Gateway, what: &str, wanted: impl Fn(&HashMap<(u16, String), usize>) -> bool) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let seen = answers(&mut gateway.connect().unwrap(), 10);
        if wanted(&seen) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {seen:?}\n{}", gateway.log_text());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn only(name: &'static str) -> impl Fn(&HashMap<(u16, String), usize>) -> bool {
    move |seen| seen.len() == 1 && seen.get(&(200, name.to_owned())) == Some(&10)
}

fn both(seen: &HashMap<(u16, String), usize>) -> bool {
    ["a", "b"].iter().all(|name| seen.contains_key(&(200, (*name).to_owned())))
}

fn active() -> Value {
    json!({"active": {"http_path": "/status", "interval": 0.1, "timeout": 5,
        "healthy": {"successes": 1}, "unhealthy": {"http_failures": 2, "tcp_failures": 1}}})
}

#[test]
fn a_failing_node_is_passed_over_until_it_is_well_again() {
    let (a, b) = (node("a"), node("b"));
    for kind in ["roundrobin", "chash", "least_conn", "ewma", "random"] {
        let gateway = gateway(&Value::Null, &to(&[&a, &b], kind, &active()));
        // where chash sends all depends on ports, and ewma stays with the faster node
        let spread = |seen: &HashMap<_, _>| matches!(kind, "chash" | "ewma") || both(seen);
        until(&gateway, "both serve", spread);
        b.on("/status", Behaviour::answer(503, "ill"));
        until(&gateway, "b is out", only("a"));
        let line = format!("(upstream#/apisix/routes/1) unhealthy HTTP increment (2/2) for '127.0.0.1({})'", b.addr());
        gateway.wait_for_log(&line, LIMIT).unwrap();
        b.on("/status", Behaviour::answer(200, "well"));
        gateway.wait_for_log(") healthy SUCCESS increment (1/1)", LIMIT).unwrap();
        until(&gateway, "b is back", spread);
    }
}

#[test]
fn a_dead_node_is_passed_over_and_comes_back_on_its_port() {
    let a = node("a");
    let port = free_port();
    let dead = SocketAddr::from(([127, 0, 0, 1], port));
    let resources = json!({"routes": [{"id": "1", "uri": "/*", "upstream": {"type": "roundrobin", "retries": 0,
        "nodes": {a.addr().to_string(): 1, dead.to_string(): 1}, "checks": active()}}]});
    let gateway = gateway(&Value::Null, &resources);
    until(&gateway, "the dead one is out", only("a"));
    let listener = std::net::TcpListener::bind(dead).unwrap();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(1..) = socket.read(&mut buffer) {
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb");
                }
            });
        }
    });
    until(&gateway, "it is back", both);
}

#[test]
fn answers_count_without_probes_of_healthy_nodes() {
    let (a, b) = (node("a"), node("b"));
    // only unhealthy nodes are probed, and they stay so
    b.on("/status", Behaviour::answer(503, "ill"));
    let checks = json!({
        "active": {"http_path": "/status", "unhealthy": {"interval": 1}},
        "passive": {"unhealthy": {"http_statuses": [500], "http_failures": 3}}
    });
    let gateway = gateway(&Value::Null, &to(&[&a, &b], "roundrobin", &checks));
    b.otherwise(Behaviour::answer(500, "b"));
    let seen = answers(&mut gateway.connect().unwrap(), 100);
    assert_eq!(seen.get(&(500, "b".into())), Some(&3), "{seen:?}");
    gateway.wait_for_log("unhealthy HTTP increment (3/3)", LIMIT).unwrap();
}

#[test]
fn an_ejected_node_is_back_after_its_time() {
    let (a, b) = (node("a"), node("b"));
    let checks = json!({"passive": {"unhealthy": {"http_statuses": [500], "http_failures": 2, "interval": 10, "ejection_time": 0.5}}});
    let gateway = gateway(&Value::Null, &to(&[&a, &b], "roundrobin", &checks));
    b.on(
        "/x",
        Behaviour::Sequence(vec![
            Behaviour::answer(500, "b"),
            Behaviour::answer(200, "b"),
            Behaviour::answer(500, "b"),
            Behaviour::answer(200, "b"),
        ]),
    );
    let mut wire = gateway.connect().unwrap();
    let seen = answers(&mut wire, 6);
    assert_eq!(seen.get(&(500, "b".into())), Some(&2), "{seen:?}");
    until(&gateway, "b is back", both);
}

#[test]
fn without_a_healthy_node_all_serve_or_none() {
    let (a, b) = (node("a"), node("b"));
    for node in [&a, &b] {
        node.on("/status", Behaviour::answer(503, "ill"));
    }
    let mut checks = active();
    checks["all_unhealthy"] = json!("fail");
    let strict = gateway(&Value::Null, &to(&[&a, &b], "roundrobin", &checks));
    until(&strict, "503", |seen| seen.len() == 1 && seen.keys().all(|(status, _)| *status == 503));
    let kind = gateway(&Value::Null, &to(&[&a, &b], "roundrobin", &active()));
    let said = |_: &_| kind.log_text().contains("all upstream nodes is unhealthy, use default");
    kind.wait_until("/x", LIMIT, said).unwrap();
    assert!(both(&answers(&mut kind.connect().unwrap(), 10)));
}

#[test]
fn a_lower_priority_serves_when_the_higher_is_out() {
    let (a, b) = (node("a"), node("b"));
    let tier =
        |n: &Upstream, priority: i32| json!({"host": "127.0.0.1", "port": n.port(), "weight": 1, "priority": priority});
    let resources = json!({"routes": [{"id": "1", "uri": "/*", "upstream":
        {"type": "roundrobin", "retries": 0, "nodes": [tier(&a, 1), tier(&b, 0)], "checks": active()}}]});
    let gateway = gateway(&Value::Null, &resources);
    until(&gateway, "the first serves", only("a"));
    a.on("/status", Behaviour::Close);
    until(&gateway, "the second serves", only("b"));
    a.on("/status", Behaviour::answer(200, "well"));
    until(&gateway, "the first serves again", only("a"));
}

#[test]
fn https_probes_check_the_certificate_unless_told_not_to() {
    let authority = Authority::new("the authority").unwrap();
    let pair = authority.server(&["node.test"]).unwrap();
    let secure = || {
        let node = Upstream::start_tls(pair.server_config().unwrap()).unwrap();
        node.otherwise(Behaviour::answer(200, "well"));
        node
    };
    let (right, wrong) = (secure(), secure());
    let upstream = |node: &Upstream, host: &str, verify: bool| {
        json!({
            "type": "roundrobin", "scheme": "https", "nodes": {node.addr().to_string(): 1},
            "checks": {"all_unhealthy": "fail", "active": {"type": "https", "interval": 0.1, "timeout": 5, "host": host,
                "https_verify_certificate": verify, "unhealthy": {"tcp_failures": 1}}}
        })
    };
    let resources = json!({"routes": [
        {"id": "right", "uri": "/right", "upstream": upstream(&right, "node.test", true)},
        {"id": "wrong", "uri": "/wrong", "upstream": upstream(&wrong, "other.test", true)},
        {"id": "careless", "uri": "/careless", "upstream": upstream(&wrong, "other.test", false)},
    ]});
    let home = Scratch::new().unwrap();
    let ca = home.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let settings = json!({"apisix": {"ssl": {"ssl_trusted_certificate": ca}}});
    let gateway = gateway(&settings, &resources);
    gateway.wait_until("/wrong", LIMIT, |answer| answer.status == 503).unwrap();
    let mut wire = gateway.connect().unwrap();
    gateway
        .wait_until("/right", LIMIT, |_| right.seen().iter().any(|s| s.header("host") == Some("node.test")))
        .unwrap();
    gateway
        .wait_until("/careless", LIMIT, |_| wrong.seen().iter().any(|s| s.header("host") == Some("other.test")))
        .unwrap();
    assert_eq!(wire.get("/right").unwrap().status, 200);
    assert_eq!(wire.get("/careless").unwrap().status, 200);
    gateway.wait_for_log("failed SSL handshake with 'other.test", LIMIT).unwrap();
}

#[test]
fn verdicts_outlive_a_reload_and_are_shown_as_a_metric() {
    let (a, b) = (node("a"), node("b"));
    b.on("/status", Behaviour::answer(503, "ill"));
    let port = free_port();
    let settings = json!({"plugin_attr": {"prometheus": {"export_addr": {"ip": "127.0.0.1", "port": port}}}});
    let mut resources = to(&[&a, &b], "roundrobin", &active());
    let gateway = gateway(&settings, &resources);
    until(&gateway, "b is out", only("a"));
    resources["routes"][0]["upstream"]["timeout"] = json!({"connect": 5, "send": 5, "read": 5});
    resources["routes"][0]["uri"] = json!("/x*");
    gateway.dir().write_resources(&resources).unwrap();
    gateway.wait_until("/y", LIMIT, |answer| answer.status == 404).unwrap();
    let seen = answers(&mut gateway.connect().unwrap(), 10);
    assert!(only("a")(&seen), "{seen:?}");
    let mut metrics = Wire::connect(std::net::SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    let text = String::from_utf8_lossy(&metrics.get("/apisix/prometheus/metrics").unwrap().body).into_owned();
    for (node, up) in [(&a, 1), (&b, 0)] {
        let line = format!(
            "apisix_upstream_status{{name=\"/apisix/routes/1\",ip=\"127.0.0.1\",port=\"{}\"}} {up}",
            node.port()
        );
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

#[test]
fn config_yaml_switches_all_checks_off() {
    let (a, b) = (node("a"), node("b"));
    let settings = json!({"apisix": {"disable_upstream_healthcheck": true}});
    let gateway = gateway(&settings, &to(&[&a, &b], "roundrobin", &active()));
    b.otherwise(Behaviour::answer(500, "b")).on("/status", Behaviour::answer(503, "ill"));
    for _ in 0..5 {
        let seen = answers(&mut gateway.connect().unwrap(), 10);
        assert_eq!(seen.get(&(500, "b".into())), Some(&5), "{seen:?}");
    }
    assert!(b.seen().iter().all(|seen| seen.path() != "/status"));
}

#[test]
fn upstreams_in_plugins_are_checked_too() {
    let (a, b, own) = (node("a"), node("b"), node("own"));
    b.on("/status", Behaviour::answer(503, "ill"));
    let nodes: serde_json::Map<_, _> = [&a, &b].iter().map(|n| (n.addr().to_string(), json!(1))).collect();
    let split = json!({"rules": [{"weighted_upstreams": [{"weight": 1, "upstream":
        {"type": "roundrobin", "nodes": nodes, "retries": 0, "checks": active()}}]}]});
    let mut resources = crate::start::all_to(&own);
    resources["routes"][0]["plugins"] = json!({"traffic-split": split});
    let gateway = gateway(&Value::Null, &resources);
    until(&gateway, "b is out", only("a"));
}

#[test]
fn what_the_node_said_counts_not_what_a_plugin_made_of_it() {
    let (a, b) = (node("a"), node("b"));
    b.otherwise(Behaviour::answer(500, "b"));
    let checks = json!({"passive": {"unhealthy": {"http_statuses": [500], "http_failures": 2, "ejection_time": 600}}});
    let mut resources = to(&[&a, &b], "roundrobin", &checks);
    resources["routes"][0]["plugins"] = json!({"response-rewrite": {"status_code": 200}});
    let gateway = gateway(&Value::Null, &resources);
    let seen = answers(&mut gateway.connect().unwrap(), 20);
    assert_eq!((seen.get(&(200, "b".into())), seen.get(&(200, "a".into()))), (Some(&2), Some(&18)), "{seen:?}");
}

#[test]
fn a_stream_route_passes_over_a_node_that_takes_no_connection() {
    let a = node("a");
    let (dead, port) = (free_port(), free_port());
    let settings = json!({"apisix": {"proxy_mode": "http&stream", "stream_proxy": {"tcp": [{"addr": format!("127.0.0.1:{port}")}]}}});
    let resources = json!({"stream_routes": [{"id": "1", "upstream": {"type": "roundrobin", "retries": 0,
        "nodes": {a.addr().to_string(): 1, format!("127.0.0.1:{dead}"): 1},
        "checks": {"active": {"type": "tcp", "unhealthy": {"interval": 600}},
            "passive": {"type": "tcp", "unhealthy": {"tcp_failures": 1}}}}}]});
    let gateway = gateway(&settings, &resources);
    let served = || Wire::connect(("127.0.0.1", port)).unwrap().get("/x").is_ok();
    let failed = (0..20).filter(|_| !served()).count();
    assert_eq!(failed, 1, "{}", gateway.log_text());
    gateway.wait_for_log("(upstream#/apisix/stream_routes/1) unhealthy TCP increment (1/1)", LIMIT).unwrap();
}

#[test]
fn a_node_that_breaks_its_bodies_off_is_ejected() {
    let (a, b) = (node("a"), node("b"));
    b.otherwise(Behaviour::CloseMidBody { declared: 100, sent: 50 });
    let checks = json!({"passive": {"unhealthy": {"tcp_failures": 2, "ejection_time": 600}}});
    let gateway = gateway(&Value::Null, &to(&[&a, &b], "roundrobin", &checks));
    // A connection each: one whose answer broke off is closed.
    let broken = (0..20).filter(|_| gateway.connect().unwrap().get("/x").is_err()).count();
    assert_eq!((broken, b.requests(), a.requests()), (2, 2, 18));
}
