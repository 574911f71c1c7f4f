//! Nodes that come from registries, seen by clients.

use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::{Behaviour, Gateway, NameServer, Record, Upstream, Wire};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

fn named(name: &str) -> Upstream {
    let node = Upstream::start().unwrap();
    node.otherwise(Behaviour::answer(200, name));
    node
}

/// All requests to a service.
fn to(kind: &str, service: &str) -> Value {
    json!({"routes": [{"id": "1", "uri": "/*", "upstream":
        {"type": "roundrobin", "retries": 0, "service_name": service, "discovery_type": kind}}]})
}

fn dns(server: &NameServer) -> Value {
    json!({"discovery": {"dns": {"servers": [server.addr().to_string()]}}})
}

/// Who answers a few requests.
fn who(wire: &mut Wire) -> HashSet<String> {
    (0..6).map(|_| String::from_utf8_lossy(&wire.get("/").unwrap().body).into_owned()).collect()
}

fn until(gateway: &Gateway, names: &[&str]) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let seen = who(&mut gateway.connect().unwrap());
        if seen.len() == names.len() && names.iter().all(|name| seen.contains(*name)) {
            return;
        }
        assert!(Instant::now() < deadline, "expected {names:?}, got {seen:?}\n{}", gateway.log_text());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn records_that_change_under_traffic_fail_no_request() {
    let server = NameServer::start().unwrap();
    let nodes = [named("a"), named("b"), named("c")];
    let records = |which: &[usize]| -> Vec<Record> {
        which.iter().map(|at| Record::srv(0, 1, nodes[*at].port(), "local.test")).collect()
    };
    server.set("local.test", 60, &[Record::address("127.0.0.1")]);
    server.set("api.test", 1, &records(&[0, 1]));
    // in force with the first configuration: no request is early
    let gateway = gateway(&dns(&server), &to("dns", "api.test"));
    assert_eq!(who(&mut gateway.connect().unwrap()).len(), 2);
    let (stop, sent, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // fewer than a connection may have
                    let mut wire = gateway.connect().unwrap();
                    for _ in 0..500 {
                        let answer = wire.get("/");
                        sent.fetch_add(1, Ordering::Relaxed);
                        if answer.is_err() || answer.is_ok_and(|answer| answer.status != 200) {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        for (which, names) in
            [(&[1, 2][..], &["b", "c"][..]), (&[2][..], &["c"][..]), (&[0, 1, 2][..], &["a", "b", "c"][..])]
        {
            server.set("api.test", 1, &records(which));
            until(&gateway, names);
        }
        // the name server is away: nothing changes
        server.fall_silent(true);
        gateway.wait_for_log("the registry cannot be asked", LIMIT).unwrap();
        until(&gateway, &["a", "b", "c"]);
        stop.store(true, Ordering::Relaxed);
    });
    assert!(sent.load(Ordering::Relaxed) > 100);
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}\n{}", sent.load(Ordering::Relaxed), gateway.log_text());
}

#[test]
fn a_kind_that_is_not_configured_is_named_and_answers_503() {
    let server = NameServer::start().unwrap();
    let gateway = gateway(&dns(&server), &to("consul", "api"));
    assert_eq!(gateway.connect().unwrap().get("/").unwrap().status, 503);
    gateway.wait_for_log("discovery consul is uninitialized", LIMIT).unwrap();
}

#[test]
fn a_name_without_records_answers_503_until_it_has_some() {
    let server = NameServer::start().unwrap();
    let node = named("a");
    let service = format!("late.test:{}", node.port());
    let gateway = gateway(&dns(&server), &to("dns", &service));
    assert_eq!(gateway.connect().unwrap().get("/").unwrap().status, 503);
    server.set("late.test", 1, &[Record::address("127.0.0.1")]);
    until(&gateway, &["a"]);
}

/// The catalog of a Consul that does not wait.
struct Consul(Upstream);

impl Consul {
    fn start() -> Consul {
        let server = Upstream::start().unwrap();
        server.on("/v1/health/state/any", indexed(1, "[]"));
        Consul(server)
    }

