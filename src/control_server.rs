//! The ports of the Control API and of the status API, and what they ask of the running gateway. The surprise: where
//! config.yaml does not name the control port, another process on it is a warning only, so that two gateways can run on one
//! machine.
use crate::configuration::{Configuration, read_plugins};
use anyhow::Context as _;
use serde_json::Value;
use sluice_admin::control::{Resource, Running};
use sluice_admin::{Control, Handler, Status};
use sluice_config::PluginSecrets;
use sluice_config::settings::Settings;
use sluice_discovery::Registries;
use sluice_model::Kind;
use sluice_plugin::Registry;
use sluice_plugin::record::Explained;
use sluice_proxy::DebugMode;
use sluice_secret::Keyring;
use sluice_store::{Entry, Key, Store};
use sluice_telemetry::watch::Watch;
use sluice_upstream::NodeStatus;
use std::any::Any;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};

/// The gateway as the Control API sees it.
struct Node {
    configuration: Arc<Configuration>,
    /// None: the configuration is a file.
    store: Option<Arc<dyn Store>>,
    config: PathBuf,
    prefix: String,
    keyring: Keyring,
    registries: Arc<Registries>,
    seen: Seen,
}

/// What passes through the gateway, for those who watch.
pub struct Seen {
    pub debug: Arc<DebugMode>,
    pub explained: Arc<Explained>,
    pub workers: u16,
}

impl Node {
    async fn reload(&self) -> anyhow::Result<()> {
        let plugins = read_plugins(&self.config)?;
        self.configuration.reload_plugins(plugins).await;
        Ok(())
    }
}

fn of_entry(id: &str, entry: &Entry) -> Resource {
    Resource { id: id.into(), body: entry.body.clone(), created: entry.created, modified: entry.modified }
}

impl Running for Node {
    fn registry(&self) -> Arc<Registry> {
        self.configuration.registry()
    }
    fn prefix(&self) -> &str {
        &self.prefix
    }
    fn resources(&self, kind: Kind) -> Vec<Resource> {
        if let Some(store) = &self.store {
            let state = store.state().read().unwrap_or_else(PoisonError::into_inner);
            return state.of(kind).map(|(id, entry)| of_entry(id, entry)).collect();
        }
        let modified = self.configuration.published().load().1.revision;
        let bodies = self.configuration.bodies(kind);
        bodies.into_iter().map(|(id, body)| Resource { id, body, created: 0, modified }).collect()
    }
    fn resource(&self, kind: Kind, id: &str) -> Option<Resource> {
        if let Some(store) = &self.store {
            let state = store.state().read().unwrap_or_else(PoisonError::into_inner);
            return state.get(&Key::of(kind, id)).map(|entry| of_entry(id, entry));
        }
        let modified = self.configuration.published().load().1.revision;
        let body = self.configuration.body(kind, id)?;
        Some(Resource { id: id.into(), body, created: 0, modified })
    }
    fn reveal(&self, kind: Kind, id: &str, body: &mut Value) {
        sluice_secret::reveal_plugins(kind, id, body, &self.keyring, &PluginSecrets(&self.registry()));
    }
    fn health(&self, kind: Kind, id: &str) -> Vec<Value> {
        let report = self.configuration.upstream_of(kind, id).and_then(|upstream| upstream.health());
        report.into_iter().flat_map(|report| report.nodes).filter_map(|node| serde_json::to_value(node).ok()).collect()
    }
    fn circuit_breakers(&self) -> Vec<Value> {
        crate::breakers::reports(&self.configuration.states())
    }
    fn certificates(&self) -> Vec<Value> {
        self.configuration.certificate_reports()
    }
    fn concurrency_limits(&self) -> Vec<Value> {
        crate::breakers::limits(&self.configuration.states())
    }
    fn nodes(&self, kind: Kind, id: &str) -> Option<Vec<NodeStatus>> {
        self.configuration.nodes_of(kind, id)
    }

    fn watch(&self, watcher: Arc<dyn Watch>) -> Option<Box<dyn Any + Send + Sync>> {
        Some(Box::new(self.seen.debug.watch(watcher)))
    }
    fn workers(&self) -> u16 {
        self.seen.workers
    }
    fn explained(&self) -> Option<Arc<Explained>> {
        Some(self.seen.explained.clone())
    }

    fn discovery_dump(&self, kind: &str) -> Option<Value> {
        self.registries.get(kind)?.dump()
    }

    fn discovery_dump_file(&self, kind: &str) -> Option<Result<String, String>> {
        self.registries.get(kind)?.dump_file()
    }
    fn reload_plugins(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async move { self.reload().await.map_err(|error| format!("{error:#}")) })
    }
}

/// The ports that config.yaml asks for, bound.
#[derive(Default)]
pub struct Bound {
    control: Option<TcpListener>,
    status: Option<TcpListener>,
}

/// Binds the ports.
pub fn bind(settings: &Settings) -> anyhow::Result<Bound> {
    let mut bound = Bound::default();
    if let Some(control) = &settings.apisix.control {
        match listen(control.listen) {
            Err(error) if !control.named => tracing::warn!("no Control API: {}: {error}", control.listen),
            listener => {
                let what = || format!("cannot listen on {} (apisix.control)", control.listen);
                bound.control = Some(listener.with_context(what)?);
            }
        }
    }
    if let Some(address) = settings.apisix.status {
        let what = || format!("cannot listen on {address} (apisix.status)");
        bound.status = Some(listen(address).with_context(what)?);
    }
    Ok(bound)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves the ports until the process ends. Needs to be in the control runtime.
pub fn start(
    bound: Bound,
    settings: &Settings,
    config: PathBuf,
    configuration: &Arc<Configuration>,
    store: Option<Arc<dyn Store>>,
    registries: &Arc<Registries>,
    seen: Seen,
) -> anyhow::Result<()> {
    if let Some(listener) = bound.control {
        let prefix = if store.is_some() { settings.deployment.etcd.prefix.clone() } else { String::new() };
        let keyring = crate::boot::keyring(settings);
        let (configuration, registries) = (configuration.clone(), registries.clone());
        let node = Node { configuration, store, config, prefix, keyring, registries, seen };
        serve(listener, Arc::new(Control::new(Arc::new(node))))?;
    }
    if let Some(listener) = bound.status {
        let (configuration, registries) = (configuration.clone(), registries.clone());
        let ready = move || {
            if !configuration.is_ready() {
                return Err("worker id: 0 has not received configuration".to_owned());
            }
            registries.ready()
        };
        serve(listener, Arc::new(Status::new(Box::new(ready))))?;
    }
    Ok(())
}

fn serve(listener: TcpListener, handler: Arc<dyn Handler>) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tokio::spawn(sluice_admin::serve(listener, None, handler));
    Ok(())
}
