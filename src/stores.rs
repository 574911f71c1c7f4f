//! Which store keeps the configuration, by config.yaml.
use sluice_config::settings::Settings;
use sluice_store::{MemoryStore, Store};
use std::path::Path;
use std::sync::Arc;

/// Opens the store that the settings name.
pub fn open(
    _settings: &Settings,
    _data_dir: &Path,
    _control: &tokio::runtime::Handle,
) -> anyhow::Result<Arc<dyn Store>> {
    Ok(Arc::new(MemoryStore::new()))
}
