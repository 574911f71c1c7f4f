//! Raw resources to a [`Snapshot`], incrementally: only what a change touches is compiled again, everything else is the
//! same `Arc` as before, so that pools, counters and health live on.
//!
//! The surprise: a resource that does not compile keeps its last good form if it had one, and is left out otherwise;
//! either way it is reported and the rest goes on.
mod accepted;
mod balancing;
mod chain;
mod consumer;
mod inline;
mod resilience;
mod route;
mod secrets;
mod ssl;
mod stream_route;
mod upstream;

pub use accepted::accepted;
pub use route::predicates;

use crate::snapshot::{CompiledRoute, Snapshot, Upstreams};
use crate::standalone::Changes;
use foldhash::{HashMap, HashMapExt, HashSet};
use serde_json::Value;
use sluice_engine_grpc::Library;
use sluice_model::validate::{Parsers, PluginScope, Plugins, References};
use sluice_model::{Body, Kind, validate};
use sluice_net::tls::SniMap;
use sluice_parts::Parts;
use sluice_plugin::{Chain, ChainEntry, Consumers, Env, HttpClient, HttpOptions, Registry, Scope, Scripts};
use sluice_router::{Mode, Router};
use sluice_secret::{Keyring, SecretStore};
use sluice_upstream::pool::PoolSettings;
use sluice_upstream::{Discover, NodeSet, NodeStates, Resolve, Upstream};
use std::sync::Arc;

/// A resource as a source delivers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub kind: Kind,
    /// As in the etcd key: of a credential `<username>/credentials/<id>`, of a secret `<manager>/<id>`.
    pub id: Arc<str>,
    pub body: Body,
}

/// A difference between two states of the stored configuration.
#[derive(Clone, Debug, Default)]
pub struct ChangeSet {
    pub upserts: Vec<Object>,
    pub deletes: Vec<(Kind, Arc<str>)>,
}

impl ChangeSet {
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.deletes.is_empty()
    }
}

/// A resource that could not be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub kind: Kind,
    pub id: Arc<str>,
    /// JSON pointer within the resource.
    pub path: String,
    pub message: String,
    /// The last good form of the resource stays in force.
    pub kept: bool,
    /// The nearest valid word.
    pub nearest: Option<String>,
}

/// Settings of config.yaml that compilation needs.
#[derive(Clone)]
pub struct CompileSettings {
    pub mode: Mode,
    /// What is done to a request before its route is looked for.
    pub rules: Arc<crate::rules::RequestRules>,
    /// For upstreams without `keepalive_pool`.
    pub pool: PoolSettings,
    /// For upstreams without `retries`… stays None: APISIX's rule holds.
    pub workers: u16,
    /// `apisix.ssl.ssl_trusted_certificate`, PEM: what upstreams with `tls.verify` are checked against.
    pub trusted_certificates: Option<String>,
    /// `apisix.ssl.ssl_protocols`: of ssl objects that name none.
    pub protocols: sluice_net::tls::Protocols,
    pub resolver: Option<Arc<dyn Resolve>>,
    /// The registries of `discovery`.
    pub discovery: Option<Arc<dyn Discover>>,
    /// Upstreams' `checks` are in force (`apisix.disable_upstream_healthcheck` is not set).
    pub health_checks: bool,
    /// A plugin that config.yaml does not list is passed over instead of taking its object with it. APISIX does so with what a
    /// store holds, and not with files.
    pub skip_disabled_plugins: bool,
    /// Probes of the process at a time.
    pub health_probes: usize,
    /// Where this gateway runs, for `zone_preference`.
    pub zone: Option<Arc<str>>,
}

/// One worker, and nothing that needs the network.
impl Default for CompileSettings {
    fn default() -> CompileSettings {
        CompileSettings {
            mode: Mode::Uri,
            rules: Arc::default(),
            pool: PoolSettings::default(),
            workers: 1,
            trusted_certificates: None,
            protocols: sluice_net::tls::Protocols::default(),
            resolver: None,
            discovery: None,
            health_checks: false,
            skip_disabled_plugins: false,
            health_probes: 64,
            zone: None,
        }
    }
}

