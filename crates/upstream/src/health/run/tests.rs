//! The task and its checker against real nodes.
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::health::{Checker, CheckerSettings, Checks, Status};
use crate::{Endpoint, Failure, FailureKind, FailureSource, NodeConfig, NodeSet, NodeSetSettings, NodeStates};

/// A node with a status to answer; 0: it closes without one. Counts its probes.
struct Node {
    port: u16,
    status: Arc<AtomicU16>,
    probes: Arc<AtomicUsize>,
    at_once: Arc<AtomicUsize>,
}

async fn node(status: u16) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let node = Node { port, status: Arc::new(AtomicU16::new(status)), probes: Arc::default(), at_once: Arc::default() };
    let (status, probes) = (node.status.clone(), node.probes.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let status = status.load(Ordering::SeqCst);
            probes.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 1024]).await;
                if status != 0 {
                    let _ = stream.write_all(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes()).await;
                }
            });
        }
    });
    node
}

fn settings(checks: Value) -> CheckerSettings {
    CheckerSettings {
        key: "routes/1".into(),
        checks: Checks::read(&checks).unwrap(),
        tls: None,
        h2c: false,
        host_header: None,
    }
}

fn set(states: &Arc<NodeStates>, checks: Value, ports: &[u16]) -> (Arc<Checker>, NodeSet) {
    let checker = states.checker(settings(checks));
    let mut settings = NodeSetSettings::new("routes/1", "http", Default::default());
    settings.health = Some(checker.clone());
    let node =
        |port: &u16| NodeConfig { host: "127.0.0.1".into(), port: *port, weight: 1, priority: 0, metadata: None };
    let set = NodeSet::build(settings, ports.iter().map(node).collect(), states.clone(), None).unwrap();
    checker.start(&tokio::runtime::Handle::current());
    (checker, set)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn statuses(checker: &Checker) -> Vec<&'static str> {
    checker.report().nodes.iter().map(|n| n.status).collect()
}

fn every(interval: f64) -> Value {
    json!({"active": {"interval": interval, "timeout": 5}})
}

#[tokio::test]
async fn a_node_that_fails_goes_and_comes_back() {
    let (good, bad) = (node(200).await, node(200).await);
    let states = Arc::new(NodeStates::new());
    let (checker, set) = set(&states, every(0.02), &[good.port, bad.port]);
    until("both are probed", || good.probes.load(Ordering::SeqCst) > 1 && bad.probes.load(Ordering::SeqCst) > 1).await;
    assert_eq!(statuses(&checker), ["healthy", "healthy"]);
    bad.status.store(500, Ordering::SeqCst);
    until("500 takes it out", || statuses(&checker)[1] == "unhealthy").await;
    assert_eq!(checker.report().nodes[1].counter.http_failure, 5);
    assert_eq!(set.balancer().nodes().iter().map(Endpoint::is_up).collect::<Vec<_>>(), [true, false]);
    bad.status.store(200, Ordering::SeqCst);
    until("200 brings it back", || statuses(&checker)[1] == "healthy").await;
    bad.status.store(0, Ordering::SeqCst);
    until("closed connections take it out", || statuses(&checker)[1] == "unhealthy").await;
    assert_eq!(checker.report().nodes[1].counter.tcp_failure, 2);
    assert_eq!(statuses(&checker)[0], "healthy");
}

