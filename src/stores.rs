//! Which store keeps the configuration, by config.yaml: etcd where `deployment.etcd` is there, else a file of this
//! machine below the data directory.
use anyhow::Context as _;
use sluice_config::settings::Settings;
use sluice_store::{EmbeddedSettings, EmbeddedStore, Store};
use std::path::Path;
use std::sync::Arc;

/// The embedded store's file below the data directory.
const EMBEDDED_FILE: &str = "configuration.redb";

/// Opens the store that the settings name.
pub fn open(settings: &Settings, data_dir: &Path, _control: &tokio::runtime::Handle) -> anyhow::Result<Arc<dyn Store>> {
    anyhow::ensure!(
        !settings.deployment.etcd.configured,
        "deployment.etcd: configuration from etcd is not there yet; without this section it is kept in {}",
        data_dir.display()
    );
    let path = data_dir.join(EMBEDDED_FILE);
    let store =
        EmbeddedStore::open(&path, EmbeddedSettings::default()).context("the configuration cannot be opened")?;
    tracing::info!(path = %path.display(), "configuration kept in a file of this machine");
    Ok(Arc::new(store))
}
