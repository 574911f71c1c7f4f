//! The HTTP/1.1 codec (RFC 9112), without I/O: heads are parsed in place, bodies scanned or decoded as they pass.
//!
//! What is ambiguous is refused: see [`head`] for requests and responses and [`body`] for framing.

pub mod body;
pub mod head;
pub(crate) mod tokens;
pub mod write;

pub use body::{BodyReader, Framing};
pub use head::{Limits, Reject, parse_request, parse_response};
