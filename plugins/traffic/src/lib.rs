//! Plugins that limit, split, copy and bundle traffic; on stream routes `limit-conn`, `mqtt-proxy` and `traffic-split`.
//!
//! The `limit-*` plugins share one kind of table for their counters (`counters.rs`).
mod aggregate;
mod answer;
mod api_breaker;
mod batch_requests;
mod counters;
mod decisions;
mod header_match;
mod limit_conn;
mod limit_count;
mod limit_key;
mod limit_number;
mod limit_req;
mod mqtt_proxy;
mod own_gateway;
mod proxy_mirror;
mod query_arg;
mod redis_fields;
mod redis_schema;
#[cfg(test)]
mod redis_tests;
mod stream_limit_conn;
mod traffic_label;
mod traffic_split;
mod value_rule;
mod workflow;

use sluice_plugin::{Definition, StreamDefinition, define, define_stream};

/// The family, alphabetical.
pub static PLUGINS: &[Definition] = &[
    define::<aggregate::Aggregate>(),
    define::<api_breaker::ApiBreaker>(),
    define::<batch_requests::BatchRequests>()
        .metadata::<batch_requests::Metadata>()
        .endpoints(batch_requests::endpoints),
    define::<header_match::HeaderMatch>(),
    define::<limit_conn::LimitConn>(),
    define::<limit_count::LimitCount>().metadata::<limit_count::Metadata>(),
    define::<limit_req::LimitReq>(),
    define::<proxy_mirror::ProxyMirror>(),
    define::<query_arg::QueryArg>(),
    define::<traffic_label::TrafficLabel>(),
    define::<traffic_split::TrafficSplit>(),
    define::<workflow::Workflow>().nested(workflow::check_actions),
];

/// The family's plugins for stream routes.
pub static STREAM_PLUGINS: &[StreamDefinition] = &[
    define_stream::<stream_limit_conn::StreamLimitConn>(),
    define_stream::<mqtt_proxy::MqttProxy>(),
    define_stream::<traffic_split::TrafficSplit>(),
];
