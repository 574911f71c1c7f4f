//! Connections of loggers that speak no HTTP: names by the gateway's resolver, errors in nginx's words.
use sluice_net::tls::{ClientTls, ClientTlsConfig};
use sluice_net::{Socket, Stream};
use sluice_plugin::{BuildError, Env};
use sluice_upstream::Resolve;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};

/// Where to, and how names are resolved.
#[derive(Clone)]
pub struct Dial {
    resolver: Option<Arc<dyn Resolve>>,
    pub host: String,
    pub port: i64,
}

impl Dial {
    pub fn new(env: &Env, host: &str, port: i64) -> Dial {
        Dial { resolver: env.resolver().cloned(), host: host.to_owned(), port }
    }

    /// The same ways to another place.
    pub fn to(&self, host: &str, port: i64) -> Dial {
        Dial { resolver: self.resolver.clone(), host: host.to_owned(), port }
    }

    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let port = u16::try_from(self.port).map_err(|_| io::Error::other("invalid port"))?;
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let found: Vec<SocketAddr> = match &self.resolver {
            Some(resolver) => {
                let found = resolver.resolve(bare).await.map_err(io::Error::other)?;
                found.addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
            }
            None => tokio::net::lookup_host((bare, port)).await?.collect(),
        };
        if found.is_empty() {
            return Err(io::Error::other(format!("{bare} has no address")));
        }
        Ok(found)
    }

    /// Connects to the first address that takes the connection.
    pub async fn tcp(&self) -> io::Result<TcpStream> {
        let mut last = None;
        for address in self.addresses().await? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    /// A socket that sends to the first address.
    pub async fn udp(&self) -> io::Result<UdpSocket> {
        let address = self.addresses().await?.into_iter().next().ok_or(io::ErrorKind::NotFound)?;
        let own: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(own).await?;
        socket.connect(address).await?;
        Ok(socket)
    }
}

/// TLS on a connection, as `name`.
pub async fn encrypt(tls: &ClientTls, stream: TcpStream, name: &str) -> io::Result<Stream> {
    tls.connect(Socket::Tcp(stream), name).await
}

/// TLS for a logger; trusted are the certificates that the gateway trusts.
pub fn tls(env: &Env, verify: bool) -> Result<ClientTls, BuildError> {
    let ca_pem = env.trusted_certificates.as_deref().map(str::to_owned);
    ClientTls::new(&ClientTlsConfig { verify, ca_pem, ..ClientTlsConfig::default() }).map_err(BuildError::new)
}

/// The result within `limit`, or `timeout`.
pub async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// An error as nginx writes it.
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".into(),
        io::ErrorKind::BrokenPipe => "broken pipe".into(),
        io::ErrorKind::TimedOut => "timeout".into(),
        _ => error.to_string(),
    }
}
