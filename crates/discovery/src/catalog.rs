//! What a registry has told of its services, and who follows which of them.
//!
//! The surprise: nothing is ever forgotten because a registry could not be asked. Nodes go when the registry says so.
use crate::registry::Report;
use foldhash::{HashMap, HashSet};
use serde_json::{Value, json};
use sluice_upstream::{Following, ServiceNode, ServiceNodes};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// The nodes of a service.
pub(crate) type Nodes = Arc<[ServiceNode]>;

/// Which of several servers told of a service.
pub(crate) type Source = usize;

/// What came from a dump file.
pub(crate) const DUMP: Source = usize::MAX;

/// See the file's head. Locked at control time only.
#[derive(Debug)]
pub(crate) struct Catalog {
    name: Arc<str>,
    inner: Mutex<Inner>,
    /// Somebody follows a service that nobody followed before.
    wanted: Notify,
    changes: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<Arc<str>, (Source, Nodes)>,
    followed: HashMap<Arc<str>, watch::Sender<ServiceNodes>>,
    /// The registry as a whole was asked, with or without success.
    asked: bool,
    /// Parts that did not answer when they were last asked.
    away: HashSet<Arc<str>>,
    /// `default_service`: stands in for services that the registry does not know.
    default: Nodes,
}

impl Inner {
    fn nodes(&self, key: &str) -> Nodes {
        self.known.get(key).map_or_else(|| self.default.clone(), |(_, nodes)| nodes.clone())
    }

    /// Tells those who follow a service; whether that was news.
    fn tell(&self, key: &str, asked: bool) -> bool {
        let Some(sender) = self.followed.get(key) else { return false };
        let nodes = self.nodes(key);
        let mut changed = false;
        sender.send_if_modified(|now| {
            changed = now.nodes != nodes;
            let news = changed || (asked && !now.asked);
            now.nodes = nodes;
            now.asked |= asked;
            news
        });
        changed
    }
}

impl Catalog {
    /// `name`: how the registry is called in logs and metrics.
    pub fn new(name: &str) -> Arc<Catalog> {
        Self::with_default(name, None)
    }

