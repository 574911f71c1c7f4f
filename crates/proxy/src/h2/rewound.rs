//! A stream of which some bytes were read to find out what is spoken on it. Writes go to the socket as they are.
//!
//! The surprise: closing takes a while. A socket that is closed while the client still sends (it always does: windows,
//! acknowledgements) is reset, and answers that have not been read yet are lost with it. So what comes is read until the client
//! has closed, too (nginx: lingering_close).
use sluice_net::{Stream, Timeout};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a client may take to close after us, and how much it may send meanwhile.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;

pub(super) struct Rewound {
    first: Vec<u8>,
    stream: Stream,
    /// Our side is closed; bytes that came since.
    lingering: Option<Box<(Timeout, usize)>>,
}

impl Rewound {
    pub fn new(first: Vec<u8>, stream: Stream) -> Rewound {
        Rewound { first, stream, lingering: None }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let own = self.get_mut();
        if own.first.is_empty() {
            return Pin::new(&mut own.stream).poll_read(task, out);
        }
        let n = own.first.len().min(out.remaining());
        out.put_slice(own.first.get(..n).unwrap_or_default());
        crate::client::consume(&mut own.first, n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(task, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(task, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let own = &mut *self;
        let (timeout, total) = &mut **match &mut own.lingering {
            Some(lingering) => lingering,
            closing => {
                ready!(Pin::new(&mut own.stream).poll_shutdown(task))?;
                let lingering = closing.insert(Box::new((Timeout::new(), 0)));
                lingering.0.arm(LINGER);
                lingering
            }
        };
        loop {
            let mut bytes = [0; 4096];
            let mut part = ReadBuf::new(&mut bytes);
            match Pin::new(&mut own.stream).poll_read(task, &mut part) {
                Poll::Ready(Ok(())) if !part.filled().is_empty() && *total < LINGER_BYTES => {
                    *total += part.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return timeout.poll(task).map(Ok),
            }
        }
    }
}
