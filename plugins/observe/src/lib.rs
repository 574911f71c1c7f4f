//! Plugins that let operators see: metrics, logs, and the endpoint that exposes endpoints. The surprise: node-wide metrics
//! are not the plugin's. The binary registers them once ([`prometheus::register_node`]) and mounts the export server.
use sluice_plugin::{Definition, StreamDefinition, define, define_stream};

pub mod debug_logger;
mod dial;
pub mod elasticsearch_logger;
pub mod file_logger;
pub mod http_logger;
pub mod kafka_logger;
pub mod log_entry;
mod logger;
pub mod loki_logger;
pub mod opentelemetry;
pub mod prometheus;
pub mod public_api;
pub mod syslog;
pub mod tcp_logger;
pub mod udp_logger;
pub mod zipkin;

/// What logs and `node_info` tell as the node's version, since what reads them asks for APISIX's.
pub(crate) const APISIX_VERSION: &str = "3.18.0";

/// The family's plugins for stream routes.
pub static STREAM_PLUGINS: &[StreamDefinition] = &[define_stream::<prometheus::StreamPrometheus>()];

/// The plugins of this family, by name.
pub static PLUGINS: &[Definition] = &[
    define::<debug_logger::DebugLogger>(),
    define::<elasticsearch_logger::ElasticsearchLogger>().metadata_schema(logger::metadata_schema),
    define::<file_logger::FileLogger>().metadata_schema(file_logger::metadata_schema),
    define::<http_logger::HttpLogger>().metadata_schema(logger::metadata_schema),
    define::<kafka_logger::KafkaLogger>().metadata_schema(logger::metadata_schema),
    define::<loki_logger::LokiLogger>().metadata_schema(logger::metadata_schema),
    define::<opentelemetry::OpenTelemetry>().metadata_schema(opentelemetry::metadata_schema),
    define::<prometheus::Prometheus>().metadata_schema(prometheus::metadata_schema).endpoints(prometheus::endpoints),
    define::<public_api::PublicApi>(),
    define::<syslog::Syslog>().metadata_schema(logger::metadata_schema),
    define::<tcp_logger::TcpLogger>().metadata_schema(logger::metadata_schema),
    define::<udp_logger::UdpLogger>().metadata_schema(logger::metadata_schema),
    define::<zipkin::Zipkin>(),
];
