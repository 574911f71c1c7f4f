//! The Admin API's port, and what the API asks of the running gateway.
use crate::configuration::{Configuration, read_plugins};
use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_admin::{Admin, AdminKey, AdminSettings, CachePurge, Gateway, PurgeAnswer};
use sluice_config::settings::Settings;
use sluice_config::settings::deployment;
use sluice_config::{Enabled, Problem, Snapshot};
use sluice_engine_cache::{Purge, Zones};
use sluice_model::Kind;
use sluice_plugin::Registry;
use sluice_store::key::PLUGINS;
use sluice_store::{Expect, Key, Note, Op, Store, Transaction};
use sluice_upstream::NodeStatus;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// The gateway as the Admin API sees it.
struct Running {
    configuration: Arc<Configuration>,
    store: Arc<dyn Store>,
    config: PathBuf,
    zones: Arc<Zones>,
}

impl Running {
    async fn reload(&self) -> anyhow::Result<()> {
        let plugins = read_plugins(&self.config)?;
        let enabled = crate::configuration::enabled(&plugins);
        self.configuration.reload_plugins(plugins).await;
        let Some(list) = plugin_list(&enabled) else { return Ok(()) };
        let op = Op::Put { key: Key::raw(PLUGINS), body: list.into(), expect: Expect::Any, ttl: None };
        let note = Note { author: "plugins/reload".into(), message: String::new() };
        let revision = self.store.commit(Transaction { ops: vec![op], note }).await?.revision;
        self.configuration.in_force().wait_for(|now| *now >= revision).await?;
        Ok(())
    }
}

impl Gateway for Running {
    fn registry(&self) -> Arc<Registry> {
        self.configuration.registry()
    }
    fn in_force(&self) -> watch::Receiver<u64> {
        self.configuration.in_force()
    }
    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        Some(self.configuration.published().load().1)
    }
    fn certificates(&self) -> Vec<Value> {
        self.configuration.certificate_reports()
    }
    fn problems(&self) -> Vec<Problem> {
        self.configuration.problems()
    }
    fn nodes(&self, kind: Kind, id: &str) -> Option<Vec<NodeStatus>> {
        self.configuration.nodes_of(kind, id)
    }
    fn check_lua(&self, purpose: sluice_model::Lua, source: &str) -> Result<(), String> {
        self.configuration.check_lua(purpose, source)
    }
    fn try_build(&self, kind: Kind, id: &str, body: &Value) -> Result<(), String> {
        self.configuration.try_build(kind, id, body)
    }
    fn check_proto(&self, content: &str) -> Result<(), String> {
        sluice_engine_grpc::Definition::compile(content).map(|_| ()).map_err(|error| error.0)
    }
    fn purge(&self, zone: &str, purge: CachePurge) -> Option<PurgeAnswer<'_>> {
        let zone = self.zones.get(zone)?.clone();
        let purge = match purge {
            CachePurge::All => Purge::All,
            CachePurge::Key(key) => Purge::Key(key.into()),
            CachePurge::Prefix(prefix) => Purge::Prefix(prefix.into()),
            CachePurge::Tag(tag) => Purge::Tag(tag),
        };
        Some(Box::pin(async move { zone.purge(purge).await.map_err(|error| error.to_string()) }))
    }
    fn caches(&self) -> Vec<Value> {
        crate::cache::report(&self.zones)
    }
    fn taken(&self, _revision: u64) {
        self.configuration.set_ready();
    }
    fn reload_plugins(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async move { self.reload().await.map_err(|error| format!("{error:#}")) })
    }
}

/// The lists as APISIX stores them: `[{"name": …}, {"name": …, "stream": true}]`; None where config.yaml names none.
fn plugin_list(enabled: &Enabled) -> Option<Value> {
    let http = enabled.plugins.as_ref()?.iter().map(|name| json!({"name": name}));
    let stream = enabled.stream_plugins.iter().flatten().map(|name| json!({"name": name, "stream": true}));
    Some(http.chain(stream).collect())
}