/// What a change came to.
pub struct Applied {
    pub snapshot: Arc<Snapshot>,
    pub problems: Vec<Problem>,
    /// What was looked at: problems of these that are not named above are no more.
    pub compiled: HashSet<(Kind, Arc<str>)>,
    /// New sets of nodes whose names should be resolved, or whose services be known, before the snapshot is published.
    pub unresolved: Vec<Arc<NodeSet>>,
}

/// The plugins that may be configured; `None`: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enabled {
    pub plugins: Option<Vec<String>>,
    pub stream_plugins: Option<Vec<String>>,
}

pub use secrets::PluginSecrets;

pub(crate) type Typed<T> = HashMap<Arc<str>, Arc<T>>;

/// Holds the last accepted form of every resource and what was compiled from it.
pub struct Compiler {
    /// All plugins of the binary, and those that may be configured now.
    all: Arc<Registry>,
    registry: Arc<Registry>,
    enabled: Enabled,
    env: Env,
    settings: CompileSettings,
    states: Arc<NodeStates>,
    objects: HashMap<Kind, HashMap<Arc<str>, Body>>,
    services: Typed<sluice_model::Service>,
    plugin_configs: Typed<sluice_model::PluginConfig>,
    /// What every accepted route refers to. The route itself is read again from its text when that changes.
    references: HashMap<Arc<str>, route::References>,
    /// Plugins of services and plugin configs, built once and shared by their routes.
    shared_entries: HashMap<(Kind, Arc<str>), Arc<Vec<ChainEntry>>>,
    upstreams: Upstreams,
    service_upstreams: HashMap<Arc<str>, Arc<Upstream>>,
    compiled: HashMap<Arc<str>, Arc<CompiledRoute>>,
    /// Routes by what they refer to.
    dependents: HashMap<(Kind, Arc<str>), HashSet<Arc<str>>>,
    /// Everything is to be compiled with the next change, whatever that is.
    anew: bool,
    streams: stream_route::StreamRoutes,
    tls: upstream::TlsCache,
    inline: inline::InlineUpstreams,
    /// All ssl objects that are valid.
    ssls: ssl::Ssls,
    /// Stored upstreams by the ssl object whose certificate they show, and the other way round.
    showing: HashMap<Arc<str>, HashSet<Arc<str>>>,
    shown: HashMap<Arc<str>, Arc<str>>,
    /// Services by the upstream that they name.
    services_by_upstream: HashMap<Arc<str>, HashSet<Arc<str>>>,
    users: consumer::Users,
    snapshot: Arc<Snapshot>,
    body_readers: HashSet<Arc<str>>,
    secrets: secrets::Secrets,
}

impl Compiler {
    pub fn new(registry: Arc<Registry>, env: Env, settings: CompileSettings) -> Compiler {
        let empty_chain = Arc::new(Chain::default());
        let upstreams = Upstreams::default();
        let snapshot = Arc::new(Snapshot {
            revision: 0,
            rules: settings.rules.clone(),
            router: Router::new(settings.mode),
            router_reads_body: false,
            stream_router: Arc::default(),
            global: empty_chain.clone(),
            empty_chain,
            consumers: Arc::new(Consumers::default()),
            consumers_bring_plugins: false,
            consumer_plugins: Parts::default(),
            consumer_groups: Parts::default(),
            upstreams: upstreams.clone(),
            certificates: Parts::default(),
            client_certificates: Parts::default(),
            ssl_names: SniMap::default(),
            mutual: Arc::default(),
            skip_mtls: Parts::default(),
        });
        Compiler {
            all: registry.clone(),
            registry,
            enabled: Enabled::default(),
            env,
            states: Arc::new(NodeStates::with_probes(settings.health_probes)),
            settings,
            objects: HashMap::new(),
            services: HashMap::new(),
            plugin_configs: HashMap::new(),
            references: HashMap::new(),
            shared_entries: HashMap::new(),
            upstreams,
            service_upstreams: HashMap::new(),
            compiled: HashMap::new(),
            dependents: HashMap::new(),
            anew: false,
            streams: stream_route::StreamRoutes::default(),
            tls: upstream::TlsCache::default(),
            inline: inline::InlineUpstreams::default(),
            ssls: ssl::Ssls::default(),
            showing: HashMap::new(),
            shown: HashMap::new(),
            services_by_upstream: HashMap::new(),
            users: consumer::Users::default(),
            snapshot,
            body_readers: HashSet::default(),
            secrets: secrets::Secrets::default(),
        }
    }

