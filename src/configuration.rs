//! The configuration in force: changes of a source compiled, resolved, published. Files and stores alike end here.
//! The surprise: a change never waits long for DNS; nodes whose names have no addresses yet get them afterwards.
use crate::certificates::Certificates;
use anyhow::Context as _;
use serde_json::Value;
use sluice_config::settings::plugins::Plugins;
use sluice_config::standalone::{StandaloneSource, Update};
use sluice_config::{Applied, ChangeSet, Compiler, Enabled, Object, Problem, Published, RouteUpstream, Snapshot};
use sluice_model::{Body, Kind};
use sluice_net::timer;
use sluice_plugin::Registry;
use sluice_store::key::PLUGINS;
use sluice_store::{Batch, Event, Source, State, Store, Watch};
use sluice_upstream::{NodeSet, NodeStates, NodeStatus, Resolve, Upstream};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};

/// How long the first configuration waits for the names of its nodes before it is put into force without them.
const FIRST_RESOLVE_LIMIT: Duration = Duration::from_secs(3);
/// The same for a change of a running configuration.
const RESOLVE_LIMIT: Duration = Duration::from_millis(300);
/// How long the first configuration waits for secrets that were never fetched before.
const FIRST_SECRETS_LIMIT: Duration = Duration::from_secs(3);
/// The same for a change: who writes it and sends a request at once should find it complete.
const SECRETS_LIMIT: Duration = Duration::from_secs(1);
/// Batches of a store that are compiled together when they wait.
const GATHERED: usize = 256;

pub struct Configuration {
    published: Arc<Published>,
    compiler: Mutex<Compiler>,
    /// Held from compiling to publishing, so that no older snapshot follows a newer one.
    turn: tokio::sync::Mutex<()>,
    certificates: Certificates,
    resolver: Option<Arc<dyn Resolve>>,
    /// `plugins` and `stream_plugins` of config.yaml; a list in the source stands before them.
    enabled: Mutex<Enabled>,
    /// The store's revision that is in force.
    in_force: watch::Sender<u64>,
    /// What is left out now, and why.
    problems: Mutex<BTreeMap<(Kind, Arc<str>), Problem>>,
    ready: AtomicBool,
    /// The source has a list of plugins of its own.
    source_names_plugins: AtomicBool,
    history: History,
}

/// What became of changes so far.
#[derive(Debug, Default)]
struct History {
    /// Milliseconds since the epoch when a snapshot was published last.
    changed: AtomicU64,
    /// Objects that did not compile, each time they were looked at.
    rejected: AtomicU64,
    /// Times that the source could not be read.
    unreadable: AtomicU64,
    /// The source could not be read when it was last tried.
    is_unreadable: AtomicBool,
}

/// [`Configuration::figures`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfigurationFigures {
    /// Of the snapshot in force.
    pub revision: u64,
    /// Milliseconds since the epoch when it came into force; 0: none did.
    pub changed: u64,
    pub rejected: u64,
    pub unreadable: u64,
    pub is_unreadable: bool,
}

/// A compiled change on its way into force.
struct Change {
    before: Arc<Snapshot>,
    snapshot: Arc<Snapshot>,
    unresolved: Vec<Arc<NodeSet>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Configuration {
    pub fn new(
        compiler: Compiler,
        certificates: Certificates,
        resolver: Option<Arc<dyn Resolve>>,
        enabled: Enabled,
    ) -> Configuration {
        Configuration {
            published: Arc::new(Published::new(compiler.snapshot().clone())),
            compiler: Mutex::new(compiler),
            turn: tokio::sync::Mutex::default(),
            certificates,
            resolver,
            enabled: Mutex::new(enabled),
            in_force: watch::Sender::new(0),
            problems: Mutex::default(),
            ready: AtomicBool::new(false),
            source_names_plugins: AtomicBool::new(false),
            history: History::default(),
        }
    }

    /// For metrics.
    pub fn figures(&self) -> ConfigurationFigures {
        let history = &self.history;
        ConfigurationFigures {
            revision: self.published.load().1.revision,
            changed: history.changed.load(Ordering::Relaxed),
            rejected: history.rejected.load(Ordering::Relaxed),
            unreadable: history.unreadable.load(Ordering::Relaxed),
            is_unreadable: history.is_unreadable.load(Ordering::Relaxed),
        }
    }

    /// The source cannot be read as a whole; what is in force stays.
    pub fn source_is_unreadable(&self) {
        self.history.unreadable.fetch_add(1, Ordering::Relaxed);
        self.history.is_unreadable.store(true, Ordering::Relaxed);
    }

    pub fn published(&self) -> Arc<Published> {
        self.published.clone()
    }

    /// The plugins that may be configured now.
    pub fn registry(&self) -> Arc<Registry> {
        lock(&self.compiler).registry().clone()
    }

    /// Checks Lua source as the running configuration takes it.
    pub fn check_lua(&self, purpose: sluice_model::Lua, source: &str) -> Result<(), String> {
        let scripts = lock(&self.compiler).scripts();
        scripts.map_or(Ok(()), |scripts| scripts.check(purpose, source))
    }

    /// Builds what a checked body configures as far as that may fail; nothing comes into force.
    pub fn try_build(&self, kind: Kind, id: &str, body: &serde_json::Value) -> Result<(), String> {
        lock(&self.compiler).try_build(kind, id, body)
    }

    pub fn in_force(&self) -> watch::Receiver<u64> {
        self.in_force.subscribe()
    }

    /// Objects that are left out or kept at their last good form.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = lock(&self.problems).values().cloned().collect();
        problems.extend(self.certificates.problems());
        problems
    }

