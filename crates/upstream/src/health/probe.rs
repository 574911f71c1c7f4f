//! One probe of one node, by type. Each uses a connection of its own and closes it.
//!
//! The surprise: the time-out holds twice, for connecting (TLS included) and for the exchange after it, which is close to
//! lua-resty-healthcheck's "each socket operation".
use sluice_net::tls::ClientTls;
use sluice_net::{Address, ConnectErrorKind, ConnectOptions, connect};

use super::checks::{Active, ProbeKind};
use super::target::Target;

mod grpc;
mod http;
mod http2;
mod redis;

/// How a probe went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The node is well.
    Good,
    /// It answered, and says or shows that it is not.
    Bad,
    /// An HTTP status, for the lists to decide.
    Status(u16),
    /// No connection, or it ended early.
    Broken,
    Timeout,
}

/// Probes once. `h2c`: HTTP without TLS is HTTP/2.
pub(super) async fn probe(active: &Active, target: &Target, host: &str, tls: Option<&ClientTls>, h2c: bool) -> Verdict {
    let options = ConnectOptions { timeout: active.timeout, ..ConnectOptions::default() };
    let name = sni(host);
    let mut stream = match connect(&Address::Ip(target.address), &options, tls.map(|tls| (tls, name))).await {
        Ok(stream) => stream,
        Err(error) => {
            if tls.is_some() && error.kind == ConnectErrorKind::Tls {
                tracing::error!(
                    "[healthcheck] failed SSL handshake with '{} ({}:{})', using server name (sni) '{name}': {error}",
                    target.hostname,
                    target.ip(),
                    target.address.port()
                );
            }
            return if error.kind == ConnectErrorKind::Timeout { Verdict::Timeout } else { Verdict::Broken };
        }
    };
    let exchange = async {
        match active.kind {
            ProbeKind::Http if h2c => http2::ask(active, host, stream).await,
            ProbeKind::Https if stream.alpn() == Some(b"h2") => http2::ask(active, host, stream).await,
            ProbeKind::Http | ProbeKind::Https => http::ask(active, host, &mut stream).await,
            ProbeKind::Tcp => Ok(Verdict::Good),
            ProbeKind::Redis => redis::ask(active, &mut stream).await,
            ProbeKind::Grpc => grpc::ask(active, host, stream).await,
        }
    };
    match tokio::time::timeout(active.timeout, exchange).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => {
            tracing::debug!(node = %target.address, %error, "a health check's exchange failed");
            Verdict::Broken
        }
        Err(_) => Verdict::Timeout,
    }
}

/// The host without its port.
fn sni(host: &str) -> &str {
    let end = match host.strip_prefix('[') {
        Some(_) => host.find(']').map(|at| at + 1),
        None => host.find(':'),
    };
    end.and_then(|end| host.get(..end)).unwrap_or(host)
}

#[cfg(test)]
mod tests;
