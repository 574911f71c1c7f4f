//! The APIs that manage the gateway: Admin API, Control API, status API. They are plain request-to-answer functions
//! ([`Handler`]) behind one small HTTP server. The surprise: a write is a transaction on the store and nothing else; the
//! gateway learns of it as it learns of anybody's writes, by watching the store.

pub mod access;
pub mod admin;
mod affected;
mod beyond;
mod body;
mod cache;
mod changes;
mod clock;
mod configs;
pub mod control;
mod decoration;
mod encryption;
mod key_owners;
mod lenient;
pub mod listing;
pub mod message;
mod node_status;
mod openapi;
pub mod parsers;
pub mod patch;
pub mod plugins;
mod preconditions;
pub mod references;
pub mod resource;
mod revisions;
pub mod schema;
pub mod server;
pub mod settings;
mod staging;
pub mod status;
#[cfg(test)]
mod testing;
mod transactions;
mod warnings;
mod writes;

pub use admin::{Admin, CachePurge, Gateway, PurgeAnswer};
pub use control::{Control, Running};
pub use message::{Reply, Request};
pub use openapi::document as openapi;
pub use server::{Handler, serve};
pub use settings::{AdminKey, AdminSettings, Role};
pub use status::Status;
