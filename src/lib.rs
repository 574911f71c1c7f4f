//! The gateway as a library, for its binaries alone: tests and tools go through the command line or the crates.

pub mod boot;
pub mod cli;
mod certificates;
mod demo;
mod listen;
mod metrics_server;
pub mod plugins;
pub mod reference;
mod resolve;
mod source;