    /// From now on these are the nodes of `api`.
    fn set(&self, index: u64, nodes: &[&Upstream]) {
        let entries: Vec<Value> =
            nodes.iter().map(|node| json!({"Service": {"Address": "127.0.0.1", "Port": node.port()}})).collect();
        self.0.on("/v1/health/service/api", indexed(index, &json!(entries).to_string()));
        self.0.on("/v1/catalog/services", indexed(index, r#"{"api": [], "consul": []}"#));
    }
}

fn indexed(index: u64, body: &str) -> Behaviour {
    Behaviour::with_headers(200, &[("X-Consul-Index", &index.to_string())], body)
}

#[test]
fn consul_changes_nodes_and_may_go_away_and_its_dump_bridges_a_restart() {
    let (a, b) = (named("a"), named("b"));
    let consul = Consul::start();
    consul.set(5, &[&a]);
    let folder = sluice_testkit::directory::Scratch::new().unwrap();
    let settings = json!({"discovery": {"consul": {
        "servers": [format!("http://{}", consul.0.addr())], "keepalive": false, "fetch_interval": 1,
        "dump": {"path": folder.path().join("consul.dump")},
    }}});
    let mut resources = to("consul", "api");
    resources["routes"][0]["upstream"]["checks"] =
        json!({"active": {"http_path": "/", "interval": 0.1, "healthy": {"successes": 1}}});
    let gateway = gateway(&settings, &resources);
    assert_eq!(who(&mut gateway.connect().unwrap()), HashSet::from(["a".to_owned()]));
    consul.set(6, &[&a, &b]);
    until(&gateway, &["a", "b"]);
    // what stands behind the nodes is seen by the Control API, and they are probed
    let control = |target: &str| {
        let answer = Wire::connect(("127.0.0.1", gateway.dir().control_port)).unwrap().get(target).unwrap();
        (answer.status, answer.json())
    };
    let (status, dump) = control("/v1/discovery/consul/dump");
    assert_eq!((status, dump["services"]["api"].as_array().map(Vec::len)), (200, Some(2)), "{dump}");
    assert_eq!(control("/v1/discovery/consul/show_dump_file").1["services"], dump["services"]);
    let deadline = Instant::now() + LIMIT;
    while control("/v1/healthcheck/routes/1").1["nodes"].as_array().map(Vec::len) != Some(2) {
        assert!(Instant::now() < deadline, "{}", gateway.log_text());
        std::thread::sleep(Duration::from_millis(10));
    }
    consul.0.on("/v1/catalog/services", Behaviour::Close);
    gateway.wait_for_log("the registry cannot be asked", LIMIT).unwrap();
    until(&gateway, &["a", "b"]);
    drop(gateway);
    let again = crate::start::gateway(&settings, &resources);
    assert_eq!(who(&mut again.connect().unwrap()).len(), 2);
}

#[test]
fn stream_routes_follow_services_too() {
    let server = NameServer::start().unwrap();
    let nodes = [named("a"), named("b")];
    let record = |at: usize| [Record::srv(0, 1, nodes[at].port(), "local.test")];
    server.set("local.test", 60, &[Record::address("127.0.0.1")]);
    server.set("tcp.test", 1, &record(0));
    let port = sluice_testkit::ports::free_port();
    let settings = json!({
        "apisix": {"proxy_mode": "http&stream", "stream_proxy": {"tcp": [format!("127.0.0.1:{port}")]}},
        "discovery": {"dns": {"servers": [server.addr().to_string()]}},
    });
    let upstream = json!({"type": "roundrobin", "scheme": "tcp", "service_name": "tcp.test", "discovery_type": "dns"});
    let gateway = gateway(&settings, &json!({"stream_routes": [{"id": "1", "upstream": upstream}]}));
    let answer = |name: &str| {
        let wire = Wire::connect(("127.0.0.1", port));
        wire.and_then(|mut wire| wire.get("/")).is_ok_and(|answer| answer.text() == name)
    };
    assert!(answer("a"), "{}", gateway.log_text());
    server.set("tcp.test", 1, &record(1));
    let deadline = Instant::now() + LIMIT;
    while !answer("b") {
        assert!(Instant::now() < deadline, "{}", gateway.log_text());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn check_names_what_is_wrong_and_explain_where_nodes_come_from() {
    let run = |settings: &Value, arguments: &[&str]| {
        let dir = sluice_testkit::ConfigDir::new(settings, &to("dns", "api.test")).unwrap();
        let mut command = std::process::Command::new(crate::start::binary());
        let out =
            command.args(&arguments[..1]).arg("-c").arg(dir.config_file()).args(&arguments[1..]).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (good, text) = run(&json!({}), &["check"]);
    assert!(!good && text.contains("discovery is uninitialized"), "{text}");
    let (good, text) = run(&json!({"discovery": {"consul": {"servers": ["http://127.0.0.1:1"]}}}), &["check"]);
    assert!(!good && text.contains("discovery dns is uninitialized"), "{text}");
    let (good, text) = run(&json!({"discovery": {"dns": {"servers": []}}}), &["check"]);
    assert!(!good && text.contains("discovery.dns.servers: invalid discovery dns configuration: "), "{text}");
    let dns = json!({"discovery": {"dns": {"servers": ["127.0.0.1:1"]}}});
    assert!(run(&dns, &["check"]).0);
    let (good, text) = run(&dns, &["explain", "GET", "http://a/x"]);
    assert!(good && text.contains("nodes from discovery dns, service api.test"), "{text}");
}
