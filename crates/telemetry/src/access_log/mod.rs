//! The access log: nginx's `log_format`, and a bounded buffered writer on a thread of its own.
//!
//! What it guarantees: a request never waits for the file. A worker appends to its own buffer and hands full ones over;
//! when the writer thread is behind, whole buffers are dropped and their lines counted. The surprise: an idle worker must
//! call [`AccessLogWriter::flush_due`] now and then, as nothing else wakes its buffer.

mod format;
#[cfg(test)]
mod tests;
mod writer;

pub use format::{AccessLogFormat, Escape};
pub use writer::{AccessLog, AccessLogOptions, AccessLogStats, AccessLogTarget, AccessLogWriter};
