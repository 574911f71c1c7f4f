//! Tests of `dns` against a name server in this process.
use super::*;
use serde_json::json;
use sluice_testkit::{NameServer, Record};
use sluice_upstream::ServiceNodes;

fn registry(conf: Value) -> Arc<dyn Registry> {
    let settings = Settings {
        registries: serde_json::Map::new(),
        control: Some(Handle::current()),
        ipv6: true,
        trusted_certificates: None,
        prefix: ".".into(),
    };
    start(&conf, &settings).unwrap()
}

fn follow(registry: &Arc<dyn Registry>, name: &str) -> Following {
    let query =
        ServiceQuery { registry: "dns".into(), name: name.into(), namespace_id: None, group_name: None, grpc: false };
    registry.follow(&query).unwrap()
}

/// What is told once it is as expected.
async fn until(following: &mut Following, expected: impl Fn(&ServiceNodes) -> bool) -> Vec<String> {
    let limit = Duration::from_secs(20);
    let told = tokio::time::timeout(limit, following.wait_for(|told| expected(told))).await.unwrap().unwrap();
    let text = |node: &sluice_upstream::ServiceNode| {
        format!("{}:{} {} {}", node.host, node.port.unwrap_or(0), node.weight, node.priority)
    };
    told.nodes.iter().map(text).collect()
}

async fn first(registry: &Arc<dyn Registry>, name: &str) -> Vec<String> {
    until(&mut follow(registry, name), |told| told.asked).await
}

#[tokio::test(flavor = "multi_thread")]
async fn records_become_nodes() {
    let server = NameServer::start().unwrap();
    let registry = registry(json!({"servers": [server.addr().to_string()]}));
    let (a, b, six) = (Record::address("10.0.0.1"), Record::address("10.0.0.2"), Record::address("::1"));
    server.set("a.test", 60, &[b.clone(), a.clone()]);
    server.set("b.test", 60, std::slice::from_ref(&b));
    server.set("mix.test", 60, &[a.clone(), six.clone()]);
    server.set("six.test", 60, &[six]);
    server.set("alias.test", 60, &[Record::Cname("b.test".into())]);
    server.set("srv.test", 60, &[a, Record::srv(1, 3, 81, "a.test"), Record::srv(2, 0, 0, "b.test")]);
    assert_eq!(first(&registry, "a.test:80").await, ["10.0.0.1:80 1 0", "10.0.0.2:80 1 0"]);
    assert_eq!(first(&registry, "mix.test").await, ["10.0.0.1:0 1 0"]);
    assert_eq!(first(&registry, "six.test:80").await, ["::1:80 1 0"]);
    assert_eq!(first(&registry, "alias.test:80").await, ["10.0.0.2:80 1 0"]);
    assert_eq!(first(&registry, "srv.test").await, ["10.0.0.1:81 3 -1", "10.0.0.2:81 3 -1", "10.0.0.2:0 2 -2"]);
    assert_eq!(first(&registry, "srv.test:90").await[2], "10.0.0.2:90 2 -2");
    assert!(first(&registry, "none.test").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_decides() {
    let server = NameServer::start().unwrap();
    server.set("b.test", 60, &[Record::address("10.0.0.2"), Record::srv(1, 5, 81, "b.test")]);
    let servers = json!([server.addr().to_string()]);
    let with = |order: Value| registry(json!({"servers": servers, "order": order}));
    assert_eq!(first(&with(json!(["A", "SRV"])), "b.test").await, ["10.0.0.2:0 1 0"]);
    assert_eq!(first(&with(json!(["last", "SRV", "A"])), "b.test").await, ["10.0.0.2:81 5 -1"]);
    assert!(first(&with(json!(["AAAA"])), "b.test").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_when_records_end_and_failures_change_nothing() {
    let server = NameServer::start().unwrap();
    let registry = registry(json!({"servers": [server.addr().to_string()]}));
    server.set("a.test", 1, &[Record::address("10.0.0.1")]);
    let mut following = follow(&registry, "a.test:80");
    assert_eq!(until(&mut following, |told| told.asked).await, ["10.0.0.1:80 1 0"]);
    server.set("a.test", 1, &[Record::address("10.0.0.2")]);
    assert_eq!(until(&mut following, |t| t.nodes.iter().any(|n| &*n.host == "10.0.0.2")).await.len(), 1);
    server.fail(true);
    while registry.reports()[0].reachable {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(following.borrow_and_update().nodes.len(), 1);
    server.fail(false);
    server.set("a.test", 1, &[]);
    assert!(until(&mut following, |told| told.nodes.is_empty()).await.is_empty());
    let report = &registry.reports()[0];
    assert!(report.reachable && report.failures > 0 && report.changes >= 3, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_followed_is_not_asked_for() {
    let server = NameServer::start().unwrap();
    let registry = registry(json!({"servers": [server.addr().to_string()]}));
    server.set("a.test", 60, &[Record::address("10.0.0.1")]);
    let mut following = follow(&registry, "a.test:80");
    let mut twin = follow(&registry, "a.test:80");
    until(&mut following, |told| told.asked).await;
    until(&mut twin, |told| told.asked).await;
    // one for SRV, one for A, shared by both
    assert_eq!((server.questions(), registry.reports()[0].followed), (2, 1));
    drop((following, twin));
    while registry.reports()[0].services > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn settings_that_cannot_be_used_say_why() {
    let settings = Settings {
        registries: serde_json::Map::new(),
        control: Some(Handle::current()),
        ipv6: true,
        trusted_certificates: None,
        prefix: ".".into(),
    };
    let error = |conf: Value| start(&conf, &settings).err().unwrap().to_string();
    assert_eq!(error(json!({"servers": ["name.test"]})), "servers: name.test is no address");
    assert!(error(json!({"resolv_conf": "/nowhere/resolv.conf"})).starts_with("resolv_conf: /nowhere/resolv.conf: "));
    assert_eq!(server("::1").unwrap().to_string(), "[::1]:53");
}
