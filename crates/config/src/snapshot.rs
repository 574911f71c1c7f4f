//! The compiled configuration that workers read, and how it is published to them.
use arc_swap::ArcSwap;
use sluice_net::tls::{CertConfig, SniMap};
use sluice_parts::Parts;
use sluice_plugin::{Chain, ChainEntry, Consumers, RouteInfo, StreamPlugin};
use sluice_router::{Router, StreamRouter};
use sluice_upstream::{Timeouts, Upstream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a route's requests go, unless a plugin decides otherwise.
#[derive(Clone, Debug)]
pub enum RouteUpstream {
    Found(Arc<Upstream>),
    /// `upstream_id` names none.
    Missing,
    /// Neither route nor service has one.
    None,
}

/// Why a route cannot serve although it matches (apisix/init.lua answers 404 and 503).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTrouble {
    MissingService,
    MissingPluginConfig,
}

/// A route with everything resolved.
#[derive(Debug)]
pub struct CompiledRoute {
    pub info: Arc<RouteInfo>,
    pub chain: Arc<Chain>,
    /// Plugins whose configuration stands on the route, by name, before sorting: what a consumer's are merged into.
    pub entries: Vec<ChainEntry>,
    pub upstream: RouteUpstream,
    /// The route's own `timeout`, which stands before the upstream's.
    pub timeouts: Option<Timeouts>,
    pub enable_websocket: bool,
    pub trouble: Option<RouteTrouble>,
}

/// A plugin on a stream route.
pub struct StreamPluginEntry {
    pub name: &'static str,
    pub priority: i32,
    pub plugin: Arc<dyn StreamPlugin>,
}

/// A stream route with everything resolved.
pub struct CompiledStreamRoute {
    pub id: Arc<str>,
    pub name: Option<Arc<str>>,
    /// Higher priority first.
    pub plugins: Vec<StreamPluginEntry>,
    pub upstream: RouteUpstream,
    /// `service_id` names none: connections are closed.
    pub missing_service: bool,
}

/// A chain with a consumer's plugins.
#[derive(Debug)]
pub struct ConsumerChain {
    pub whole: Arc<Chain>,
    /// What the consumer brought: its `rewrite` hooks are still to be run.
    pub fresh: Arc<Chain>,
}

/// What a consumer brings to a route.
#[derive(Clone, Debug, Default)]
pub struct ConsumerPlugins {
    pub entries: Vec<ChainEntry>,
    /// The consumer's group, in [`Snapshot::consumer_groups`] if it exists.
    pub group: Option<Arc<str>>,
}

/// A consumer whose group does not exist.
#[derive(Debug)]
pub struct MissingGroup;

/// Stored upstreams by id.
pub type Upstreams = Parts<Arc<Upstream>>;

/// One state of the whole configuration. Never changed: a new one is published instead, and shares what stayed.
pub struct Snapshot {
    pub revision: u64,
    pub rules: Arc<crate::rules::RequestRules>,
    pub router: Router<Arc<CompiledRoute>>,
    /// Some route's predicates read the request's body.
    pub router_reads_body: bool,
    /// Stream routes.
    pub stream_router: Arc<StreamRouter<Arc<CompiledStreamRoute>>>,
    pub global: Arc<Chain>,
    pub empty_chain: Arc<Chain>,
    pub consumers: Arc<Consumers>,
    /// Some consumer or group has plugins of its own; without, no chain is ever merged.
    pub consumers_bring_plugins: bool,
    /// By the consumer's name.
    pub consumer_plugins: Parts<Arc<ConsumerPlugins>>,
    /// Plugins of consumer groups, by id.
    pub consumer_groups: Parts<Arc<Vec<ChainEntry>>>,
    /// Stored upstreams by id.
    pub upstreams: Upstreams,
    /// Certificates of clients' connections.
    pub certificates: Parts<Arc<CertConfig>>,
    /// Those that upstreams are shown (ssl objects of type client), for who watches when they end.
    pub client_certificates: Parts<Arc<CertConfig>>,
    /// Those of clients' connections by server name.
    pub ssl_names: SniMap<Arc<CertConfig>>,
    /// Those of them that ask clients for one, too, in the order of their ids.
    pub mutual: Arc<BTreeMap<Arc<str>, Arc<CertConfig>>>,
    /// `skip_mtls_uri_regex` of ssl objects that have it, by id.
    pub skip_mtls: Parts<Arc<Vec<sluice_expr::Regex>>>,
}

impl Snapshot {
    /// The chain of a route for a consumer (apisix/plugin.lua `merge_consumer_route`): the group's plugins stand before
    /// the route's, the consumer's before both. `None` where the consumer brings nothing.
    pub fn consumer_chain(&self, route: &CompiledRoute, username: &str) -> Result<Option<ConsumerChain>, MissingGroup> {
        let Some(plugins) = self.consumer_plugins.get(username) else { return Ok(None) };
        let none = Vec::new();
        let group = match &plugins.group {
            None => &none,
            Some(id) => self.consumer_groups.get(id).ok_or(MissingGroup)?,
        };
        if plugins.entries.is_empty() && group.is_empty() {
            return Ok(None);
        }
        let mut merged = route.entries.clone();
        let mut fresh = Vec::new();
        for entry in group.iter().chain(&plugins.entries) {
            match merged.iter_mut().find(|e| e.info.name == entry.info.name) {
                Some(old) => *old = entry.clone(),
                None => merged.push(entry.clone()),
            }
            if !route.entries.iter().any(|e| e.info.name == entry.info.name) {
                fresh.retain(|e: &ChainEntry| e.info.name != entry.info.name);
                fresh.push(entry.clone());
            }
        }
        Ok(Some(ConsumerChain { whole: Arc::new(Chain::new(merged)), fresh: Arc::new(Chain::new(fresh)) }))
    }
}

/// The snapshot in force. Workers compare [`Published::version`] with what they have seen: one relaxed load per request.
pub struct Published {
    version: AtomicU64,
    current: ArcSwap<Snapshot>,
}

impl Published {
    pub fn new(first: Arc<Snapshot>) -> Published {
        Published { version: AtomicU64::new(1), current: ArcSwap::new(first) }
    }
    /// Puts a snapshot into force.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.current.store(snapshot);
        self.version.fetch_add(1, Ordering::Release);
    }
    /// Changes with every publication.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
    /// A version and a snapshot at least as new.
    pub fn load(&self) -> (u64, Arc<Snapshot>) {
        let version = self.version();
        (version, self.current.load_full())
    }
}
