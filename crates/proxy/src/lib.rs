//! The request pipeline: from a client's bytes to an upstream and back, through a route's plugins. It knows plugins only
//! by their trait, and answers of its own come from one place (`rescue`). Connections on stream routes have a short way of
//! their own (`stream`).
//!
//! The surprise: a request that nothing holds up runs from the first byte read to the last byte written within two
//! polls of one task, on the thread's own buffers.

mod answer;
mod answer_tap;
mod background;
mod balancing;
mod breaking;
pub mod client;
mod client_certificate;
pub mod connection;
mod debug;
mod exchange;
mod figures;
mod forwarded;
mod grpc;
mod h2;
mod reply;
pub mod rescue;
mod retry;
mod scratch;
mod send;
pub mod settings;
mod shape;
mod stream;
mod tap;
mod tunnel;
mod watched;
pub mod worker;

pub use connection::serve;
pub use debug::{DebugMode, Watching};
pub use figures::{Figures, StreamFigures, StreamTotals};
pub use settings::ProxySettings;
pub use stream::serve_stream;
pub use worker::{AccessLogSink, Worker};
