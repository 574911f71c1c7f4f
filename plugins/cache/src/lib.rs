//! Plugins that keep answers.
mod proxy_cache;

use sluice_plugin::{Definition, define};

/// The family, alphabetical.
pub static PLUGINS: &[Definition] = &[define::<proxy_cache::ProxyCache>()];
