//! Where something listens or connects: an IP and port, or a Unix socket path.
//! The one surprise: host names are not addresses; `dns` turns them into `Address::Ip` first.
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// An IP address with port, or the path of a Unix stream socket. Cloning never copies the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6.
    Ip(SocketAddr),
    /// A Unix stream socket; an empty path is an unnamed socket (the client side of most connections).
    Unix(Arc<Path>),
}

impl Address {
    /// The address of a Unix socket at `path`.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::Unix(Arc::from(path.into()))
    }

    /// The IP address, if this is not a Unix socket.
    #[inline]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(a) => Some(a.ip()),
            Self::Unix(_) => None,
        }
    }

    /// The port; 0 for a Unix socket.
    #[inline]
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(a) => a.port(),
            Self::Unix(_) => 0,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(a: SocketAddr) -> Self {
        Self::Ip(a)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(a) => a.fmt(f),
            Self::Unix(p) => write!(f, "unix:{}", p.display()),
        }
    }
}

/// The text is neither `ip:port`, `[ip6]:port` nor `unix:/path`.
#[derive(Debug, thiserror::Error)]
#[error("not an address: {0:?} (expected ip:port, [ip6]:port or unix:/path)")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Self, AddressError> {
        match s.strip_prefix("unix:") {
            Some(p) if !p.is_empty() => Ok(Self::unix(p)),
            Some(_) => Err(AddressError(s.to_owned())),
            None => s.parse().map(Self::Ip).map_err(|_| AddressError(s.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints_each_form() {
        for s in ["127.0.0.1:9080", "[::1]:80", "unix:/run/x.sock"] {
            assert_eq!(s.parse::<Address>().unwrap().to_string(), s);
        }
        for s in ["", "unix:", "localhost:80", "::1:80", "1.2.3.4", "1.2.3.4:99999"] {
            assert!(s.parse::<Address>().is_err(), "{s}");
        }
    }
}
