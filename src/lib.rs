//! The gateway as a library, for its binaries alone: tests and tools go through the command line or the crates.

pub mod boot;
mod certificates;
pub mod cli;
mod demo;
mod figures;
mod listen;
mod metrics_server;
pub mod plugins;
pub mod reference;
mod resolve;
mod source;
