//! Sockets, workers, TLS, DNS and time for the layers above: everything below the first byte of a protocol.
//! The one surprise: nothing here parses HTTP, and nearly everything on the data path is thread-local (`!Send`).

pub mod address;
pub mod connect;
pub mod dns;
pub mod drain;
pub mod listener;
pub mod proxy_protocol;
pub mod socket;
pub mod stream;
pub mod timer;
pub mod tls;
pub mod worker;

pub use address::Address;
pub use connect::{ConnectError, ConnectErrorKind, ConnectOptions, connect};
pub use drain::{ConnGuard, Drain};
pub use listener::{BoundListener, ListenConfig, Listener};
pub use socket::{Readable, Socket};
pub use stream::{Stream, Substream};
pub use timer::Timeout;
pub use worker::{WorkerId, WorkerSettings, Workers};
