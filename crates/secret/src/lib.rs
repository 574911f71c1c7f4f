//! Secrets of the configuration: encrypted at rest ([`Keyring`], [`conceal`], [`reveal`]), or kept elsewhere and referred
//! to (`$env://…`, `$secret://…`; [`SecretStore`]). The surprise: a reference is never resolved by a request. It is
//! resolved when its resource is compiled, and what refers to it is compiled again when the value arrives or changes.

mod aws;
mod client;
mod fields;
mod file;
mod gcp;
mod keyring;
mod reference;
mod resolve;
mod sigv4;
mod store;
mod vault;

pub use client::FetchError;
pub use fields::{MASK, SecretFields, conceal, mask, reveal, reveal_plugins};
pub use keyring::{DecryptError, Keyring};
pub use reference::{Reference, ReferenceError, environment};
pub use resolve::{Resolution, Unresolved, resolve};
pub use sigv4::{Credentials, Signable, sign};
pub use store::{Found, SecretStore, StoreSettings};
