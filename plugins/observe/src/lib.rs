//! Plugins that let operators see: metrics, logs, and the endpoint that exposes endpoints. The surprise: node-wide metrics
//! are not the plugin's. The binary registers them once ([`prometheus::register_node`]) and mounts the export server.
use sluice_plugin::{Definition, define};

pub mod file_logger;
pub mod line_file;
pub mod log_entry;
pub mod prometheus;
pub mod public_api;

/// What logs and `node_info` tell as the node's version, since what reads them asks for APISIX's.
pub(crate) const APISIX_VERSION: &str = "3.18.0";

/// The plugins of this family, by name.
pub static PLUGINS: &[Definition] = &[
    define::<file_logger::FileLogger>().metadata_schema(file_logger::metadata_schema),
    define::<prometheus::Prometheus>().metadata_schema(prometheus::metadata_schema).endpoints(prometheus::endpoints),
    define::<public_api::PublicApi>(),
];
