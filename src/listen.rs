//! Listeners of a worker: sockets to connections of the proxy, through PROXY protocol and TLS.
use sluice_config::settings::apisix::Ssl;
use sluice_net::proxy_protocol;
use sluice_net::socket::Socket;
use sluice_net::tls::{PemError, ServerTls, ServerTlsSettings};
use sluice_net::worker::spawn_connection;
use sluice_net::{Address, Drain, Listener, Stream};
use sluice_plugin::{Alpn, Connection, TlsInfo};
use sluice_proxy::{StreamFigures, Worker};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a PROXY protocol header may take.
const PROXY_HEADER: Duration = Duration::from_secs(5);

/// Places in the list of ALPN lists that `boot` gives to `ServerTls`. A stream route agrees to no protocol: what goes over
/// it is between the client and the node.
const HTTP_ALPN: usize = 0;
const STREAM_ALPN: usize = 1;
const HTTP2_ALPN: usize = 2;

/// What accepts TLS on all listeners, without certificates yet.
pub fn server_tls(ssl: &Ssl) -> Result<ServerTls, PemError> {
    ServerTls::new(ServerTlsSettings {
        // by the places above
        alpn: vec![vec![b"http/1.1".to_vec()], Vec::new(), vec![b"h2".to_vec(), b"http/1.1".to_vec()]],
        fallback_sni: ssl.fallback_sni.clone(),
        session_tickets: ssl.ssl_session_tickets,
        ciphers: ssl.ssl_ciphers.clone(),
        ..ServerTlsSettings::default()
    })
}

/// Accepts on one listener until the gateway drains.
pub async fn accept(listener: Listener, worker: Rc<Worker>, tls: Arc<ServerTls>, drain: Drain) {
    let config = listener.config().clone();
    let counted = drain.clone();
    listener
        .serve(&drain, move |socket, peer| {
            let worker = worker.clone();
            if !config.tls && !config.proxy_protocol {
                let connection = connection(&socket, &peer);
                let serving = sluice_proxy::serve(worker, Stream::from(socket), connection, config.http2);
                spawn_connection(&counted, serving);
            } else {
                let (tls, config) = (tls.clone(), config.clone());
                // Boxed, so that plain connections do not pay for the handshake's state.
                let alpn = if config.http2 { HTTP2_ALPN } else { HTTP_ALPN };
                let opening = Box::pin(open(socket, peer, config.proxy_protocol, config.tls, tls, alpn));
                spawn_connection(&counted, async move {
                    if let Some((stream, connection)) = opening.await {
                        sluice_proxy::serve(worker, stream, connection, config.http2).await;
                    }
                });
            }
        })
        .await;
}

/// Accepts connections of stream routes until the gateway drains. `announce`: see [`sluice_proxy::serve_stream`].
pub async fn accept_stream(
    listener: Listener,
    worker: Rc<Worker>,
    tls: Arc<ServerTls>,
    drain: Drain,
    announce: bool,
    figures: Arc<StreamFigures>,
) {
    let config = listener.config().clone();
    let counted = drain.clone();
    listener
        .serve(&drain, move |socket, peer| {
            let (worker, tls, config, figures) = (worker.clone(), tls.clone(), config.clone(), figures.clone());
            spawn_connection(&counted, async move {
                let opened = Box::pin(open(socket, peer, config.proxy_protocol, config.tls, tls, STREAM_ALPN)).await;
                if let Some((stream, connection)) = opened {
                    sluice_proxy::serve_stream(worker, stream, connection, announce, figures).await;
                }
            });
        })
        .await;
}

fn ip(address: &Address) -> SocketAddr {
    match address {
        Address::Ip(address) => *address,
        Address::Unix(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    }
}

fn connection(socket: &Socket, peer: &Address) -> Connection {
    let local = socket.local_addr().map_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), |a| ip(&a));
    Connection::new(ip(peer), local, None)
}

/// PROXY protocol header and TLS handshake; `None` where either fails.
async fn open(
    mut socket: Socket,
    peer: Address,
    proxy_protocol: bool,
    tls: bool,
    server: Arc<ServerTls>,
    alpn: usize,
) -> Option<(Stream, Connection)> {
    let mut connection = connection(&socket, &peer);
    if proxy_protocol {
        let header = tokio::time::timeout(PROXY_HEADER, proxy_protocol::read_header(&mut socket)).await;
        match header {
            Ok(Ok(header)) => {
                if let Some(addresses) = header.addresses {
                    let before = connection.peer;
                    connection = Connection::new(ip(&addresses.source), connection.local, None);
                    connection.proxy_peer = Some(before);
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(peer = %peer, %error, "broken PROXY protocol header");
                return None;
            }
            Err(_) => return None,
        }
    }
    if !tls {
        return Some((Stream::from(socket), connection));
    }
    match server.accept(socket, alpn).await {
        Ok(stream) => {
            connection.tls = stream.tls_info().map(|info| TlsInfo {
                server_name: info.sni.as_deref().map(Into::into),
                protocol: info.protocol_name(),
                cipher: info.cipher_name().into(),
                session_reused: info.session_reused,
                client_verify: info.client_verify.to_string().into(),
                client_certificate: info.peer_certs.first().map(|c| c.to_vec()),
                ssl_id: info.ssl_id,
                alpn: info.alpn.as_deref().and_then(Alpn::parse),
            });
            Some((stream, connection))
        }
        Err(error) => {
            tracing::info!(peer = %peer, %error, "TLS handshake failed");
            None
        }
    }
}
