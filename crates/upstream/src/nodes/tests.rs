//! Tests of `nodes`.
use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::*;
use crate::balancer::PickInput;
use crate::health::CheckerSettings;
use crate::tried::Tried;

#[derive(Default)]
struct Fake(Mutex<HashMap<String, Vec<u8>>>);

impl Resolve for Fake {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        let known = self.0.lock().unwrap().get(host).cloned();
        Box::pin(async move {
            match known {
                Some(last) => Ok(Resolved {
                    addresses: last.iter().map(|last| Ipv4Addr::new(10, 0, 0, *last).into()).collect(),
                    ttl: Duration::from_secs(30),
                }),
                None => Err(ResolveError { host: host.to_owned(), reason: "name error".to_owned() }),
            }
        })
    }
}

fn node(host: &str, weight: u32) -> NodeConfig {
    NodeConfig { host: host.into(), port: 81, weight, priority: 0, metadata: None }
}

fn set(configs: Vec<NodeConfig>, states: &Arc<NodeStates>, previous: Option<&NodeSet>) -> NodeSet {
    let mut settings = NodeSetSettings::new("/upstreams/1", "http", BalancerSettings::default());
    let checks = crate::Checks::read(&serde_json::json!({"active": {}})).unwrap();
    let checker = CheckerSettings { key: settings.key.clone(), checks, tls: None, h2c: false, host_header: None };
    settings.health = Some(states.checker(checker));
    NodeSet::build(settings, configs, states.clone(), previous).unwrap()
}

fn shares(set: &NodeSet, picks: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..picks {
        let balancer = set.balancer();
        let picked = balancer.pick(&PickInput::default(), &Tried::new()).unwrap();
        *counts.entry(picked.endpoint.host.to_string()).or_default() += 1;
    }
    counts
}

fn counts(wanted: &[(&str, usize)]) -> HashMap<String, usize> {
    wanted.iter().map(|(host, count)| ((*host).to_owned(), *count)).collect()
}

#[tokio::test]
async fn addresses_of_a_name_share_its_weight() {
    let (fake, states) = (Arc::new(Fake::default()), Arc::new(NodeStates::new()));
    let resolver: Arc<dyn Resolve> = fake.clone();
    fake.0.lock().unwrap().insert("a.test".to_owned(), vec![3, 1, 2]);
    let set = set(vec![node("a.test", 1), node("10.9.9.9", 1)], &states, None);
    assert!(set.has_names());
    let now = Instant::now();
    assert_eq!(set.refresh(&resolver, now).await, Some(now + Duration::from_secs(30)));
    let wanted = counts(&[("10.0.0.1", 10), ("10.0.0.2", 10), ("10.0.0.3", 10), ("10.9.9.9", 30)]);
    assert_eq!(shares(&set, 60), wanted);
    let balancer = set.balancer().to_arc();
    let first = &balancer.nodes()[0];
    assert_eq!((&*first.upstream_host, first.domain.as_deref()), ("a.test:81", Some("a.test")));
    assert_eq!(first.address, Some("10.0.0.1:81".parse().unwrap()));
}

#[tokio::test]
async fn changes_keep_the_state_of_what_stays() {
    let (fake, states) = (Arc::new(Fake::default()), Arc::new(NodeStates::new()));
    let resolver: Arc<dyn Resolve> = fake.clone();
    fake.0.lock().unwrap().insert("a.test".to_owned(), vec![1, 2]);
    let set = set(vec![node("a.test", 1)], &states, None);
    let start = Instant::now();
    set.refresh(&resolver, start).await;
    let before = set.balancer().to_arc();
    before.nodes()[1].health.as_ref().unwrap().force(false);

    // not due yet: nothing is asked
    fake.0.lock().unwrap().insert("a.test".to_owned(), vec![3, 2]);
    set.refresh(&resolver, start + Duration::from_secs(29)).await;
    assert!(Arc::ptr_eq(&before, &set.balancer().to_arc()));

    set.refresh(&resolver, start + Duration::from_secs(30)).await;
    assert_eq!(shares(&set, 4), counts(&[("10.0.0.3", 4)]));
    assert!(Arc::ptr_eq(&before.nodes()[1].state, &set.balancer().nodes()[0].state));
    let report = set.settings.health.as_ref().unwrap().report();
    let seen: Vec<_> = report.nodes.iter().map(|node| (&*node.ip, node.status)).collect();
    assert_eq!(seen, [("10.0.0.2", "unhealthy"), ("10.0.0.3", "healthy")]);

    // rotated answers are no change
    let changed = set.balancer().to_arc();
    fake.0.lock().unwrap().insert("a.test".to_owned(), vec![2, 3]);
    set.refresh(&resolver, start + Duration::from_secs(60)).await;
    assert!(Arc::ptr_eq(&changed, &set.balancer().to_arc()));

    // a failure keeps the last good addresses and is tried again soon
    fake.0.lock().unwrap().clear();
    let failed = start + Duration::from_secs(90);
    assert_eq!(set.refresh(&resolver, failed).await, Some(failed + Duration::from_secs(5)));
    assert!(Arc::ptr_eq(&changed, &set.balancer().to_arc()));
}

