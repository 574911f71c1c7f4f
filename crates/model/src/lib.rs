//! The resources of the gateway (route, service, upstream, consumer …): their schemas, their validation in APISIX's
//! own wording, and the typed forms that the rest of the gateway runs on. No I/O: whatever a check needs from outside
//! (plugins, other resources, parsers) comes through the traits of [`validate`].

pub mod balancing;
pub mod body;
pub mod consumer;
pub mod global_rule;
pub mod id;
pub mod kind;
pub mod lenient;
pub mod meta;
pub mod node;
pub mod plugin_config;
pub mod proto;
pub mod resilience;
pub mod route;
pub mod schema;
pub mod schemas;
pub mod secret;
pub mod service;
pub mod ssl;
pub mod stream_route;
pub mod timeout;
pub mod upstream;
pub mod validate;

pub use body::Body;
pub use consumer::{Consumer, ConsumerGroup, Credential};
pub use global_rule::GlobalRule;
pub use kind::Kind;
pub use meta::inject_meta;
pub use node::Node;
pub use plugin_config::PluginConfig;
pub use proto::Proto;
pub use route::Route;
pub use schema::{Schema, SchemaError, Violation};
pub use secret::Secret;
pub use service::Service;
pub use ssl::Ssl;
pub use stream_route::StreamRoute;
pub use timeout::Timeout;
pub use upstream::Upstream;
pub use validate::{
    Checks, Invalid, KeyOwner, Lua, Parsers, PluginScope, Plugins, References, Write, validate, validate_declared,
    validate_standalone,
};
