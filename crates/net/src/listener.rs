//! Listening sockets: bound once at start for every worker, then handed to the workers.
//! The one surprise: with `reuseport` each worker gets its own TCP socket (the kernel spreads connections); without
//! it, and always for Unix sockets, the workers share one queue through duplicated descriptors.
use crate::address::Address;
use crate::drain::Drain;
use crate::socket::Socket;
use socket2::{Domain, SockAddr, Type};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};

const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// One listening address and how it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// Where. Port 0 takes a free port, the same one for every worker.
    pub address: Address,
    /// Whether connections begin with a TLS handshake.
    pub tls: bool,
    /// Whether connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Whether clients may speak HTTP/2: by ALPN with TLS, by prior knowledge without.
    pub http2: bool,
    /// A socket per worker (SO_REUSEPORT).
    pub reuseport: bool,
    /// Connections the kernel queues (511, as nginx).
    pub backlog: u32,
    /// Permissions of a Unix socket's file (666 octal, as nginx).
    pub mode: u32,
    /// Whether `[::]` leaves IPv4 alone. nginx's default since 1.3.4 is true.
    pub v6only: bool,
}

impl ListenConfig {
    /// Plain HTTP with nginx's defaults, a socket per worker.
    pub fn new(address: impl Into<Address>) -> Self {
        Self {
            address: address.into(),
            tls: false,
            proxy_protocol: false,
            http2: false,
            reuseport: true,
            backlog: 511,
            mode: 0o666,
            v6only: true,
        }
    }
}

/// Binding failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// What was asked for.
    pub address: Address,
    /// What the system said.
    pub source: io::Error,
}

/// Unlinks the file of a Unix socket when the last listener on it goes.
#[derive(Debug)]
struct SocketFile(Arc<Path>);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A bound socket on its way to a worker.
#[derive(Debug)]
pub struct BoundListener {
    config: ListenConfig,
    socket: socket2::Socket,
    file: Option<Arc<SocketFile>>,
}

impl BoundListener {
    /// Binds `config` for `workers` workers: one listener for each. On an error none stays bound.
    pub fn bind(config: &ListenConfig, workers: usize) -> Result<Vec<Self>, BindError> {
        let fail = |source| BindError { address: config.address.clone(), source };
        let mut config = config.clone();
        let first = match &config.address {
            Address::Ip(_) => Self { socket: bind_tcp(&config).map_err(fail)?, file: None, config: config.clone() },
            Address::Unix(path) => Self {
                socket: bind_unix(path, &config).map_err(fail)?,
                file: Some(Arc::new(SocketFile(path.clone()))),
                config: config.clone(),
            },
        };
        if let Some(a) = first.socket.local_addr().map_err(fail)?.as_socket() {
            config.address = Address::Ip(a);
        }
        let own = config.reuseport && matches!(config.address, Address::Ip(_));
        let mut all = vec![Self { config: config.clone(), ..first }];
        while all.len() < workers {
            let next = match all.first() {
                Some(first) if !own => first.try_clone().map_err(fail)?,
                _ => Self { socket: bind_tcp(&config).map_err(fail)?, file: None, config: config.clone() },
            };
            all.push(next);
        }
        Ok(all)
    }

    /// Takes over a socket that is bound and listening already, from an older process or a service manager.
    pub fn from_fd(config: ListenConfig, fd: OwnedFd) -> io::Result<Self> {
        let socket = socket2::Socket::from(fd);
        socket.set_nonblocking(true)?;
        Ok(Self { config, socket, file: None })
    }

    /// The descriptor, to hand it to another process.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { config: self.config.clone(), socket: self.socket.try_clone()?, file: self.file.clone() })
    }

    /// Where it listens, with the port actually bound.
    pub fn address(&self) -> &Address {
        &self.config.address
    }

    /// Registers the socket with this thread's runtime. Call it on the worker.
    pub fn listen(self) -> io::Result<Listener> {
        let inner = match self.config.address {
            Address::Ip(_) => Inner::Tcp(TcpListener::from_std(self.socket.into())?),
            Address::Unix(_) => Inner::Unix(UnixListener::from_std(self.socket.into())?),
        };
        Ok(Listener { config: self.config, inner, _file: self.file })
    }
}