#[tokio::test]
async fn what_stays_keeps_its_state_and_what_goes_is_let_alone() {
    let (stays, goes) = (node(500).await, node(200).await);
    let states = Arc::new(NodeStates::new());
    let (first, before) = set(&states, every(0.02), &[stays.port, goes.port]);
    until("it is out", || statuses(&first)[0] == "unhealthy").await;
    // other nodes, same checks: the same checker
    let (second, after) = set(&states, every(0.02), &[stays.port]);
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(statuses(&second), ["unhealthy"]);
    assert!(!after.balancer().nodes()[0].is_up());
    drop(before);
    // other checks: another checker, and the verdict stays
    let (third, _latest) = set(&states, every(3600.0), &[stays.port]);
    assert!(!Arc::ptr_eq(&first, &third) && first.is_retired());
    assert_eq!((statuses(&first).len(), statuses(&third)), (0, vec!["unhealthy"]));
    assert_eq!(states.health().len(), 1);
    // no checks: nobody is out any more
    states.no_checker("routes/1");
    assert!(states.health().is_empty());
    let seen = goes.probes.load(Ordering::SeqCst);
    let stayed = stays.probes.load(Ordering::SeqCst);
    // a probe that has been accepted meanwhile would show here
    node(200).await;
    assert!(goes.probes.load(Ordering::SeqCst) <= seen + 1 && stays.probes.load(Ordering::SeqCst) <= stayed + 1);
}

#[tokio::test]
async fn probes_end_with_the_last_owner() {
    let only = node(200).await;
    let states = Arc::new(NodeStates::new());
    let (checker, set) = set(&states, every(0.02), &[only.port]);
    until("it is probed", || only.probes.load(Ordering::SeqCst) > 0).await;
    let target = Arc::downgrade(set.balancer().nodes()[0].health.as_ref().unwrap());
    drop((checker, set));
    until("nothing holds the target", || target.strong_count() == 0).await;
    assert!(states.health().is_empty());
}

#[tokio::test]
async fn interval_0_probes_nobody() {
    let (probed, control) = (node(200).await, node(200).await);
    let states = Arc::new(NodeStates::new());
    let (_checker, _set) = set(&states, json!({"active": {"unhealthy": {"interval": 0.02}}}), &[probed.port]);
    let others = Arc::new(NodeStates::new());
    let (_other, _others) = set(&others, every(0.02), &[control.port]);
    until("others are probed", || control.probes.load(Ordering::SeqCst) > 5).await;
    assert_eq!(probed.probes.load(Ordering::SeqCst), 0, "healthy nodes have no interval here");
}

#[tokio::test]
async fn no_more_probes_at_once_than_allowed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = Node {
        port: listener.local_addr().unwrap().port(),
        status: Arc::default(),
        probes: Arc::default(),
        at_once: Arc::default(),
    };
    let (open, most, seen) = (Arc::new(AtomicUsize::new(0)), slow.at_once.clone(), slow.probes.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let open = open.clone();
            seen.fetch_add(1, Ordering::SeqCst);
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 1024]).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
                open.fetch_sub(1, Ordering::SeqCst);
                let _ = stream.write_all(b"HTTP/1.1 200 X\r\n\r\n").await;
            });
        }
    });
    let states = Arc::new(NodeStates::new());
    let checker = states.checker(settings(json!({"active": {"interval": 0.02, "concurrency": 2, "timeout": 5}})));
    // many addresses of one listener
    let mut settings = NodeSetSettings::new("routes/1", "http", Default::default());
    settings.health = Some(checker.clone());
    let nodes = (1..9).map(|i| NodeConfig {
        host: format!("127.0.0.{i}").into(),
        port: slow.port,
        weight: 1,
        priority: 0,
        metadata: None,
    });
    // only 127.0.0.1 listens: the others are refused at once and do not hold a place for long
    let set = NodeSet::build(settings, nodes.collect(), states.clone(), None).unwrap();
    checker.start(&tokio::runtime::Handle::current());
    until("enough probes", || slow.probes.load(Ordering::SeqCst) > 10).await;
    assert!(slow.at_once.load(Ordering::SeqCst) <= 2);
    assert_eq!(set.balancer().nodes().len(), 8);
}

#[tokio::test]
async fn an_ejected_node_comes_back_after_its_time() {
    let states = Arc::new(NodeStates::new());
    let checks = json!({"passive": {"unhealthy": {"tcp_failures": 1, "ejection_time": 0.05}}});
    let (checker, set) = set(&states, checks, &[1, 2]);
    let balancer = set.balancer().to_arc();
    let failure = Failure { source: FailureSource::Upstream, kind: FailureKind::Connect, sent_bytes: false };
    checker.failed(&balancer.nodes()[0], &failure, true, 0);
    assert_eq!(statuses(&checker), ["unhealthy", "healthy"]);
    until("it comes back", || statuses(&checker) == ["healthy", "healthy"]).await;
}

