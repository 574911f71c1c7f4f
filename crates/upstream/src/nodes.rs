//! An upstream's nodes as configured, and the balancer over the addresses they stand for now.
//!
//! The surprise: APISIX uses one address of a name per resolution (apisix/utils/upstream.lua), Sluice all of them;
//! they share the node's weight. When a name stops resolving, the last addresses stay (APISIX drops the node).
//! Nodes may also come from a service's registry; then they change while the upstream stays.
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};

use crate::balancer::{Balancer, BalancerError, BalancerSettings};
use crate::endpoint::Endpoint;
use crate::health::Checker;
use crate::host_header::node_host;
use crate::registry::NodeStates;
use crate::service::{Service, ServiceNodes, ServiceQuery};

/// Weights are spread exactly over up to this many addresses per name (all divisors of it, to be exact), else rounded.
const WEIGHT_UNITS: u64 = 840;
/// Names asked for at the same time.
const CONCURRENT_LOOKUPS: usize = 16;

/// A node as configured, its port filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// Address (IPv6 with or without brackets) or name.
    pub host: Arc<str>,
    pub port: u16,
    pub weight: u32,
    pub priority: i32,
    pub metadata: Option<Arc<serde_json::Value>>,
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub addresses: Vec<IpAddr>,
    /// How long they hold.
    pub ttl: Duration,
}

/// Why a name has no addresses.
#[derive(Clone, Debug, thiserror::Error)]
#[error("dns resolver domain: {host} error: {reason}")]
pub struct ResolveError {
    pub host: String,
    pub reason: String,
}

/// The answer to come.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Result<Resolved, ResolveError>> + Send + 'a>>;

/// Turns names into addresses. It bounds its own time.
pub trait Resolve: Send + Sync + 'static {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a>;
}

/// What a set of nodes is compiled with.
#[derive(Clone, Debug)]
pub struct NodeSetSettings {
    /// The upstream's resource key, which its nodes' states are kept under.
    pub key: Arc<str>,
    /// The upstream's scheme, for `pass_host: node`.
    pub scheme: Arc<str>,
    pub balancer: BalancerSettings,
    /// Bounds of a record's TTL: between which times a name is asked for again.
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    /// When to ask again after a failure.
    pub retry_after: Duration,
    /// Addresses used of one name; more are ignored.
    pub max_addresses: usize,
    pub health: Option<Arc<Checker>>,
    /// Each node has a circuit breaker.
    pub breakers: bool,
}

impl NodeSetSettings {
    /// Defaults for everything but identity and balancing.
    pub fn new(key: &str, scheme: &str, balancer: BalancerSettings) -> Self {
        NodeSetSettings {
            key: key.into(),
            scheme: scheme.into(),
            balancer,
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(3600),
            retry_after: Duration::from_secs(5),
            max_addresses: 64,
            health: None,
            breakers: false,
        }
    }
}

#[derive(Debug)]
struct Name {
    addresses: Vec<IpAddr>,
    due: Option<Instant>,
}

type Names = HashMap<Arc<str>, Name>;

/// Nodes that may change while their upstream stays.
#[derive(Debug)]
struct Moving {
    configs: Arc<[NodeConfig]>,
    names: Names,
}

/// Nodes and their current balancer. Shared by workers and the task that keeps names fresh.
#[derive(Debug)]
pub struct NodeSet {
    settings: NodeSetSettings,
    service: Option<Service>,
    states: Arc<NodeStates>,
    /// Which form of the upstream this is, for its checker.
    form: u64,
    current: Current,
}

#[derive(Debug)]
enum Current {
    /// Addresses only: nothing ever changes.
    Fixed {
        configs: Arc<[NodeConfig]>,
        balancer: Arc<Balancer>,
    },
    Moving {
        moving: Mutex<Moving>,
        balancer: ArcSwap<Balancer>,
    },
}

/// The balancer at this moment. A request keeps one to its end, as [`crate::Tried`] belongs to it.
pub enum BalancerRef<'a> {
    Fixed(&'a Arc<Balancer>),
    Swapped(Guard<Arc<Balancer>>),
}

