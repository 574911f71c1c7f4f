//! Connections from the gateway to itself, for `batch-requests` and `aggregate`: what they send meets routes, plugins and logs as
//! any other request does.
//!
//! The surprise: the gateway must know its own connections again, or a list in a list could multiply without end.
use crate::answer::{Answer, Answers, write_all};
use sluice_net::proxy_protocol::write_v1;
use sluice_net::tls::{ClientTls, ClientTlsConfig};
use sluice_net::{Address, ConnectOptions, Stream, connect};
use sluice_plugin::{Context, Env};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Our side of the connections that are open.
type Own = Arc<Mutex<HashSet<SocketAddr>>>;

/// A request as it is sent.
#[derive(Debug, PartialEq)]
pub struct Wire {
    pub bytes: Vec<u8>,
    /// Its answer has no body.
    pub to_head: bool,
}

pub struct Gateway {
    own: Own,
    tls: ClientTls,
}

/// How to reach the listener that the outer request came by.
struct Door {
    address: SocketAddr,
    /// The server name of the outer connection, where that is TLS.
    server_name: Option<String>,
    /// The listener wants to be told whom a connection is for.
    announce: Option<(SocketAddr, SocketAddr)>,
}

impl Gateway {
    pub fn new(env: &Env) -> Result<Gateway, String> {
        let own = env.shared.get_or_insert("traffic#own-connections", Own::default);
        // It is our own certificate that we meet.
        let tls = ClientTls::new(&ClientTlsConfig::default()).map_err(|e| e.to_string())?;
        Ok(Gateway { own: Own::clone(&own), tls })
    }

    /// Whether a request came by a connection of ours.
    pub fn is_own(&self, cx: &Context) -> bool {
        let peer = cx.connection.proxy_peer.unwrap_or(cx.connection.peer);
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        self.own.lock().unwrap_or_else(PoisonError::into_inner).contains(&peer)
    }

    pub async fn connect(&self, cx: &Context, limit: Duration) -> io::Result<Line<'_>> {
        let connection = &cx.connection;
        let ip = match connection.local.ip().to_canonical() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let name = |tls: &sluice_plugin::TlsInfo| tls.server_name.as_deref().unwrap_or("localhost").to_owned();
        let mut line = Line {
            gateway: self,
            door: Door {
                address: SocketAddr::new(ip, connection.local.port()),
                server_name: connection.tls.as_ref().map(name),
                announce: connection.proxy_peer.map(|_| (connection.peer, connection.local)),
            },
            open: None,
        };
        line.open(limit).await?;
        Ok(line)
    }
}

/// One connection at a time.
pub struct Line<'a> {
    gateway: &'a Gateway,
    door: Door,
    open: Option<Open>,
}

struct Open {
    stream: Stream,
    answers: Answers,
    own: Own,
    name: Option<SocketAddr>,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(name) = self.name {
            self.own.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        }
    }
}

impl Line<'_> {
    async fn open(&mut self, limit: Duration) -> io::Result<()> {
        let Door { address, server_name, announce } = &self.door;
        let options = ConnectOptions { timeout: limit, ..ConnectOptions::default() };
        // PROXY protocol comes before the handshake.
        let plain = |e: sluice_net::ConnectError| e.source;
        let stream = match (server_name, announce) {
            (Some(name), None) => {
                connect(&Address::Ip(*address), &options, Some((&self.gateway.tls, name))).await.map_err(plain)?
            }
            (Some(_), Some(_)) => return Err(io::Error::other("TLS behind PROXY protocol")),
            (None, announce) => {
                let mut stream = connect(&Address::Ip(*address), &options, None).await.map_err(plain)?;
                if let Some((peer, local)) = announce {
                    let mut head = Vec::new();
                    write_v1(&Address::Ip(*peer), &Address::Ip(*local), &mut head);
                    write_all(&mut stream, &head, limit).await?;
                }
                stream
            }
        };
        let own = self.gateway.own.clone();
        let name = match stream.local_addr() {
            Ok(Address::Ip(name)) => Some(name),
            _ => None,
        };
        if let Some(name) = name {
            own.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        }
        self.open = Some(Open { stream, answers: Answers::default(), own, name });
        Ok(())
    }

    /// Sends a request and reads its answer. `limit` is for connecting and between two reads; `keep` is the most body bytes that
    /// are kept.
    pub async fn exchange(&mut self, request: &Wire, limit: Duration, keep: usize) -> io::Result<Answer> {
        if self.open.is_none() {
            self.open(limit).await?;
        }
        let Some(open) = &mut self.open else { return Err(io::ErrorKind::NotConnected.into()) };
        write_all(&mut open.stream, &request.bytes, limit).await?;
        let answer = open.answers.next(&mut open.stream, request.to_head, limit, keep).await?;
        if !answer.head.keep_alive {
            self.open = None;
        }
        Ok(answer)
    }
}
