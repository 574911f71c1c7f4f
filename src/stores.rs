//! Which store keeps the configuration, by config.yaml: etcd where `deployment.etcd` is there, else a file of this
//! machine below the data directory. API-driven standalone mode keeps nothing beyond the process, as in APISIX.
use anyhow::Context as _;
use sluice_config::settings::Settings;
use sluice_config::settings::deployment::Role;
use sluice_store::{EmbeddedSettings, EmbeddedStore, EtcdSettings, EtcdStore, MemoryStore, Store};
use std::path::Path;
use std::sync::Arc;

/// The embedded store's file below the data directory.
const EMBEDDED_FILE: &str = "configuration.redb";

/// What was last seen of etcd, for a start without it.
const SNAPSHOT_FILE: &str = "etcd.snapshot";

/// Opens the store that the settings name. `prefix`: where relative paths start.
pub fn open(
    settings: &Settings,
    data_dir: &Path,
    prefix: &Path,
    control: &tokio::runtime::Handle,
) -> anyhow::Result<Arc<dyn Store>> {
    if settings.api_driven() {
        return Ok(Arc::new(MemoryStore::new()));
    }
    if settings.deployment.etcd.configured || settings.deployment.role == Role::DataPlane {
        let snapshot = data_dir.join(SNAPSHOT_FILE);
        let store = control.block_on(EtcdStore::connect(etcd_settings(settings, prefix), Some(snapshot), control));
        return Ok(Arc::new(store.context("deployment.etcd")?));
    }
    let path = data_dir.join(EMBEDDED_FILE);
    let store =
        EmbeddedStore::open(&path, EmbeddedSettings::default()).context("the configuration cannot be opened")?;
    tracing::info!(path = %path.display(), "configuration kept in a file of this machine");
    Ok(Arc::new(store))
}

fn etcd_settings(settings: &Settings, prefix: &Path) -> EtcdSettings {
    let etcd = &settings.deployment.etcd;
    let file = |path: &Option<String>| path.as_ref().map(|path| prefix.join(path));
    let trusted = settings.apisix.ssl.ssl_trusted_certificate.as_deref().filter(|path| *path != "system");
    EtcdSettings {
        hosts: etcd.host.clone(),
        prefix: etcd.prefix.clone(),
        timeout: etcd.timeout,
        watch_timeout: etcd.watch_timeout,
        resync_delay: etcd.resync_delay,
        health_check_timeout: etcd.health_check_timeout,
        startup_retry: etcd.startup_retry,
        user: etcd.user.clone(),
        password: etcd.password.clone(),
        cert: file(&etcd.cert),
        key: file(&etcd.key),
        verify: etcd.verify,
        sni: etcd.sni.clone(),
        trusted_ca: trusted.map(|path| prefix.join(path)),
        // A data plane only reads.
        init_dirs: settings.deployment.role != Role::DataPlane,
        ..EtcdSettings::default()
    }
}