impl BalancerRef<'_> {
    /// To keep across awaits.
    pub fn to_arc(&self) -> Arc<Balancer> {
        match self {
            BalancerRef::Fixed(balancer) => Arc::clone(balancer),
            BalancerRef::Swapped(balancer) => Arc::clone(balancer),
        }
    }
}

impl std::ops::Deref for BalancerRef<'_> {
    type Target = Balancer;
    #[inline]
    fn deref(&self) -> &Balancer {
        match self {
            BalancerRef::Fixed(balancer) => balancer,
            BalancerRef::Swapped(balancer) => balancer,
        }
    }
}

/// `host` as an address, if it is one.
fn address(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

fn lock(moving: &Mutex<Moving>) -> MutexGuard<'_, Moving> {
    moving.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The names among nodes, with the addresses that are known of them already.
fn names(configs: &[NodeConfig], known: impl Fn(&Arc<str>) -> Option<Name>) -> Names {
    let named = configs.iter().filter(|config| address(&config.host).is_none());
    let fresh = || Name { addresses: Vec::new(), due: None };
    named.map(|config| (config.host.clone(), known(&config.host).unwrap_or_else(fresh))).collect()
}

impl NodeSet {
    /// Compiles. Names have no addresses until [`NodeSet::refresh`] ran, unless `previous` knows them: give the set
    /// this one replaces, so that a configuration change never waits for DNS.
    pub fn build(
        settings: NodeSetSettings,
        configs: Vec<NodeConfig>,
        states: Arc<NodeStates>,
        previous: Option<&NodeSet>,
    ) -> Result<NodeSet, BalancerError> {
        Self::compiled(settings, configs, None, states, previous)
    }

    /// Compiles a set whose nodes are those of a service, now and later.
    pub fn follow(
        settings: NodeSetSettings,
        service: Service,
        states: Arc<NodeStates>,
        previous: Option<&NodeSet>,
    ) -> Result<NodeSet, BalancerError> {
        let configs = service.nodes(&service.following.borrow());
        Self::compiled(settings, configs, Some(service), states, previous)
    }

    fn compiled(
        settings: NodeSetSettings,
        configs: Vec<NodeConfig>,
        service: Option<Service>,
        states: Arc<NodeStates>,
        previous: Option<&NodeSet>,
    ) -> Result<NodeSet, BalancerError> {
        let names = names(&configs, |host| {
            let addresses = previous.map(|set| set.addresses(host)).unwrap_or_default();
            Some(Name { addresses, due: None })
        });
        let form = settings.health.as_ref().map_or(0, |checker| checker.enter());
        let balancer = compile(&settings, form, &configs, &names, &states)?;
        let configs: Arc<[NodeConfig]> = configs.into();
        let current = if names.is_empty() && service.is_none() {
            Current::Fixed { configs, balancer }
        } else {
            Current::Moving { moving: Mutex::new(Moving { configs, names }), balancer: ArcSwap::new(balancer) }
        };
        Ok(NodeSet { settings, service, states, form, current })
    }

    /// The balancer to pick from.
    #[inline]
    pub fn balancer(&self) -> BalancerRef<'_> {
        match &self.current {
            Current::Fixed { balancer, .. } => BalancerRef::Fixed(balancer),
            Current::Moving { balancer, .. } => BalancerRef::Swapped(balancer.load()),
        }
    }

    /// The nodes as configured, or as their service's registry tells now.
    pub fn configs(&self) -> Arc<[NodeConfig]> {
        match &self.current {
            Current::Fixed { configs, .. } => configs.clone(),
            Current::Moving { moving, .. } => lock(moving).configs.clone(),
        }
    }

    /// The service that the nodes are of.
    pub fn service(&self) -> Option<&ServiceQuery> {
        self.service.as_ref().map(|service| &service.query)
    }

    /// Whether anything but a change of the configuration changes the nodes: names, or a service.
    pub fn moves(&self) -> bool {
        matches!(self.current, Current::Moving { .. })
    }

    /// Whether there are names, which may not be resolved.
    pub fn has_names(&self) -> bool {
        match &self.current {
            Current::Fixed { .. } => false,
            Current::Moving { moving, .. } => !lock(moving).names.is_empty(),
        }
    }

    /// A name's addresses now in use.
    pub fn addresses(&self, host: &str) -> Vec<IpAddr> {
        match &self.current {
            Current::Fixed { .. } => Vec::new(),
            Current::Moving { moving, .. } => {
                lock(moving).names.get(host).map(|name| name.addresses.clone()).unwrap_or_default()
            }
        }
    }

    /// Takes in what the registry tells now. Nodes that stay keep their state and their names' addresses; so does a set
    /// that is told the same again.
    fn take_service(&self, service: &Service, known: &ServiceNodes) {
        let Current::Moving { moving, balancer } = &self.current else { return };
        let configs = service.nodes(known);
        let mut moving = lock(moving);
        if *moving.configs == *configs {
            return;
        }
        let names = {
            let before = &moving.names;
            names(&configs, |host| before.get(host).map(|n| Name { addresses: n.addresses.clone(), due: n.due }))
        };
        match compile(&self.settings, self.form, &configs, &names, &self.states) {
            Ok(compiled) => {
                let (count, service) = (configs.len(), &service.query.name);
                tracing::info!(upstream = %self.settings.key, %service, nodes = count, "the service's nodes changed");
                *moving = Moving { configs: configs.into(), names };
                // None of the new names is resolved yet: until then the nodes before serve on.
                if !compiled.nodes().is_empty() || count == 0 {
                    balancer.store(compiled);
                }
            }
            Err(error) => tracing::error!(upstream = %self.settings.key, %error, "nodes left as they were"),
        }
    }

    /// Waits until the registry was asked for the service, and the nodes' names were resolved once.
    pub async fn settle(&self, resolver: Option<&Arc<dyn Resolve>>) {
        if let Some(service) = &self.service {
            let mut following = service.following.clone();
            // an error: the registry is no more, and nothing will ever come
            let known = following.wait_for(|known| known.asked).await.map(|known| known.clone());
            if let Ok(known) = known {
                self.take_service(service, &known);
            }
        }
        if let Some(resolver) = resolver {
            self.refresh(resolver, Instant::now()).await;
        }
    }

    /// Asks for the names that are due at `now` and swaps the balancer if addresses changed. Returns when to come
    /// again; `None` when there are no names. Names that failed keep their addresses.
    pub async fn refresh(&self, resolver: &Arc<dyn Resolve>, now: Instant) -> Option<Instant> {
        let Current::Moving { moving, balancer } = &self.current else { return None };
        let due: Vec<Arc<str>> = lock(moving)
            .names
            .iter()
            .filter(|(_, name)| name.due.is_none_or(|due| due <= now))
            .map(|(host, _)| host.clone())
            .collect();
        let mut changed = false;
        for hosts in due.chunks(CONCURRENT_LOOKUPS) {
            let mut lookups = tokio::task::JoinSet::new();
            for host in hosts {
                let (host, resolver) = (host.clone(), resolver.clone());
                lookups.spawn(async move {
                    let answer = resolver.resolve(&host).await;
                    (host, answer)
                });
            }
            while let Some(joined) = lookups.join_next().await {
                // a resolver that panicked leaves its name due, asked again after `retry_after`
                let Ok((host, answer)) = joined else { continue };
                changed |= self.take(moving, &host, answer, now);
            }
        }
        let mut moving = lock(moving);
        for host in &due {
            if let Some(name) = moving.names.get_mut(host)
                && name.due.is_none_or(|due| due <= now)
            {
                name.due = Some(now + self.settings.retry_after.max(Duration::from_millis(100)));
            }
        }
        if changed {
            match compile(&self.settings, self.form, &moving.configs, &moving.names, &self.states) {
                Ok(compiled) => balancer.store(compiled),
                Err(error) => tracing::error!(upstream = %self.settings.key, %error, "nodes left as they were"),
            }
        }
        moving.names.values().filter_map(|name| name.due).min()
    }

    /// Takes in one answer; whether the addresses changed.
    fn take(
        &self,
        moving: &Mutex<Moving>,
        host: &Arc<str>,
        answer: Result<Resolved, ResolveError>,
        now: Instant,
    ) -> bool {
        let reason = match answer {
            Ok(mut resolved) if !resolved.addresses.is_empty() => {
                // servers rotate their answers; the order must not count as a change
                resolved.addresses.sort_unstable();
                resolved.addresses.dedup();
                resolved.addresses.truncate(self.settings.max_addresses.max(1));
                let mut moving = lock(moving);
                let Some(name) = moving.names.get_mut(host) else { return false };
                let ttl = resolved.ttl.min(self.settings.max_ttl).max(self.settings.min_ttl);
                name.due = Some(now + ttl.max(Duration::from_millis(100)));
                let changed = name.addresses != resolved.addresses;
                name.addresses = resolved.addresses;
                return changed;
            }
            Ok(_) => "no address".to_owned(),
            Err(error) => error.reason,
        };
        let kept = lock(moving).names.get(host).map_or(0, |name| name.addresses.len());
        tracing::error!(upstream = %self.settings.key, kept, "dns resolver domain: {host} error: {reason}");
        false
    }

    /// Follows the service and keeps names fresh for ever; run it on a control thread and abort it when the set is
    /// replaced.
    pub async fn keep_fresh(self: Arc<Self>, resolver: Option<Arc<dyn Resolve>>) {
        let mut following = self.service.as_ref().map(|service| service.following.clone());
        loop {
            if let (Some(service), Some(following)) = (&self.service, &mut following) {
                let known = following.borrow_and_update().clone();
                self.take_service(service, &known);
            }
            let due = match &resolver {
                Some(resolver) => self.refresh(resolver, Instant::now()).await,
                None => None,
            };
            match (&mut following, due) {
                (None, None) => return,
                (None, Some(due)) => tokio::time::sleep_until(due.into()).await,
                (Some(told), due) => {
                    let changed = match due {
                        Some(due) => tokio::time::timeout_at(due.into(), told.changed()).await.unwrap_or(Ok(())),
                        None => told.changed().await,
                    };
                    if changed.is_err() {
                        following = None;
                    }
                }
            }
        }
    }
}