    pub fn with_default(name: &str, default: Option<ServiceNode>) -> Arc<Catalog> {
        let inner = Inner { default: default.into_iter().collect(), ..Inner::default() };
        Arc::new(Catalog {
            name: name.into(),
            inner: Mutex::new(inner),
            wanted: Notify::new(),
            changes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // whole after every statement
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows a service; the second value says that nobody did before.
    pub fn follow(&self, key: &Arc<str>) -> (Following, bool) {
        let mut inner = self.lock();
        if let Some(sender) = inner.followed.get(key) {
            return (sender.subscribe(), false);
        }
        let asked = inner.asked || inner.known.contains_key(key);
        let nodes = if asked { inner.nodes(key) } else { Nodes::default() };
        let (sender, following) = watch::channel(ServiceNodes { asked, nodes });
        inner.followed.insert(key.clone(), sender);
        drop(inner);
        self.wanted.notify_one();
        (following, true)
    }

    /// Returns when somebody follows a service that nobody followed before.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The services that somebody follows; the others are let go, with what is known of them.
    pub fn followed(&self) -> Vec<Arc<str>> {
        let mut inner = self.lock();
        let Inner { known, followed, .. } = &mut *inner;
        followed.retain(|key, sender| {
            let kept = sender.receiver_count() > 0;
            if !kept {
                known.remove(key);
            }
            kept
        });
        let mut keys: Vec<Arc<str>> = inner.followed.keys().cloned().collect();
        keys.sort();
        keys
    }

    /// Lets a service go if nobody follows it; whether it is gone.
    pub fn release(&self, key: &str) -> bool {
        let mut inner = self.lock();
        if inner.followed.get(key).is_some_and(|sender| sender.receiver_count() > 0) {
            return false;
        }
        inner.followed.remove(key);
        inner.known.remove(key);
        inner.away.remove(key);
        true
    }

    /// Returns when nobody follows a service.
    pub async fn abandoned(&self, key: &str) {
        let sender = self.lock().followed.get(key).cloned();
        if let Some(sender) = sender {
            sender.closed().await;
        }
    }

    /// Takes in all services that a server tells of; what it told of before and not now is gone.
    pub fn replace(&self, source: Source, services: HashMap<Arc<str>, Nodes>) {
        let mut inner = self.lock();
        inner.asked |= source != DUMP;
        let asked = inner.asked;
        let gone: Vec<Arc<str>> = {
            let of_source = inner.known.iter().filter(|(_, (owner, _))| *owner == source);
            of_source.filter(|(key, _)| !services.contains_key(*key)).map(|(key, _)| key.clone()).collect()
        };
        for key in gone {
            inner.known.remove(&key);
        }
        for (key, nodes) in services {
            inner.known.insert(key, (source, nodes));
        }
        inner.followed.retain(|_, sender| sender.receiver_count() > 0);
        let keys: Vec<Arc<str>> = inner.followed.keys().cloned().collect();
        let changed = keys.iter().filter(|key| inner.tell(key, asked)).count();
        self.changes.fetch_add(changed as u64, Ordering::Relaxed);
    }

    /// Takes in the nodes of one service.
    pub fn set(&self, key: &Arc<str>, nodes: Nodes) {
        let mut inner = self.lock();
        inner.known.insert(key.clone(), (0, nodes));
        let changed = inner.tell(key, true);
        self.changes.fetch_add(u64::from(changed), Ordering::Relaxed);
    }

    /// A service is gone.
    pub fn remove(&self, key: &str) {
        let mut inner = self.lock();
        inner.known.remove(key);
        let changed = inner.tell(key, true);
        self.changes.fetch_add(u64::from(changed), Ordering::Relaxed);
    }

    /// A part of the registry (a server, a name) could not be asked: what is known stays. Said aloud once, until it answers
    /// again.
    pub fn unreached(&self, part: &str, error: &dyn std::fmt::Display) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.lock();
        if inner.away.insert(part.into()) {
            tracing::error!(registry = %self.name, %error, "the registry cannot be asked; what it last told holds");
        } else {
            tracing::debug!(registry = %self.name, %error, "the registry is still away");
        }
        inner.asked = true;
        inner.followed.keys().for_each(|key| {
            inner.tell(key, true);
        });
    }

    /// One service could not be asked for; as [`Catalog::unreached`].
    pub fn unanswered(&self, key: &str) {
        self.lock().tell(key, true);
    }

    /// A part of the registry answered.
    pub fn reached(&self, part: &str) {
        if self.lock().away.remove(part) {
            tracing::warn!(registry = %self.name, part, "the registry answers again");
        }
    }

    /// All that is known, by name.
    pub fn services(&self) -> BTreeMap<Arc<str>, Nodes> {
        self.lock().known.iter().map(|(key, (_, nodes))| (key.clone(), nodes.clone())).collect()
    }

    pub fn report(&self) -> Report {
        let inner = self.lock();
        Report {
            name: self.name.clone(),
            reachable: inner.away.is_empty(),
            services: inner.known.len(),
            followed: inner.followed.values().filter(|sender| sender.receiver_count() > 0).count(),
            changes: self.changes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}

/// A node as APISIX's dumps have it.
pub(crate) fn node_json(node: &ServiceNode) -> Value {
    let mut out = json!({"host": &*node.host, "weight": node.weight});
    if let Some(port) = node.port {
        out["port"] = port.into();
    }
    if node.priority != 0 {
        out["priority"] = node.priority.into();
    }
    if let Some(metadata) = &node.metadata {
        out["metadata"] = (**metadata).clone();
    }
    out
}

/// Services as APISIX's dumps have them.
pub(crate) fn services_json(services: &BTreeMap<Arc<str>, Nodes>) -> Value {
    let list = |nodes: &Nodes| Value::Array(nodes.iter().map(node_json).collect());
    Value::Object(services.iter().map(|(key, nodes)| (key.to_string(), list(nodes))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ports: &[u16]) -> Nodes {
        let node = |port: &u16| ServiceNode {
            host: "10.0.0.1".into(),
            port: Some(*port),
            weight: 1,
            priority: 0,
            metadata: None,
        };
        ports.iter().map(node).collect()
    }

    fn ports(following: &Following) -> Vec<u16> {
        following.borrow().nodes.iter().filter_map(|node| node.port).collect()
    }

    #[tokio::test]
    async fn only_what_changed_is_news() {
        let catalog = Catalog::new("test");
        let (mut a, new) = catalog.follow(&"a".into());
        assert!(new && !a.borrow().asked);
        let (mut b, _) = catalog.follow(&"b".into());
        let told = |a: &[u16]| [("a".into(), nodes(a)), ("b".into(), nodes(&[1]))].into_iter().collect();
        catalog.replace(0, told(&[1, 2]));
        assert!(a.borrow_and_update().asked && b.has_changed().unwrap());
        b.borrow_and_update();
        catalog.replace(0, told(&[2]));
        assert_eq!((ports(&a), b.has_changed().unwrap()), (vec![2], false));
        assert_eq!(catalog.report().changes, 3);
        assert!(!catalog.follow(&"a".into()).1);
    }

    #[tokio::test]
    async fn servers_take_back_only_what_they_told_of() {
        let catalog = Catalog::new("test");
        let (a, _) = catalog.follow(&"a".into());
        catalog.replace(DUMP, [("a".into(), nodes(&[9]))].into_iter().collect());
        assert!(!a.borrow().asked && ports(&a) == [9]);
        catalog.replace(0, [("a".into(), nodes(&[1]))].into_iter().collect());
        catalog.replace(1, [("b".into(), nodes(&[2]))].into_iter().collect());
        catalog.replace(1, HashMap::default());
        assert_eq!((ports(&a), catalog.services().len()), (vec![1], 1));
        catalog.replace(0, HashMap::default());
        assert!(ports(&a).is_empty());
    }

    #[test]
    fn a_server_that_answers_does_not_speak_for_another() {
        let catalog = Catalog::new("test");
        for part in ["a", "b"] {
            catalog.unreached(part, &"gone");
        }
        catalog.reached("a");
        assert!(!catalog.report().reachable);
        catalog.reached("b");
        assert!(catalog.report().reachable && catalog.report().failures == 2);
    }

    #[tokio::test]
    async fn what_is_known_outlives_the_registry() {
        let default = nodes(&[7]).first().cloned();
        let catalog = Catalog::with_default("test", default);
        let (a, _) = catalog.follow(&"a".into());
        catalog.unreached("", &"gone");
        assert_eq!((ports(&a), a.borrow().asked), (vec![7], true));
        catalog.replace(0, [("a".into(), nodes(&[1]))].into_iter().collect());
        catalog.reached("");
        catalog.unreached("", &"gone");
        assert_eq!((ports(&a), catalog.report().reachable), (vec![1], false));
        catalog.remove("a");
        assert_eq!(ports(&a), [7]);
        drop(a);
        assert!(catalog.followed().is_empty() && catalog.report().followed == 0);
    }
}
