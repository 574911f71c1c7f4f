//! What the gateway says about itself: metrics, access log, log batches, operator log. The surprise: nothing here makes a
//! request wait. A full buffer or queue drops and counts; a scrape takes no lock that a request holds or needs for long.

pub mod metrics;
pub mod process;
pub mod time_format;

pub use metrics::{
    Counter, CounterHandle, FamilyOptions, Gauge, GaugeHandle, Histogram, HistogramHandle, MetricError, Registry,
    register_worker,
};