    /// Resolves `$secret://` references with this store; without, they stay as they are. `$env://` is resolved anyway.
    pub fn with_secrets(mut self, store: Arc<SecretStore>) -> Compiler {
        self.secrets.store = store;
        self
    }

    /// Decrypts what is stored encrypted with these keys.
    pub fn with_keyring(mut self, keyring: Arc<Keyring>) -> Compiler {
        self.secrets.keyring = keyring;
        self
    }

    /// The snapshot of the last change.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The plugins that may be configured now.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The engine for Lua of the configuration, where there is one.
    pub fn scripts(&self) -> Option<Arc<dyn Scripts>> {
        self.env.scripts().cloned()
    }

    /// What is remembered of every node, and what health checks have found.
    pub fn states(&self) -> &Arc<NodeStates> {
        &self.states
    }

    /// A client as plugins have it, for what is fetched beside requests.
    pub fn http_client(&self, options: &HttpOptions) -> HttpClient {
        self.env.http_client(options)
    }

    /// The stored form of a resource.
    pub fn object(&self, kind: Kind, id: &str) -> Option<&Body> {
        self.objects.get(&kind)?.get(id)
    }

    /// Lets only these plugins be configured. Other lists than before make every resource be compiled anew with the next
    /// change.
    pub fn enable(&mut self, enabled: Enabled) {
        if enabled == self.enabled {
            return;
        }
        let mut registry = (*self.all).clone();
        if let Some(names) = &enabled.plugins {
            registry = registry.enable_only(names);
        }
        if let Some(names) = &enabled.stream_plugins {
            registry = registry.enable_only_stream(names);
        }
        self.registry = Arc::new(registry);
        self.env = self.env.clone().with_registry(self.registry.clone());
        self.enabled = enabled;
        self.anew = true;
    }

    /// `plugin_attr` of config.yaml, from now on; everything is compiled anew with the next change.
    pub fn set_attributes(&mut self, attributes: Value) {
        self.env = self.env.clone().with_attributes(attributes);
        self.anew = true;
    }

    /// Applies the whole state of a source: what it does not name any more is deleted.
    pub fn replace_all(&mut self, objects: Vec<Object>) -> Applied {
        let named: HashSet<(Kind, Arc<str>)> = objects.iter().map(|o| (o.kind, o.id.clone())).collect();
        let known = self.objects.iter().flat_map(|(kind, all)| all.keys().map(|id| (*kind, id.clone())));
        let deletes = known.filter(|key| !named.contains(key)).collect();
        self.streams.arrange(objects.iter().filter(|o| o.kind == Kind::StreamRoute).map(|o| o.id.clone()).collect());
        self.apply(ChangeSet { upserts: objects, deletes })
    }

