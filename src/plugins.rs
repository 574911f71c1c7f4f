//! Every plugin that the binary has: the families' lists, and nothing else.
use sluice_plugin::{Definition, StreamDefinition};

/// The families in alphabetical order.
pub static FAMILIES: &[&[Definition]] = &[
    sluice_plugins_auth::PLUGINS,
    sluice_plugins_cache::PLUGINS,
    sluice_plugins_grpc::PLUGINS,
    sluice_plugins_observe::PLUGINS,
    sluice_plugins_security::PLUGINS,
    sluice_plugins_serverless::PLUGINS,
    sluice_plugins_traffic::PLUGINS,
    sluice_plugins_transform::PLUGINS,
];

/// The families that have plugins for stream routes.
pub static STREAM_FAMILIES: &[&[StreamDefinition]] = &[
    sluice_plugins_observe::STREAM_PLUGINS,
    sluice_plugins_security::STREAM_PLUGINS,
    sluice_plugins_traffic::STREAM_PLUGINS,
];
