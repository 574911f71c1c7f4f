//! HTTP messages and the wire: heads, header edits, body framing, the HTTP/1 codec.
//!
//! A message keeps the bytes it arrived in and describes them by offsets; edits append to the same buffer and are
//! applied while the head is written again. There is no header map: at the sizes of real heads a scan is cheaper.
//! Messages are free of protocol version details so that h2 and h3 can fill the same types.

pub mod h1;
pub mod h2;
pub mod headers;
pub mod method;
pub mod request;
pub mod response;
pub mod status;
pub mod target;
pub mod trailers;

pub use headers::{Headers, Known, Span};
pub use method::Method;
pub use request::{Request, Version};
pub use response::Response;