    /// Applies a change. What is not different costs a comparison; if nothing is, the snapshot is the old one.
    pub fn apply(&mut self, change: ChangeSet) -> Applied {
        let mut work = Work::default();
        let anew = std::mem::take(&mut self.anew);
        let mut upserts = change.upserts;
        if anew {
            let named: HashSet<(Kind, Arc<str>)> = upserts.iter().map(|o| (o.kind, o.id.clone())).collect();
            let deleted: HashSet<&(Kind, Arc<str>)> = change.deletes.iter().collect();
            let stored =
                self.objects.iter().flat_map(|(kind, all)| all.iter().map(|(id, body)| ((*kind, id.clone()), body)));
            let others = stored.filter(|(key, _)| !named.contains(key) && !deleted.contains(key));
            upserts.extend(others.map(|((kind, id), body)| Object { kind, id, body: body.clone() }));
        }
        for (kind, id) in change.deletes {
            if self.objects.get_mut(&kind).and_then(|all| all.remove(&id)).is_some() {
                self.secrets.forget(kind, &id);
                work.deleted.push((kind, id));
            }
        }
        // Secret managers first: the others' references are asked of them.
        let (managers, others): (Vec<_>, Vec<_>) = upserts.into_iter().partition(|o| o.kind == Kind::Secret);
        self.accept_different(managers, anew, &mut work);
        self.configure_secrets(&work);
        self.accept_different(others, anew, &mut work);
        if work.is_empty() && !self.streams.is_reordered() {
            self.secrets.clean_up();
            return work.applied(self.snapshot.clone());
        }
        self.compile(work)
    }

    /// Applies what a standalone file brings.
    pub fn update(&mut self, changes: Changes) -> Applied {
        match changes {
            Changes::Whole(objects) => self.replace_all(objects),
            Changes::Part(change) => self.apply(change),
        }
    }

    fn accept_different(&mut self, objects: Vec<Object>, anew: bool, work: &mut Work) {
        for object in objects {
            if anew || self.object(object.kind, &object.id).is_none_or(|old| *old != object.body) {
                self.accept(object, work);
            }
        }
    }

    /// Validates a resource; a good one becomes its stored form. Routes' turn comes when they are compiled.
    fn accept(&mut self, object: Object, work: &mut Work) {
        if object.kind == Kind::Route {
            return work.routes.push(object);
        }
        let (kind, id) = (object.kind, object.id.clone());
        if let Some(body) = self.checked(object, work) {
            work.changed.push((kind, id, body));
        }
    }

    /// The body of a resource with its defaults, if it is valid.
    fn checked(&mut self, object: Object, work: &mut Work) -> Option<Value> {
        work.compiled.insert((object.kind, object.id.clone()));
        let parsed = object.body.parse();
        // The source's text is remembered even where it is refused, so that the same text is not tried again and again.
        let known = self.objects.entry(object.kind).or_default().insert(object.id.clone(), object.body).is_some();
        let mut body = match parsed {
            Ok(body) => body,
            Err(error) => {
                let message = format!("invalid JSON: {error}");
                let (kind, id) = (object.kind, object.id);
                work.problems.push(Problem { kind, id, path: String::new(), message, kept: known, nearest: None });
                return None;
            }
        };
        let resolution = self.plain(object.kind, &object.id, &mut body);
        let result = self.validate(object.kind, &object.id, &mut body);
        let result = result.map_err(|e| validate::Invalid { message: resolution.redact(&e.message), ..e });
        self.secrets.remember(object.kind, &object.id, &resolution);
        match result {
            Ok(()) => Some(body),
            Err(invalid) => {
                work.problems.push(Problem {
                    kind: object.kind,
                    id: object.id,
                    path: invalid.path,
                    message: invalid.message,
                    kept: known,
                    nearest: invalid.violation.and_then(|v| v.nearest),
                });
                None
            }
        }
    }

    fn validate(&self, kind: Kind, id: &str, body: &mut Value) -> Result<(), validate::Invalid> {
        let scripts = self.env.scripts().map(AsRef::as_ref);
        accepted::check(&self.registry, scripts, self.settings.skip_disabled_plugins, kind, id, body)
    }