/// Nodes to endpoints. With several addresses somewhere, all weights are multiplied so that shares can be divided.
fn compile(
    settings: &NodeSetSettings,
    form: u64,
    configs: &[NodeConfig],
    names: &Names,
    states: &NodeStates,
) -> Result<Arc<Balancer>, BalancerError> {
    let shared = names.values().any(|name| name.addresses.len() > 1);
    let scale = |weight: u32, count: usize| -> u32 {
        if !shared || weight == 0 {
            return weight;
        }
        let share = u64::from(weight) * WEIGHT_UNITS / (count.max(1) as u64);
        u32::try_from(share.max(1)).unwrap_or(u32::MAX)
    };
    let mut endpoints = Vec::with_capacity(configs.len());
    let mut members = Vec::new();
    for config in configs {
        let upstream_host: Arc<str> = node_host(&config.host, config.port, &settings.scheme).into();
        let own = address(&config.host);
        let (addresses, domain) = match (&own, names.get(&config.host)) {
            (Some(ip), _) => (std::slice::from_ref(ip), None),
            (None, Some(name)) => (&*name.addresses, Some(config.host.clone())),
            (None, None) => (&[][..], None),
        };
        for ip in addresses {
            let host: Arc<str> = ip.to_string().into();
            let health = settings.health.as_ref().map(|checker| {
                let (address, hostname) = checker.place(*ip, config.port);
                let target = states.target(&settings.key, address, hostname);
                members.push(checker.member(target.clone(), domain.as_ref()));
                target
            });
            endpoints.push(Endpoint {
                state: states.get(&settings.key, &host, config.port),
                breaker: settings.breakers.then(|| states.breaker(&settings.key, Some((&host, config.port)))),
                host,
                port: config.port,
                weight: scale(config.weight, addresses.len()),
                priority: config.priority,
                domain: domain.clone(),
                upstream_host: upstream_host.clone(),
                address: Some(SocketAddr::new(*ip, config.port)),
                metadata: config.metadata.clone(),
                health,
            });
        }
    }
    let balancer = Balancer::build(&settings.balancer, endpoints).map(Arc::new)?;
    if let Some(checker) = &settings.health {
        checker.set_members(form, members);
    }
    Ok(balancer)
}

#[cfg(test)]
mod tests;
