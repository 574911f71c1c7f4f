//! Metrics: a registry of families, per-worker shards of cells, Prometheus text format 0.0.4.
//!
//! What it guarantees:
//! - An update by a handle on a thread that called [`register_worker`] is one load, one add and one store to memory that only
//!   this thread writes. On any other thread it is an atomic add on a shared shard: right, but slower.
//! - No update is lost or counted twice, also when workers come and go; a reader sees each worker's updates with at most
//!   the delay of the memory system, and a sum over workers is not a snapshot of one instant.
//! - Names, help and label names appear exactly as given: no suffix is added or demanded.
//! - A scrape holds locks that the request path takes (first use of a label set) for constant time only.
//!
//! The surprise: cells are process-wide, not per registry, so that an update needs an index and nothing else.

mod cell;
mod family;
mod handle;
mod label_cache;
mod registry;
mod series;
#[cfg(test)]
mod tests;
mod text;

pub use cell::{WorkerShard, register_worker};
pub use family::FamilyOptions;
pub use handle::{Counter, CounterHandle, Gauge, GaugeHandle, Histogram, HistogramHandle};
pub use registry::{Kind, MetricError, Registry, Samples};