    /// The certificates that clients see.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// What there is to tell of them.
    pub fn certificate_reports(&self) -> Vec<Value> {
        self.certificates.reports(&self.published.load().1)
    }

    /// The stored forms of a kind, by id.
    pub fn bodies(&self, kind: Kind) -> Vec<(Arc<str>, Body)> {
        lock(&self.compiler).bodies(kind)
    }

    pub fn body(&self, kind: Kind, id: &str) -> Option<Body> {
        lock(&self.compiler).object(kind, id).cloned()
    }

    /// The upstream that a resource is or has.
    pub fn upstream_of(&self, kind: Kind, id: &str) -> Option<Arc<Upstream>> {
        let snapshot = self.published.load().1;
        let of_route = |upstream: &RouteUpstream| match upstream {
            RouteUpstream::Found(upstream) => Some(upstream.clone()),
            RouteUpstream::Missing | RouteUpstream::None => None,
        };
        match kind {
            Kind::Upstream => snapshot.upstreams.get(id).cloned(),
            Kind::Route => of_route(&snapshot.router.get(id)?.upstream),
            Kind::StreamRoute => of_route(&snapshot.stream_router.iter().find(|route| *route.id == *id)?.upstream),
            Kind::Service => lock(&self.compiler).service_upstream(id).cloned(),
            _ => None,
        }
    }

    /// What is remembered of every node and upstream.
    pub fn states(&self) -> Arc<NodeStates> {
        lock(&self.compiler).states().clone()
    }

    /// The state of the nodes of the upstream that a resource is or has, for status pages.
    pub fn nodes_of(&self, kind: Kind, id: &str) -> Option<Vec<NodeStatus>> {
        Some(self.upstream_of(kind, id)?.status(timer::unix_ms_coarse()))
    }

    /// Whether a configuration was taken in: a file that could be read, a store's state.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// An empty configuration is one too.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// config.yaml's lists and attributes of plugins, from now on: everything is compiled with them.
    pub async fn reload_plugins(&self, plugins: Plugins) {
        let _turn = self.turn.lock().await;
        let enabled = enabled(&plugins);
        let change = tokio::task::block_in_place(|| {
            let named = self.source_names_plugins.load(Ordering::Relaxed);
            *lock(&self.enabled) = enabled.clone();
            lock(&self.compiler).set_attributes(Value::Object(plugins.plugin_attr));
            self.compile(Some(enabled).filter(|_| !named), |compiler| compiler.apply(ChangeSet::default()))
        });
        self.put_into_force(change, false).await;
    }

    /// Takes in what a file brings; `first`: nothing is served yet.
    pub async fn update(&self, source: &StandaloneSource, update: Update, first: bool) {
        let _turn = self.turn.lock().await;
        self.history.is_unreadable.store(false, Ordering::Relaxed);
        let change = tokio::task::block_in_place(|| self.compile_update(source, update));
        self.put_into_force(change, first).await;
        self.ready.store(true, Ordering::Release);
    }

    fn compile_update(&self, source: &StandaloneSource, update: Update) -> Change {
        let named = update.plugins.as_ref().map(|list| {
            let names = |stream| Some(list.iter().filter(|p| p.stream == stream).map(|p| p.name.clone()).collect());
            Enabled { plugins: names(false), stream_plugins: names(true) }
        });
        self.source_names_plugins.store(named.is_some(), Ordering::Relaxed);
        let mut compiler = lock(&self.compiler);
        let before = compiler.snapshot().clone();
        compiler.enable(named.unwrap_or_else(|| lock(&self.enabled).clone()));
        let applied = compiler.update(update.changes);
        source.applied(update.revision);
        update.notices.iter().for_each(|n| tracing::warn!(always = true, "{n}"));
        update.errors.iter().for_each(|e| tracing::error!(always = true, "{e}"));
        for (error, problem) in source.errors(&applied.problems).iter().zip(&applied.problems) {
            report(error, problem);
        }
        self.keep_problems(&compiler, &applied);
        Change { before, snapshot: applied.snapshot, unresolved: applied.unresolved }
    }