    fn compile(&mut self, work: Work) -> Applied {
        let mut work = work;
        let kinds: HashSet<Kind> =
            work.changed.iter().map(|(k, ..)| *k).chain(work.deleted.iter().map(|(k, _)| *k)).collect();
        let mut next = Snapshot {
            revision: self.snapshot.revision + 1,
            rules: self.snapshot.rules.clone(),
            router: self.snapshot.router.clone(),
            router_reads_body: self.snapshot.router_reads_body,
            stream_router: self.snapshot.stream_router.clone(),
            global: self.snapshot.global.clone(),
            empty_chain: self.snapshot.empty_chain.clone(),
            consumers: self.snapshot.consumers.clone(),
            consumers_bring_plugins: self.snapshot.consumers_bring_plugins,
            consumer_plugins: self.snapshot.consumer_plugins.clone(),
            consumer_groups: self.snapshot.consumer_groups.clone(),
            upstreams: self.snapshot.upstreams.clone(),
            certificates: self.snapshot.certificates.clone(),
            client_certificates: self.snapshot.client_certificates.clone(),
            ssl_names: self.snapshot.ssl_names.clone(),
            mutual: self.snapshot.mutual.clone(),
            skip_mtls: self.snapshot.skip_mtls.clone(),
        };
        if kinds.contains(&Kind::PluginMetadata) {
            self.collect_metadata();
        }
        if kinds.contains(&Kind::Proto) {
            self.set_protos(&mut work);
        }
        if kinds.contains(&Kind::Ssl) {
            self.compile_ssls(&mut work, &mut next);
        }
        self.compile_upstreams(&mut work);
        next.upstreams = self.upstreams.clone();
        let inline = Arc::new(inline::InlineCompiler {
            settings: self.settings.clone(),
            states: self.states.clone(),
            tls: self.tls.clone(),
            ssls: self.ssls.clone(),
            known: self.inline.clone(),
        });
        self.env = self.env.clone().with_upstreams(inline);
        self.compile_shared(&mut work, &kinds);
        if kinds.contains(&Kind::GlobalRule) || kinds.contains(&Kind::PluginMetadata) {
            next.global = Arc::new(self.compile_global(&mut work));
        }
        let consumer_kinds = [Kind::Consumer, Kind::Credential, Kind::ConsumerGroup, Kind::PluginMetadata];
        if consumer_kinds.iter().any(|k| kinds.contains(k)) {
            self.compile_consumers(&mut work, kinds.contains(&Kind::PluginMetadata), &mut next);
        }
        next.router = self.compile_routes(&mut work, &kinds, next.router);
        next.router_reads_body = !self.body_readers.is_empty();
        next.stream_router = self.compile_stream_routes(&mut work, &kinds, &next.stream_router);
        self.snapshot = Arc::new(next);
        work.unresolved.extend(self.inline.settle(&self.states));
        self.secrets.clean_up();
        self.secrets.redact(&mut work.problems);
        work.applied(self.snapshot.clone())
    }

    /// The accepted forms of all resources of a kind, defaults injected.
    fn accepted(&self, kind: Kind) -> Vec<(Arc<str>, Value)> {
        let all = self.objects.get(&kind).into_iter().flatten();
        let mut found: Vec<(Arc<str>, Value)> =
            all.filter_map(|(id, _)| Some((id.clone(), self.accepted_one(kind, id)?))).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// The accepted form of a resource, defaults injected.
    fn accepted_one(&self, kind: Kind, id: &str) -> Option<Value> {
        let mut body = self.object(kind, id)?.value();
        self.plain(kind, id, &mut body);
        self.validate(kind, id, &mut body).ok().map(|()| body)
    }

    fn collect_metadata(&mut self) {
        let all = self.accepted(Kind::PluginMetadata).into_iter().map(|(id, value)| (id.to_string(), value)).collect();
        self.env = self.env.clone().with_metadata(Arc::new(all));
    }

    /// What uses a proto resource sees it change in its place: nothing is compiled anew for it.
    fn set_protos(&self, work: &mut Work) {
        let Some(library) = self.env.part::<Library>() else { return };
        for (id, body) in work.changed_of(Kind::Proto) {
            if let Err(error) = library.set(&id, body["content"].as_str().unwrap_or_default()) {
                work.problem(Kind::Proto, &id, "/content", error.0);
            }
        }
        for id in work.deleted_of(Kind::Proto) {
            library.remove(&id);
        }
    }
}

/// One change on its way through the compiler.
#[derive(Default)]
struct Work {
    /// Accepted, defaults injected.
    changed: Vec<(Kind, Arc<str>, Value)>,
    /// Routes that changed. There are many: each is read, compiled and let go before the next.
    routes: Vec<Object>,
    deleted: Vec<(Kind, Arc<str>)>,
    problems: Vec<Problem>,
    unresolved: Vec<Arc<NodeSet>>,
    compiled: HashSet<(Kind, Arc<str>)>,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.deleted.is_empty() && self.routes.is_empty()
    }

