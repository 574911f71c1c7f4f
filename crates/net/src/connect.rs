//! Connecting to an upstream: TCP or Unix, then TLS if asked for, all within one time limit.
//! The one surprise: the kind of an error, not its text, is what retries are decided on.
use crate::address::Address;
use crate::socket::Socket;
use crate::stream::Stream;
use crate::tls::ClientTls;
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};

/// How to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Limit on connection and TLS handshake together (`timeout.connect`; APISIX: 60 s).
    pub timeout: Duration,
    /// TCP keepalive: first probe after this long.
    pub keepalive: Option<Duration>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(60), keepalive: None }
    }
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectErrorKind {
    /// Nobody listens there.
    Refused,
    /// The limit passed.
    Timeout,
    /// Closed while connecting.
    Reset,
    /// The TLS handshake failed.
    Tls,
    /// The name has no address.
    Dns,
    /// No route, out of descriptors, and so on.
    Other,
}

/// No connection: where to, and why.
#[derive(Debug, thiserror::Error)]
#[error("connecting to {address}: {source}")]
pub struct ConnectError {
    /// The address tried; a host name when it has none.
    pub address: String,
    /// What sort of failure.
    pub kind: ConnectErrorKind,
    /// The failure itself.
    pub source: io::Error,
}

impl ConnectError {
    /// A name that could not be resolved.
    pub fn dns(host: &str, source: crate::dns::DnsError) -> Self {
        Self { address: host.to_owned(), kind: ConnectErrorKind::Dns, source: io::Error::other(source) }
    }

    fn new(address: &Address, source: io::Error, tls: bool) -> Self {
        use io::ErrorKind as E;
        let kind = match source.kind() {
            E::TimedOut => ConnectErrorKind::Timeout,
            E::ConnectionReset | E::BrokenPipe | E::UnexpectedEof | E::ConnectionAborted => ConnectErrorKind::Reset,
            _ if tls => ConnectErrorKind::Tls,
            // A Unix socket's missing file is a listener that is not there.
            E::ConnectionRefused | E::NotFound => ConnectErrorKind::Refused,
            _ => ConnectErrorKind::Other,
        };
        Self { address: address.to_string(), kind, source }
    }
}

/// Connects to `address`, with TLS as `name` when given.
pub async fn connect(
    address: &Address,
    options: &ConnectOptions,
    tls: Option<(&ClientTls, &str)>,
) -> Result<Stream, ConnectError> {
    connect_from(address, None, options, tls).await
}

/// As `connect`, from a local IP address.
pub async fn connect_from(
    address: &Address,
    local: Option<std::net::IpAddr>,
    options: &ConnectOptions,
    tls: Option<(&ClientTls, &str)>,
) -> Result<Stream, ConnectError> {
    // One timer per new connection, none per request.
    let deadline = tokio::time::Instant::now() + options.timeout;
    let socket = within(deadline, open(address, local, options)).await;
    let socket = socket.map_err(|e| ConnectError::new(address, e, false))?;
    match tls {
        None => Ok(socket.into()),
        Some((tls, name)) => {
            within(deadline, tls.connect(socket, name)).await.map_err(|e| ConnectError::new(address, e, true))
        }
    }
}

async fn within<T>(at: tokio::time::Instant, f: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout_at(at, f).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn open(address: &Address, local: Option<std::net::IpAddr>, options: &ConnectOptions) -> io::Result<Socket> {
    let socket = match (address, local) {
        (Address::Ip(a), None) => Socket::Tcp(TcpStream::connect(a).await?),
        (Address::Ip(a), Some(ip)) => {
            let s = if a.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
            s.bind((ip, 0).into())?;
            Socket::Tcp(s.connect(*a).await?)
        }
        (Address::Unix(p), _) => Socket::Unix(UnixStream::connect(p).await?),
    };
    socket.set_nodelay()?;
    if let Some(idle) = options.keepalive {
        socket.set_keepalive(idle)?;
    }
    Ok(socket)
}