fn bind_tcp(config: &ListenConfig) -> io::Result<socket2::Socket> {
    let Address::Ip(addr) = config.address else { return Err(ErrorKind::InvalidInput.into()) };
    let s = socket2::Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), None)?;
    s.set_reuse_address(true)?;
    if config.reuseport {
        s.set_reuse_port(true)?;
    }
    if addr.is_ipv6() {
        s.set_only_v6(config.v6only)?;
    }
    // Accepted sockets inherit it on Linux; saves a call per connection.
    s.set_tcp_nodelay(true)?;
    s.bind(&addr.into())?;
    s.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
    Ok(s)
}

fn bind_unix(path: &Path, config: &ListenConfig) -> io::Result<socket2::Socket> {
    let addr = SockAddr::unix(path)?;
    let s = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match s.bind(&addr) {
        Err(e) if e.kind() == ErrorKind::AddrInUse && is_stale(path, &addr) => {
            std::fs::remove_file(path)?;
            s.bind(&addr)?;
        }
        r => r?,
    }
    // Before it listens: nobody connects with permissions that are not meant.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(config.mode))?;
    s.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
    Ok(s)
}

/// A socket file left by a process that is gone: nobody answers there.
fn is_stale(path: &Path, addr: &SockAddr) -> bool {
    let socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    socket
        && socket2::Socket::new(Domain::UNIX, Type::STREAM, None)
            .and_then(|s| s.connect(addr))
            .is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

#[derive(Debug)]
enum Inner {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A listening socket on its worker.
#[derive(Debug)]
pub struct Listener {
    config: ListenConfig,
    inner: Inner,
    _file: Option<Arc<SocketFile>>,
}

impl Listener {
    /// Its settings, with the port actually bound.
    pub fn config(&self) -> &ListenConfig {
        &self.config
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.config.address
    }

    /// The next connection and its other end. Errors are those of one connection or of exhausted resources: `serve`
    /// knows which.
    pub async fn accept(&self) -> io::Result<(Socket, Address)> {
        match &self.inner {
            Inner::Tcp(l) => l.accept().await.map(|(s, a)| (Socket::Tcp(s), Address::Ip(a))),
            Inner::Unix(l) => l.accept().await.map(|(s, a)| (Socket::Unix(s), crate::socket::unix_name(&a))),
        }
    }

    /// Accepts until draining begins, then takes what the kernel has queued (closing would reset it) and closes the
    /// socket. Out of descriptors or memory it waits (10 ms, doubling
    /// to 1 s) and goes on: connections stay in the kernel's queue meanwhile.
    pub async fn serve(self, drain: &Drain, mut on_connection: impl FnMut(Socket, Address)) {
        let mut backoff = BACKOFF_MIN;
        let mut drained = std::pin::pin!(drain.drained());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut drained => return self.take_queued(&mut on_connection).await,
                r = self.accept() => r,
            };
            match accepted {
                Ok((socket, peer)) => {
                    backoff = BACKOFF_MIN;
                    on_connection(socket, peer);
                }
                Err(e) if is_exhausted(&e) => {
                    tracing::warn!(address = %self.config.address, error = %e, "cannot accept; waiting");
                    tokio::select! {
                        () = &mut drained => return,
                        () = tokio::time::sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                // The client is gone already: the next one, please.
                Err(e) => tracing::debug!(address = %self.config.address, error = %e, "accept"),
            }
        }
    }

    async fn take_queued(&self, on_connection: &mut impl FnMut(Socket, Address)) {
        // At most a queue's worth: others may share the queue and fill it again.
        for _ in 0..self.config.backlog {
            tokio::select! {
                biased;
                r = self.accept() => match r {
                    Ok((socket, peer)) => on_connection(socket, peer),
                    Err(_) => return,
                },
                () = std::future::ready(()) => return,
            }
        }
    }
}

/// EMFILE, ENFILE, ENOBUFS, ENOMEM, and whatever is not one connection's failure (accept(2)): retrying at once would
/// spin.
fn is_exhausted(e: &io::Error) -> bool {
    !matches!(
        e.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
            | ErrorKind::WouldBlock
            | ErrorKind::PermissionDenied
    )
}
