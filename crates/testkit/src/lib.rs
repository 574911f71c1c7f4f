//! What tests stand on: a wire-level client, a programmable upstream, certificates, configuration folders, a process
//! runner for the gateway and the YAML case runner. Everything is blocking and thread-based on purpose: the kit shares
//! no runtime, codec or parser with the gateway, so a bug in those cannot hide itself. One exception: the collector of spans
//! speaks HTTP/2 by h2 on a tokio thread of its own.
//!
//! A dev-dependency only (`cargo xtask layers` checks it). It never names the gateway's package; a test hands it the
//! path of the binary to start.

pub mod cases;
pub mod certificates;
pub mod collector;
pub mod directory;
pub mod dns;
pub mod drivers;
pub mod gateway;
pub mod identity;
pub mod kafka;
pub mod memcached;
pub mod ports;
pub mod prometheus;
pub mod redis;
pub mod upstream;
pub mod wire;

pub use certificates::Authority;
pub use collector::{Collector, Span};
pub use directory::ConfigDir;
pub use dns::{NameServer, Record};
pub use drivers::{Driver, Drivers};
pub use gateway::Gateway;
pub use identity::{Browser, IdentityProvider};
pub use kafka::KafkaBroker;
pub use memcached::Memcached;
pub use prometheus::Prometheus;
pub use redis::Redis;
pub use upstream::{Behaviour, Seen, Upstream};
pub use wire::{Answer, Wire, WireError};