    /// What was looked at anew has the problems that were found now, or none.
    fn keep_problems(&self, compiler: &Compiler, applied: &Applied) {
        self.history.rejected.fetch_add(applied.problems.len() as u64, Ordering::Relaxed);
        let mut problems = lock(&self.problems);
        problems.retain(|key, _| !applied.compiled.contains(key) && compiler.object(key.0, &key.1).is_some());
        problems.extend(applied.problems.iter().map(|problem| ((problem.kind, problem.id.clone()), problem.clone())));
    }

    /// Puts a store's state into force and says what is to be followed from there.
    pub async fn start(&self, store: &dyn Store) -> mpsc::Receiver<Watch> {
        let watch = store.watch();
        self.take_state(store, true).await;
        watch
    }

    /// Follows a store for ever.
    pub async fn follow(&self, store: Arc<dyn Store>, mut watch: mpsc::Receiver<Watch>) {
        while let Some(first) = watch.recv().await {
            let mut batches = Vec::new();
            let mut reset = false;
            let mut next = Some(first);
            while let Some(now) = next {
                match now {
                    Watch::Reset => reset = true,
                    Watch::Changed(batch) => batches.push(batch),
                }
                next = if batches.len() < GATHERED { watch.try_recv().ok() } else { None };
            }
            if reset {
                self.take_state(store.as_ref(), false).await;
            } else {
                self.take_batches(batches).await;
            }
        }
    }

    async fn take_state(&self, store: &dyn Store, first: bool) {
        let _turn = self.turn.lock().await;
        let (revision, change) = tokio::task::block_in_place(|| {
            let (revision, objects, plugins) = {
                let state = store.state().read().unwrap_or_else(PoisonError::into_inner);
                (state.revision, objects(&state), plugin_list(&state))
            };
            let change = self.compile(plugins, |compiler| compiler.replace_all(objects));
            (revision, change)
        });
        self.put_into_force(change, first).await;
        self.in_force.send_replace(revision);
        // A store in memory has nothing until somebody brings it: APISIX's API-driven standalone mode is not ready then.
        if store.source() != Source::Memory || revision > 0 {
            self.ready.store(true, Ordering::Release);
        }
    }

    async fn take_batches(&self, batches: Vec<Batch>) {
        let _turn = self.turn.lock().await;
        let known = *self.in_force.borrow();
        let Some(revision) = batches.iter().map(|batch| batch.revision).max().filter(|last| *last > known) else {
            return;
        };
        let (set, plugins) = change_set(batches.into_iter().filter(|batch| batch.revision > known));
        let change = tokio::task::block_in_place(|| self.compile(plugins, |compiler| compiler.apply(set)));
        self.put_into_force(change, false).await;
        self.in_force.send_replace(revision);
        self.ready.store(true, Ordering::Release);
    }

    fn compile(&self, plugins: Option<Enabled>, apply: impl FnOnce(&mut Compiler) -> Applied) -> Change {
        let mut compiler = lock(&self.compiler);
        let before = compiler.snapshot().clone();
        if let Some(enabled) = plugins {
            compiler.enable(enabled);
        } else if before.revision == 0 {
            compiler.enable(lock(&self.enabled).clone());
        }
        let applied = apply(&mut compiler);
        for problem in &applied.problems {
            report(&format_args!("{}/{}: {}", problem.kind.dir(), problem.id, problem.message), problem);
        }
        self.keep_problems(&compiler, &applied);
        Change { before, snapshot: applied.snapshot, unresolved: applied.unresolved }
    }

    /// Compiles what refers to secrets whose values arrive or change, for ever.
    pub async fn follow_secrets(&self) {
        let secrets = lock(&self.compiler).secrets().clone();
        loop {
            let changed = secrets.changed().await;
            let _turn = self.turn.lock().await;
            let change = tokio::task::block_in_place(|| self.compile(None, |compiler| compiler.recompile(&changed)));
            self.put_into_force(change, false).await;
        }
    }

    /// Waits for secrets that were never asked for before, so that a change is not in force without them.
    async fn settle(&self, change: Change, limit: Duration) -> Change {
        let secrets = lock(&self.compiler).secrets().clone();
        if secrets.is_unsettled() && tokio::time::timeout(limit, secrets.settle()).await.is_err() {
            tracing::warn!("some secrets are not fetched yet");
        }
        // A quick answer may have come while the change was being compiled.
        let changed = secrets.take_changed();
        if changed.is_empty() {
            return change;
        }
        let next = tokio::task::block_in_place(|| self.compile(None, |compiler| compiler.recompile(&changed)));
        let unresolved = change.unresolved.into_iter().chain(next.unresolved).collect();
        Change { before: change.before, snapshot: next.snapshot, unresolved }
    }

