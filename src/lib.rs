//! The gateway as a library, for its binaries alone: tests and tools go through the command line or the crates.

mod admin_key;
mod admin_server;
pub mod boot;
mod breakers;
mod cache;
mod certificates;
pub mod cli;
pub mod configuration;
mod control_server;
mod debug_mode;
mod demo;
mod figures;
mod listen;
mod metrics_server;
pub mod plugins;
pub mod reference;
mod resolve;
mod signals;
mod source;
mod stapling;
mod stores;