#[tokio::test]
async fn requests_count_as_apisix_counts_them() {
    let states = Arc::new(NodeStates::new());
    let checks = json!({"active": {}, "passive": {
        "healthy": {"http_statuses": [200], "successes": 2},
        "unhealthy": {"http_statuses": [500, 504], "http_failures": 2, "tcp_failures": 2, "timeouts": 1}
    }});
    let (checker, set) = set(&states, checks, &[1, 2]);
    let balancer = set.balancer().to_arc();
    let (one, two) = (&balancer.nodes()[0], &balancer.nodes()[1]);
    let status = |node: &Endpoint| node.health.as_ref().unwrap().status();
    checker.answered(one, 500, 0);
    checker.answered(one, 404, 0);
    assert_eq!(status(one), Status::MostlyHealthy);
    checker.answered(one, 500, 0);
    assert_eq!(status(one), Status::Unhealthy);
    checker.answered(one, 200, 0);
    assert_eq!(status(one), Status::MostlyUnhealthy);
    checker.answered(one, 200, 0);
    assert_eq!(status(one), Status::Healthy);
    let failure = |kind| Failure { source: FailureSource::Upstream, kind, sent_bytes: false };
    // a last try counts as the status that the client got
    checker.failed(two, &failure(FailureKind::Timeout), true, 0);
    assert_eq!(checker.report().nodes[1].counter.http_failure, 1);
    checker.failed(two, &failure(FailureKind::Connect), true, 0);
    checker.failed(two, &Failure { source: FailureSource::Downstream, ..failure(FailureKind::Reset) }, false, 0);
    assert_eq!((status(two), checker.report().nodes[1].counter.tcp_failure), (Status::MostlyHealthy, 0));
    checker.failed(two, &failure(FailureKind::Timeout), false, 0);
    assert_eq!(status(two), Status::Unhealthy);
    assert!(one.is_up() && !two.is_up());
}

#[test]
fn first_probes_are_spread() {
    let spans: Vec<_> = (0..200).map(|_| chance(Duration::from_secs(1))).collect();
    assert!(spans.iter().all(|span| *span <= Duration::from_secs(1)));
    let early = spans.iter().filter(|span| **span < Duration::from_millis(500)).count();
    assert!((50..150).contains(&early), "{early}");
}

#[tokio::test]
async fn probes_are_named_as_apisix_names_them() {
    let states = NodeStates::new();
    let hosts = |host: Option<&str>, rewrite: Option<&str>, port: Option<u16>| {
        let mut checks = json!({"active": {}});
        if let Some(host) = host {
            checks["active"]["host"] = host.into();
        }
        if let Some(port) = port {
            checks["active"]["port"] = port.into();
        }
        let checker = states.checker(CheckerSettings { host_header: rewrite.map(Into::into), ..settings(checks) });
        let named = |domain: Option<&str>| {
            let (address, hostname) = checker.place([10, 0, 0, 1].into(), 80);
            let target = states.target(&"routes/1".into(), address, hostname);
            let member = checker.member(target, domain.map(Into::into).as_ref());
            (member.host_header.to_string(), member.target.hostname.to_string(), member.target.address.port())
        };
        (named(None), named(Some("a.test")))
    };
    let named = |host: &str, hostname: &str, port: u16| (host.to_owned(), hostname.to_owned(), port);
    assert_eq!(hosts(None, None, None), (named("10.0.0.1", "10.0.0.1", 80), named("a.test", "10.0.0.1", 80)));
    assert_eq!(hosts(Some("h"), None, Some(81)), (named("h", "h", 81), named("a.test", "h", 81)));
    assert_eq!(hosts(Some("h"), Some("up"), None), (named("up", "h", 80), named("up", "h", 80)));
}