/// A list that a reload stored, and that config.yaml contradicts at start, is replaced (apisix/admin/init.lua).
pub async fn reset_plugin_list(store: &dyn Store, enabled: &Enabled) {
    let stored = {
        let state = store.state().read().unwrap_or_else(PoisonError::into_inner);
        state.get(&Key::raw(PLUGINS)).cloned()
    };
    let Some(stored) = stored else { return };
    let op = match plugin_list(enabled) {
        Some(list) if list == stored.body.value() => return,
        Some(list) => {
            Op::Put { key: stored.key, body: list.into(), expect: Expect::Revision(stored.modified), ttl: None }
        }
        None => Op::Delete { key: stored.key, expect: Expect::Revision(stored.modified) },
    };
    let note = Note { author: "start".into(), message: "plugins of config.yaml".into() };
    if let Err(error) = store.commit(Transaction { ops: vec![op], note }).await {
        tracing::error!(%error, "failed to set plugins");
    }
}

/// Binds the port and serves it until the process ends.
pub async fn start(
    settings: &Settings,
    config: PathBuf,
    configuration: Arc<Configuration>,
    store: Arc<dyn Store>,
    keys: Vec<AdminKey>,
    zones: Arc<Zones>,
) -> anyhow::Result<()> {
    let admin = &settings.deployment.admin;
    let tls = tls(admin, &config)?;
    let running = Running { configuration, store: store.clone(), config, zones };
    let handler = Arc::new(Admin::new(admin_settings(settings, keys), store, Arc::new(running)));
    let listener = TcpListener::bind(admin.listen)
        .await
        .with_context(|| format!("cannot listen on {} (deployment.admin.admin_listen)", admin.listen))?;
    tokio::spawn(sluice_admin::serve(listener, tls, handler));
    Ok(())
}

/// `https_admin` with `admin_api_mtls`; a CA there asks clients for certificates (apisix/cli/ngx_tpl.lua).
fn tls(admin: &deployment::Admin, config: &Path) -> anyhow::Result<Option<TlsAcceptor>> {
    if !admin.https_admin {
        return Ok(None);
    }
    let (Some(cert), Some(key)) = (&admin.admin_ssl_cert, &admin.admin_ssl_cert_key) else {
        anyhow::bail!("missing ssl cert for https admin (deployment.admin.admin_api_mtls)");
    };
    // nginx looks below the folder of its own configuration.
    let folder = config.parent().unwrap_or(Path::new("."));
    let read = |path: &str| {
        std::fs::read_to_string(folder.join(path))
            .with_context(|| format!("deployment.admin.admin_api_mtls: {path} cannot be read"))
    };
    let ca = admin.admin_ssl_ca_cert.as_deref().map(read).transpose()?;
    let server = sluice_net::tls::single_server(&read(cert)?, &read(key)?, ca.as_deref())
        .context("deployment.admin.admin_api_mtls")?;
    Ok(Some(TlsAcceptor::from(server)))
}

fn admin_settings(settings: &Settings, keys: Vec<AdminKey>) -> AdminSettings {
    let (apisix, admin) = (&settings.apisix, &settings.deployment.admin);
    let version =
        if apisix.enable_server_tokens { format!("APISIX/{}", crate::boot::APISIX_VERSION) } else { "APISIX".into() };
    AdminSettings {
        keys,
        key_required: admin.admin_key_required,
        allow: admin.allow_admin.clone(),
        cors: admin.enable_admin_cors,
        v3: admin.v3,
        server: version,
        prefix: settings.deployment.etcd.prefix.clone(),
        stream: apisix.proxy_mode.stream,
        plugins: settings.plugins.plugins.clone(),
        stream_plugins: settings.plugins.stream_plugins.clone(),
        keyring: Arc::new(crate::boot::keyring(settings)),
        protocols: settings.xrpc_protocols.clone(),
        api_driven: settings.api_driven(),
        ..AdminSettings::default()
    }
}
