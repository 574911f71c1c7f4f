//! Takes a PROXY protocol header off a fresh connection.
//! The one surprise: it peeks and then takes exactly the header, so nothing is left over to carry along; the price is
//! one more system call on connections that have one.
use super::{Header, ParseError, Parsed, V2_MAX, parse};
use crate::socket::Socket;
use std::io;
use tokio::io::AsyncReadExt;

/// No header could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What came is no header: close the connection.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The socket failed or was closed.
    #[error("reading the PROXY protocol header: {0}")]
    Io(#[from] io::Error),
}

/// Reads the header a connection must begin with. The caller sets the time limit.
pub async fn read_header(socket: &mut Socket) -> Result<Header, ReadError> {
    let mut seen: Vec<u8> = Vec::new();
    let mut chunk = [0; 256];
    loop {
        let n = socket.peek(&mut chunk).await?;
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let taken = seen.len();
        seen.extend_from_slice(chunk.get(..n).unwrap_or(&[]));
        let parsed = parse(&seen)?;
        let take = match &parsed {
            Parsed::Complete(h) => h.len - taken,
            Parsed::Incomplete => n,
        };
        if let Some(chunk) = chunk.get_mut(..take) {
            socket.read_exact(chunk).await?;
        }
        if let Parsed::Complete(h) = parsed {
            return Ok(h);
        }
        // `parse` has refused longer headers already; this keeps the bound visible.
        if seen.len() >= V2_MAX + chunk.len() {
            return Err(ParseError::V2("too long").into());
        }
    }
}
