//! A plain TCP or Unix stream socket: what TLS runs on, and what `Stream` is without TLS.
//! The one surprise: peeking goes through tokio's readiness cache, so asking a quiet socket costs no system call.
use crate::address::Address;
use rustix::net::RecvFlags;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected TCP or Unix stream socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix stream.
    Unix(UnixStream),
}

/// What lies ready on a connection nobody is reading from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// At least one byte. On a pooled upstream connection that is a protocol error or a late response.
    Data,
    /// The peer has closed its side.
    Eof,
    /// The socket has failed (reset, say).
    Error,
}

macro_rules! each {
    ($self:expr, $s:ident => $e:expr) => {
        match $self {
            Socket::Tcp($s) => $e,
            Socket::Unix($s) => $e,
        }
    };
}

impl Socket {
    /// Looks at received bytes without taking them. `WouldBlock` when there are none; `Ok(0)` is end of file.
    pub fn try_peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        each!(self, s => Peek::peek(s, buf))
    }

    /// As `try_peek`, waiting until there is something.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            each!(self, s => s.readable().await)?;
            match self.try_peek(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                r => return r,
            }
        }
    }

    /// The other end.
    pub fn peer_addr(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(s) => s.peer_addr().map(Address::Ip),
            Self::Unix(s) => s.peer_addr().map(|a| unix_name(&a)),
        }
    }

    /// Our end.
    pub fn local_addr(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(s) => s.local_addr().map(Address::Ip),
            Self::Unix(s) => s.local_addr().map(|a| unix_name(&a)),
        }
    }

    /// Sends small segments at once (TCP_NODELAY); nothing to do on a Unix socket.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Turns TCP keepalive on: the first probe after `idle`.
    pub fn set_keepalive(&self, idle: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(s) => socket2::SockRef::from(s).set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(idle)),
            Self::Unix(_) => Ok(()),
        }
    }
}

/// A socket whose received bytes can be looked at through tokio's readiness cache.
pub(crate) trait Peek {
    /// Waits for the readiness flag, which may be a leftover of the last read.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Looks without taking; a refusal clears the readiness flag.
    fn peek(&self, buf: &mut [u8]) -> io::Result<usize>;
}

macro_rules! peek_for {
    ($t:ty) => {
        impl Peek for $t {
            #[inline]
            fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            #[inline]
            fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
                self.try_io(Interest::READABLE, || Ok(rustix::net::recv(self, buf, RecvFlags::PEEK)?.0))
            }
        }
    };
}
peek_for!(TcpStream);
peek_for!(UnixStream);

/// Whether a read would have to wait.
#[inline]
pub(crate) fn is_unreadable(s: &impl Peek) -> bool {
    s.peek(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
}

/// Ready when bytes, end of file or an error wait on the socket; takes nothing.
#[inline]
pub(crate) fn poll_peek(s: &impl Peek, cx: &mut Context<'_>) -> Poll<Readable> {
    loop {
        if ready!(s.poll_ready(cx)).is_err() {
            return Poll::Ready(Readable::Error);
        }
        match s.peek(&mut [0]) {
            Ok(0) => return Poll::Ready(Readable::Eof),
            Ok(_) => return Poll::Ready(Readable::Data),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return Poll::Ready(Readable::Error),
        }
    }
}

pub(crate) fn unix_name(a: &tokio::net::unix::SocketAddr) -> Address {
    Address::unix(a.as_pathname().unwrap_or(std::path::Path::new("")))
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, b: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), s => Pin::new(s).poll_read(cx, b))
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        let own = self.get_mut();
        // Nearly always the socket takes it: `poll_write` would prepare to wait first.
        match each!(own, s => s.try_write(b)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => each!(own, s => Pin::new(s).poll_write(cx, b)),
            done => Poll::Ready(done),
        }
    }

    #[inline]
    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), s => Pin::new(s).poll_write_vectored(cx, b))
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), s => Pin::new(s).poll_shutdown(cx))
    }
}
