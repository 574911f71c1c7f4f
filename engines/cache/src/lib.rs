//! An HTTP cache without HTTP messages: the rules of RFC 9111 as pure functions ([`judge`], [`reuse`], [`conditional`], [`vary`]),
//! and records in a [`Store`]: memory, disk, Redis or Memcached.
//!
//! The surprise: a resource with `Vary` is two records, one that names the fields that select and one for each selection. Purging
//! the first puts all of the second out of reach at once.

pub mod codec;
pub mod conditional;
pub mod control;
pub mod disk;
pub mod fields;
pub mod flight;
pub mod judge;
pub mod memcached;
pub mod memory;
pub mod redis;
pub mod reuse;
pub mod store;
pub mod stored;
mod targeted;
pub mod vary;
pub mod zone;

pub use fields::Field;
pub use store::{Purge, Store, StoreError};
pub use stored::{Body, Freshness, Record, Stored};
pub use zone::{Status, Zone, Zones};
