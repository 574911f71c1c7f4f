//! How many requests an upstream has under way at a time: a fixed number, or one that follows its latency.
//!
//! The surprise: a request that finds room takes it with one compare-and-swap; the queue behind, and its lock, are touched only
//! while somebody waits.
mod gradient;
mod limiter;
mod queue;
mod report;

pub use gradient::{Estimate, Gradient};
pub use limiter::{Admission, ConcurrencyLimit, Kind, Limiter, QueueSettings, Settings, Slot};
pub use queue::Ticket;
pub use report::ConcurrencyReport;
