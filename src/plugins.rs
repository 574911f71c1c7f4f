//! Every plugin that the binary has: the families' lists, and nothing else.
use sluice_plugin::Definition;

/// The families in alphabetical order.
pub static FAMILIES: &[&[Definition]] = &[
    sluice_plugins_auth::PLUGINS,
    sluice_plugins_observe::PLUGINS,
    sluice_plugins_security::PLUGINS,
    sluice_plugins_traffic::PLUGINS,
    sluice_plugins_transform::PLUGINS,
];
