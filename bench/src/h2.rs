//! HTTP/2 of the generator and of its upstream: frames that were made once, with the number of their stream filled in. Nothing
//! is compressed against a table that changes (RFC 7541), so that neither side keeps state which would cost the generator time.
//!
//! The surprise: windows are opened wide once and topped up now and then, and what the other side opens is not counted; messages are
//! so small that nobody's window closes.

pub mod answerer;
pub mod client;
mod frames;

pub use frames::Call;
