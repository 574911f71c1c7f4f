//! Plugins that limit and split traffic: `limit-conn`, `limit-count`, `limit-req`, `traffic-split`; on stream routes
//! `limit-conn` and `mqtt-proxy`.
//!
//! The `limit-*` plugins share one kind of table for their counters (`counters.rs`).
mod counters;
mod limit_conn;
mod limit_count;
mod limit_key;
mod limit_number;
mod limit_req;
mod mqtt_proxy;
mod redis_fields;
mod redis_schema;
#[cfg(test)]
mod redis_tests;
mod stream_limit_conn;
mod traffic_split;

use sluice_plugin::{Definition, StreamDefinition, define, define_stream};

/// The family, alphabetical.
pub static PLUGINS: &[Definition] = &[
    define::<limit_conn::LimitConn>(),
    define::<limit_count::LimitCount>().metadata::<limit_count::Metadata>(),
    define::<limit_req::LimitReq>(),
    define::<traffic_split::TrafficSplit>(),
];

/// The family's plugins for stream routes.
pub static STREAM_PLUGINS: &[StreamDefinition] =
    &[define_stream::<stream_limit_conn::StreamLimitConn>(), define_stream::<mqtt_proxy::MqttProxy>()];
