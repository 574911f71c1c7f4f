//! What the gateway says about itself: metrics, access log, log batches, operator log. The surprise: nothing here makes a
//! request wait. A full buffer or queue drops and counts; a scrape takes no lock that a request holds or needs for long.

pub mod access_log;
pub mod batch;
pub mod line_file;
pub mod metrics;
pub mod operator_log;
pub mod process;
pub mod time_format;
pub mod watch;

pub use access_log::{AccessLog, AccessLogFormat, AccessLogWriter, Escape};
pub use batch::{Account, BatchEntry, BatchError, BatchOptions, BatchQueue, BatchSink, Draining, LogQueues, LogTotals};
pub use line_file::LineFile;
pub use metrics::{
    Counter, CounterHandle, FamilyOptions, Gauge, GaugeHandle, Histogram, HistogramHandle, MetricError, Registry,
    register_worker,
};
pub use operator_log::OperatorLog;
