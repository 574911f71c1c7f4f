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
        for (which, names) in [(&[1, 2][..], &["b", "c"][..]), (&[2][..], &["c"][..]), (&[0, 1, 2][..], &["a", "b", "c"][..])] {
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