    async fn put_into_force(&self, change: Change, first: bool) {
        if Arc::ptr_eq(&change.before, &change.snapshot) {
            return;
        }
        let limit = if first { FIRST_SECRETS_LIMIT } else { SECRETS_LIMIT };
        let Change { before, snapshot, unresolved } = self.settle(change, limit).await;
        if !unresolved.is_empty() {
            let limit = if first { FIRST_RESOLVE_LIMIT } else { RESOLVE_LIMIT };
            settle_nodes(&unresolved, self.resolver.as_ref(), limit).await;
        }
        self.certificates.install(&before, &snapshot);
        tracing::info!(
            revision = snapshot.revision,
            routes = snapshot.router.len(),
            stream_routes = snapshot.stream_router.len(),
            "configuration in force"
        );
        self.published.publish(snapshot);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        self.history.changed.store(now, Ordering::Relaxed);
    }
}

fn report(what: &dyn std::fmt::Display, problem: &Problem) {
    let fate = match problem.kept {
        true => "its last good form stays in force",
        false if problem.path.ends_with("/discovery_type") => "its upstream has no nodes",
        false => "it is left out",
    };
    tracing::error!("{what}; {fate}");
}

fn objects(state: &State) -> Vec<Object> {
    let object = |entry: &sluice_store::Entry| {
        let (kind, id) = entry.key.resource()?;
        Some(Object { kind, id: id.into(), body: entry.body.clone() })
    };
    state.entries.values().filter_map(object).collect()
}

/// The list of plugins that `PUT plugins/reload` stores for all nodes (apisix/admin/init.lua).
fn plugin_list(state: &State) -> Option<Enabled> {
    let entry = state.get(&sluice_store::Key::raw(PLUGINS))?;
    parse_plugins(&entry.body.value())
}

fn parse_plugins(list: &Value) -> Option<Enabled> {
    let list = list.as_array()?;
    let names = |stream: bool| {
        let wanted = list.iter().filter(|plugin| (plugin["stream"] == true) == stream);
        Some(wanted.filter_map(|plugin| plugin["name"].as_str()).map(str::to_owned).collect())
    };
    Some(Enabled { plugins: names(false), stream_plugins: names(true) })
}

/// Of several events on one key the last counts.
fn change_set(batches: impl Iterator<Item = Batch>) -> (ChangeSet, Option<Enabled>) {
    let mut last = BTreeMap::new();
    for event in batches.flat_map(|batch| batch.events) {
        let (key, entry) = match event {
            Event::Put(entry) => (entry.key.clone(), Some(entry)),
            Event::Delete(key) => (key, None),
        };
        last.insert(key, entry);
    }
    let (mut set, mut plugins) = (ChangeSet::default(), None);
    for (key, entry) in last {
        match (key.resource(), entry) {
            (Some((kind, id)), Some(entry)) => {
                set.upserts.push(Object { kind, id: id.into(), body: entry.body });
            }
            (Some((kind, id)), None) => set.deletes.push((kind, id.into())),
            (None, Some(entry)) if key.as_str() == PLUGINS => plugins = parse_plugins(&entry.body.value()),
            (None, _) => {}
        }
    }
    (set, plugins)
}

/// Waits for addresses of names and nodes of services.
async fn settle_nodes(sets: &[Arc<NodeSet>], resolver: Option<&Arc<dyn Resolve>>, limit: Duration) {
    let all = async {
        let mut asking = tokio::task::JoinSet::new();
        for set in sets {
            let (set, resolver) = (set.clone(), resolver.cloned());
            asking.spawn(async move { set.settle(resolver.as_ref()).await });
        }
        asking.join_all().await;
    };
    if tokio::time::timeout(limit, all).await.is_err() {
        tracing::warn!("some nodes' names are not resolved, or their services not known yet");
    }
}

/// What config.yaml says of plugins now.
pub fn read_plugins(config: &std::path::Path) -> anyhow::Result<Plugins> {
    let settings = crate::boot::settings(config)
        .map_err(|errors| anyhow::anyhow!("{}", errors.first().map(ToString::to_string).unwrap_or_default()))
        .with_context(|| format!("{} cannot be used", config.display()))?;
    Ok(settings.plugins)
}

/// The lists of plugins of config.yaml.
pub fn enabled(plugins: &Plugins) -> Enabled {
    Enabled { plugins: plugins.plugins.clone(), stream_plugins: plugins.stream_plugins.clone() }
}

#[cfg(test)]
mod tests;