#[tokio::test]
async fn a_new_set_starts_with_known_addresses() {
    let (fake, states) = (Arc::new(Fake::default()), Arc::new(NodeStates::new()));
    let resolver: Arc<dyn Resolve> = fake.clone();
    fake.0.lock().unwrap().insert("a.test".to_owned(), vec![1]);
    let first = set(vec![node("a.test", 1)], &states, None);
    assert!(first.balancer().pick(&PickInput::default(), &Tried::new()).is_none());
    first.refresh(&resolver, Instant::now()).await;
    let second = set(vec![node("a.test", 1), node("[::1]", 1)], &states, Some(&first));
    assert_eq!(shares(&second, 4), counts(&[("10.0.0.1", 2), ("::1", 2)]));
    assert!(Arc::ptr_eq(&first.balancer().nodes()[0].state, &second.balancer().nodes()[0].state));
}

#[tokio::test]
async fn addresses_only_are_fixed() {
    let resolver: Arc<dyn Resolve> = Arc::new(Fake::default());
    let set = set(vec![node("10.0.0.1", 1)], &Arc::new(NodeStates::new()), None);
    assert!(!set.has_names());
    assert_eq!(set.refresh(&resolver, Instant::now()).await, None);
    assert_eq!(shares(&set, 2), counts(&[("10.0.0.1", 2)]));
}

fn told(hosts: &[(&str, Option<u16>)]) -> ServiceNodes {
    let node = |(host, port): &(&str, Option<u16>)| crate::ServiceNode {
        host: (*host).into(),
        port: *port,
        weight: 1,
        priority: 0,
        metadata: None,
    };
    ServiceNodes { asked: true, nodes: hosts.iter().map(node).collect() }
}

fn service(following: crate::Following, default_port: Option<u16>) -> Service {
    let name = |text: &str| Arc::<str>::from(text);
    let (namespace_id, group_name) = (None, None);
    let query = ServiceQuery { registry: name("dns"), name: name("api"), namespace_id, group_name, grpc: false };
    Service { query, following, default_port }
}

#[tokio::test]
async fn a_services_nodes_change_while_the_set_stays() {
    let (fake, states) = (Arc::new(Fake::default()), Arc::new(NodeStates::new()));
    let resolver: Arc<dyn Resolve> = fake.clone();
    fake.0.lock().unwrap().insert("a.test".to_owned(), vec![7]);
    let (registry, following) = tokio::sync::watch::channel(ServiceNodes::default());
    let mut settings = NodeSetSettings::new("/upstreams/1", "http", BalancerSettings::default());
    let checks = crate::Checks::read(&serde_json::json!({"active": {}})).unwrap();
    let checker = CheckerSettings { key: settings.key.clone(), checks, tls: None, h2c: false, host_header: None };
    settings.health = Some(states.checker(checker));
    let set = NodeSet::follow(settings.clone(), service(following, Some(80)), states.clone(), None).unwrap();
    let set = Arc::new(set);
    assert!(set.moves() && set.balancer().nodes().is_empty());
    let task = tokio::spawn(set.clone().keep_fresh(Some(resolver.clone())));
    registry.send_replace(told(&[("10.0.0.1", None), ("::1", Some(81))]));
    set.settle(Some(&resolver)).await;
    let before = set.balancer().to_arc();
    assert_eq!(before.nodes()[1].upstream_host.as_ref(), "[::1]:81");
    before.nodes()[0].health.as_ref().unwrap().force(false);
    before.nodes()[0].state.enter();
    // told the same again
    registry.send_replace(told(&[("10.0.0.1", None), ("::1", Some(81))]));
    set.settle(None).await;
    assert!(Arc::ptr_eq(&before, &set.balancer().to_arc()));
    // what stays keeps what is known of it, and is probed with what is new
    registry.send_replace(told(&[("10.0.0.1", None), ("a.test", Some(82))]));
    let changed = async {
        while set.balancer().nodes().iter().all(|node| &*node.host != "10.0.0.7") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), changed).await.unwrap();
    assert!(Arc::ptr_eq(&before.nodes()[0].state, &set.balancer().nodes()[0].state));
    let report = set.settings.health.as_ref().unwrap().report();
    let seen: Vec<_> = report.nodes.iter().map(|node| (&*node.ip, node.status)).collect();
    assert_eq!(seen, [("10.0.0.1", "unhealthy"), ("10.0.0.7", "healthy")]);
    // a new form of the upstream begins with what is known
    let again = service(registry.subscribe(), Some(80));
    let next = NodeSet::follow(settings, again, states, Some(&set)).unwrap();
    assert_eq!(next.balancer().nodes().len(), 2);
    registry.send_replace(told(&[]));
    next.settle(None).await;
    assert!(next.balancer().nodes().is_empty());
    task.abort();
}

#[tokio::test]
async fn nodes_without_a_port_need_a_usual_one_and_unresolved_names_do_not_empty_the_set() {
    let (registry, following) = tokio::sync::watch::channel(told(&[("10.0.0.1", None), ("10.0.0.2", Some(9))]));
    let settings = NodeSetSettings::new("/stream_routes/1", "tcp", BalancerSettings::default());
    let set = NodeSet::follow(settings, service(following, None), Arc::new(NodeStates::new()), None).unwrap();
    assert_eq!(shares(&set, 2), counts(&[("10.0.0.2", 2)]));
    registry.send_replace(told(&[("nowhere.test", Some(9))]));
    set.settle(None).await;
    assert_eq!((set.configs().len(), shares(&set, 2)), (1, counts(&[("10.0.0.2", 2)])));
    drop(registry);
    set.settle(None).await;
}