    fn applied(self, snapshot: Arc<Snapshot>) -> Applied {
        Applied { snapshot, problems: self.problems, compiled: self.compiled, unresolved: self.unresolved }
    }

    fn problem(&mut self, kind: Kind, id: &Arc<str>, path: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            kind,
            id: id.clone(),
            path: path.into(),
            message: message.into(),
            kept: false,
            nearest: None,
        });
    }

    fn changed_of(&self, kind: Kind) -> Vec<(Arc<str>, Value)> {
        self.changed.iter().filter(|(k, ..)| *k == kind).map(|(_, id, value)| (id.clone(), value.clone())).collect()
    }

    fn deleted_of(&self, kind: Kind) -> Vec<Arc<str>> {
        self.deleted.iter().filter(|(k, _)| *k == kind).map(|(_, id)| id.clone()).collect()
    }
}

/// What the model's checks ask of the other crates.
struct Bridge<'a> {
    registry: &'a Registry,
    scripts: Option<&'a dyn Scripts>,
}

impl Plugins for Bridge<'_> {
    fn check(&self, name: &str, scope: PluginScope, conf: &mut Value) -> Result<(), String> {
        let scope = match scope {
            PluginScope::Route => Scope::Route,
            PluginScope::Consumer => Scope::Consumer,
            PluginScope::Metadata => Scope::Metadata,
            PluginScope::Stream => Scope::Stream,
        };
        self.registry.check(name, scope, conf).map_err(|e| e.0)
    }
    fn exists(&self, name: &str, scope: PluginScope) -> bool {
        match scope {
            PluginScope::Stream => self.registry.get_stream(name).is_some(),
            _ => self.registry.get(name).is_some(),
        }
    }
    fn is_auth(&self, name: &str) -> bool {
        self.registry.get(name).is_some_and(|d| d.info.auth)
    }
}

/// Files are not checked for references: what is missing shows when a request needs it, as in APISIX.
impl References for Bridge<'_> {
    fn exists(&self, _kind: Kind, _id: &str) -> bool {
        true
    }
    fn get(&self, _kind: Kind, _id: &str) -> Option<Value> {
        None
    }
    fn global_rule_with(&self, _plugin: &str, _except: Option<&str>) -> Option<String> {
        None
    }
    fn key_owner(&self, _plugin: &str, _field: &str, _value: &str) -> Option<validate::KeyOwner> {
        None
    }
}

impl Parsers for Bridge<'_> {
    fn vars(&self, expression: &Value) -> Result<(), String> {
        sluice_expr::Expr::compile(expression).map(|_| ()).map_err(|e| e.0)
    }
    fn certificate(&self, pem: &str) -> Result<(), String> {
        ssl::check_certificate(pem)
    }
    fn private_key(&self, pem: &str) -> Result<(), String> {
        ssl::check_private_key(pem)
    }
    fn proto(&self, content: &str) -> Result<(), String> {
        sluice_engine_grpc::Definition::compile(content).map(|_| ()).map_err(|error| error.0)
    }
    fn lua(&self, purpose: validate::Lua, source: &str) -> Result<(), String> {
        match self.scripts {
            // What a script returns is only looked at when it is written (apisix/admin/routes.lua); one that returns
            // nothing does nothing (apisix/script.lua).
            Some(scripts) if purpose != validate::Lua::Script => scripts.check(purpose, source),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
