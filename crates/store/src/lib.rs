//! Where the configuration is kept. One trait ([`Store`]) for every source that can be written to; what is stored
//! is text under APISIX's etcd keys (`routes/1`). The surprise: readers never wait for a disk or a network. Every store
//! keeps the whole state in memory ([`State`]) and lets it be read under a lock; only writes and
//! [`Store::catch_up`] wait.

pub mod embedded;
pub mod etcd;
pub mod history;
pub mod key;
pub mod memory;
mod plan;
pub mod state;
pub mod store;
pub mod transaction;
mod watchers;

pub use embedded::{EmbeddedSettings, EmbeddedStore};
pub use etcd::{EtcdSettings, EtcdStore};
pub use history::{Change, Revision};
pub use key::Key;
pub use memory::MemoryStore;
pub use state::{Entry, State};
pub use store::{Batch, Condition, Event, Source, Store, StoreError, Watch};
pub use transaction::{Committed, Expect, Note, Op, Transaction};
