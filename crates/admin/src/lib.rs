//! The APIs that manage the gateway: Admin API, Control API, status API. They are plain request-to-answer functions
//! ([`Handler`]) behind one small HTTP server. The surprise: a write is a transaction on the store and nothing else; the
//! gateway learns of it as it learns of anybody's writes, by watching the store.

pub mod access;
pub mod admin;
mod body;
mod clock;
mod configs;
pub mod control;
mod decoration;
mod encryption;
mod key_owners;
mod lenient;
pub mod listing;
pub mod message;
pub mod parsers;
pub mod patch;
pub mod plugins;
pub mod references;
pub mod resource;
pub mod schema;
pub mod server;
pub mod settings;
pub mod status;
#[cfg(test)]
mod testing;

pub use admin::{Admin, Gateway};
pub use control::{Control, Running};
pub use message::{Reply, Request};
pub use server::{Handler, serve};
pub use settings::{AdminKey, AdminSettings, Role};
pub use status::Status;
