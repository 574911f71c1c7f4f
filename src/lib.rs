//! The gateway as a library, for its binaries alone: tests and tools go through the command line or the crates.

pub mod reference;
