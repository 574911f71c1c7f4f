//! A connection as the protocol layers see it: plain or TLS, from a client or to an upstream, one enum instead of a
//! `dyn` so that the plain path inlines. The one surprise: `flush` matters for TLS only.
use crate::address::Address;
use crate::socket::{Readable, Socket, is_unreadable, poll_peek};
use crate::tls::{ServerTlsStream, TlsInfo};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A stream within a connection that carries several, such as one request of HTTP/2. Reading yields the body that comes,
/// writing sends ours; ends and heads are the protocol's own matter.
pub trait Substream: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug {
    /// As [`Stream::poll_readable`]: `Error` once the other side has given the stream up.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<Readable>;
}

/// A byte stream to a client or an upstream.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// Plain Unix stream socket.
    Unix(UnixStream),
    /// TLS with a client of ours.
    ServerTls(Box<ServerTlsStream>),
    /// TLS to an upstream.
    ClientTls(Box<tokio_rustls::client::TlsStream<Socket>>),
    /// One of many on a connection.
    Sub(Box<dyn Substream>),
}

impl From<Socket> for Stream {
    fn from(s: Socket) -> Self {
        match s {
            Socket::Tcp(s) => Self::Tcp(s),
            Socket::Unix(s) => Self::Unix(s),
        }
    }
}

macro_rules! each {
    ($self:expr, $s:ident => $e:expr) => {
        match $self {
            Stream::Tcp($s) => $e,
            Stream::Unix($s) => $e,
            Stream::ServerTls($s) => {
                let $s = &mut $s.io;
                $e
            }
            Stream::ClientTls($s) => {
                let $s = &mut **$s;
                $e
            }
            Stream::Sub($s) => {
                let $s = &mut **$s;
                $e
            }
        }
    };
}

impl Stream {
    /// Ready when an idle connection is no longer idle: bytes, end of file or an error. Takes nothing on a plain
    /// socket: readiness is confirmed with a peek, since tokio's flag may be a leftover of the last read. On TLS the
    /// record layer must be read (session tickets arrive on idle connections and are no reason to drop one), so one
    /// byte of unasked-for plaintext is lost: `Data` from a TLS stream means "discard it", which is what an idle
    /// connection with bytes on it deserves.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<Readable> {
        match self {
            Self::Tcp(s) => poll_peek(s, cx),
            Self::Unix(s) => poll_peek(s, cx),
            Self::Sub(s) => s.poll_readable(cx),
            Self::ServerTls(_) | Self::ClientTls(_) => {
                let mut byte = [0];
                let mut b = ReadBuf::new(&mut byte);
                match Pin::new(self).poll_read(cx, &mut b) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Err(_)) => Poll::Ready(Readable::Error),
                    Poll::Ready(Ok(())) if b.filled().is_empty() => Poll::Ready(Readable::Eof),
                    Poll::Ready(Ok(())) => Poll::Ready(Readable::Data),
                }
            }
        }
    }

    /// Whether an idle pooled connection may carry the next request: nothing has arrived, it is not closed. Costs no
    /// system call unless something did arrive. On TLS it drops the waker of an earlier `poll_readable`.
    #[inline]
    pub fn is_quiet(&mut self) -> bool {
        match self {
            // Without a waker to register there is no lock to take.
            Self::Tcp(s) => is_unreadable(s),
            Self::Unix(s) => is_unreadable(s),
            _ => self.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending(),
        }
    }

    /// The other end of the socket (behind a PROXY protocol header this is the balancer, not the client).
    pub fn peer_addr(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(s) => s.peer_addr().map(Address::Ip),
            Self::Unix(s) => s.peer_addr().map(|a| crate::socket::unix_name(&a)),
            Self::ServerTls(s) => s.io.get_ref().0.peer_addr(),
            Self::ClientTls(s) => s.get_ref().0.peer_addr(),
            Self::Sub(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Our end of the socket.
    pub fn local_addr(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(s) => s.local_addr().map(Address::Ip),
            Self::Unix(s) => s.local_addr().map(|a| crate::socket::unix_name(&a)),
            Self::ServerTls(s) => s.io.get_ref().0.local_addr(),
            Self::ClientTls(s) => s.get_ref().0.local_addr(),
            Self::Sub(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Makes the end of a plain TCP connection a reset: the other side must not take it for an answer. TLS and Unix sockets
    /// are closed as usual.
    pub fn reset_on_drop(&self) {
        if let Self::Tcp(s) = self {
            let _ = s.set_zero_linger();
        }
    }

    /// Whether bytes are encrypted.
    #[inline]
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::ServerTls(_) | Self::ClientTls(_))
    }

    /// The agreed application protocol, such as `h2`.
    #[inline]
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Sub(_) => None,
            Self::ServerTls(s) => s.io.get_ref().1.alpn_protocol(),
            Self::ClientTls(s) => s.get_ref().1.alpn_protocol(),
        }
    }

    /// What the handshake settled. Builds a fresh value: take it once per connection, not per request.
    pub fn tls_info(&self) -> Option<TlsInfo> {
        match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Sub(_) => None,
            Self::ServerTls(s) => Some(TlsInfo::of_server(s)),
            Self::ClientTls(s) => Some(TlsInfo::of_client(s.get_ref().1)),
        }
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, b: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), s => Pin::new(s).poll_read(cx, b))
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        let own = self.get_mut();
        // Nearly always the socket takes it: `poll_write` would prepare to wait first.
        if let Stream::Tcp(socket) = own {
            match socket.try_write(b) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
        each!(own, s => Pin::new(s).poll_write(cx, b))
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
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), s => Pin::new(s).poll_flush(cx))
    }

    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), s => Pin::new(s).poll_shutdown(cx))
    }
}
