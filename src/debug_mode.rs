//! Follows debug.yaml beside config.yaml. The surprise: removing the file changes nothing, as in APISIX; what was on stays
//! on until a version says otherwise.
use sluice_config::debug::DebugConfig;
use sluice_config::watch::{Change, POLL_INTERVAL, Watcher};
use sluice_proxy::DebugMode;
use std::path::Path;
use std::sync::Arc;

/// Puts debug.yaml into force and follows its changes until the process ends. What is in the file at the start is in
/// force before this returns. Must be called within a tokio runtime.
pub fn follow(config: &Path, mode: &Arc<DebugMode>) {
    let path = config.with_file_name("debug.yaml");
    if let Ok(Some(debug)) = DebugConfig::load(&path) {
        mode.set(&debug);
    }
    let mode = mode.clone();
    let (watcher, mut changes) = Watcher::start(path, POLL_INTERVAL, DebugConfig::load);
    tokio::spawn(async move {
        // It lives as long as its changes are waited for.
        let _watcher = watcher;
        while let Some(change) = changes.recv().await {
            match change {
                Change::Loaded(Some(debug)) => mode.set(&debug),
                Change::Loaded(None) => {}
                Change::Broken(errors) => errors.iter().for_each(|error| tracing::error!("{error}")),
            }
        }
    });
}
