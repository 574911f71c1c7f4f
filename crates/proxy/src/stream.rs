//! One TCP connection on a stream route: match, let plugins look at its first bytes, connect, pass bytes both ways.
//!
//! The surprise: there is no answer to give. What cannot be served is closed, and only the operator's log says why; and a
//! connection keeps the upstream and node it got, whatever changes in the configuration after.
mod preread;
mod upstream;

use crate::figures::{ActiveStream, StreamFigures};
use crate::tunnel::{self, End, Ended};
use crate::worker::Worker;
use sluice_config::{RouteUpstream, Snapshot};
use sluice_net::proxy_protocol::write_v1;
use sluice_net::{Address, Stream, Timeout};
use sluice_plugin::{Connection, StreamContext, StreamPlugin, UpstreamRef};
use sluice_router::StreamRequest;
use sluice_upstream::Upstream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// A client's connection under way.
struct Session {
    worker: Rc<Worker>,
    client: Stream,
    timeout: Timeout,
    cx: StreamContext,
    figures: Arc<StreamFigures>,
    /// The route's plugins that want to hear of the end.
    loggers: Vec<Arc<dyn StreamPlugin>>,
}

/// Why a connection is closed before any byte of it has been passed on.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("not hit any route")]
    NoRoute,
    #[error("the client's certificate was not verified")]
    Certificate,
    #[error("{plugin}: {reason}")]
    Plugin { plugin: &'static str, reason: String },
    #[error("the client closed before it had sent what plugins read")]
    Closed,
    #[error("the client did not send what plugins read in time")]
    Timeout,
    #[error("{plugin} waits for {wanted} bytes, more than sluice.limits.stream_preread_bytes")]
    TooLong { plugin: &'static str, wanted: usize },
    #[error("failed to fetch the route's service")]
    MissingService,
    #[error("failed to fetch the route's upstream")]
    MissingUpstream,
    #[error("the route has no upstream")]
    NoUpstream,
    #[error("no valid upstream node")]
    NoNode,
    #[error("all upstream nodes tried")]
    Exhausted,
    #[error("the gateway ends")]
    Drained,
}

impl Refused {
    /// The code that nginx ends such a session with (src/stream/ngx_stream.h).
    fn status(&self) -> u16 {
        match self {
            Refused::Closed | Refused::Timeout | Refused::Drained => 200,
            Refused::TooLong { .. } => 400,
            Refused::Plugin { .. } => 503,
            Refused::NoNode | Refused::Exhausted => 502,
            _ => 500,
        }
    }
}

/// Serves a connection until it ends. `announce`: a PROXY protocol header goes before the client's bytes.
pub async fn serve_stream(
    worker: Rc<Worker>,
    client: Stream,
    connection: Connection,
    announce: bool,
    figures: Arc<StreamFigures>,
) {
    let mut cx = StreamContext::new(connection, "".into());
    cx.listen_addr = figures.listen_addr.clone();
    let _active = ActiveStream::of(&figures);
    let mut session = Session { worker, client, timeout: Timeout::new(), cx, figures, loggers: Vec::new() };
    let result = session.run(announce).await;
    if let Err(refused) = &result {
        session.cx.status = refused.status();
        if matches!(refused, Refused::Plugin { .. }) {
            session.cx.rejected.get_or_insert(refused.status());
        }
    }
    for plugin in &session.loggers {
        plugin.log(&session.cx);
    }
    if let Err(refused) = result {
        let (peer, route) = (session.cx.connection.peer, &session.cx.route_id);
        match refused {
            Refused::NoRoute | Refused::Closed | Refused::Drained => {
                tracing::info!(%peer, route = &**route, "stream connection closed: {refused}");
            }
            _ => tracing::error!(%peer, route = &**route, "stream connection closed: {refused}"),
        }
        if !session.client.is_tls() {
            // Bytes that nobody took make nginx's close a reset; those a plugin has read count as not taken.
            if !session.cx.head.is_empty() {
                session.client.reset_on_drop();
            }
            return;
        }
    }
    close(&mut session.client, &session.timeout).await;
}

/// Closes in order, as far as the other side takes part.
async fn close(stream: &mut Stream, timeout: &Timeout) {
    const LIMIT: Duration = Duration::from_secs(5);
    let _ = timeout.limit(LIMIT, stream.shutdown()).await;
}

impl Session {
    async fn run(&mut self, announce: bool) -> Result<(), Refused> {
        // The snapshot is let go before the bytes flow: a session may outlive many of them.
        let route = {
            let snapshot = self.worker.snapshot();
            if !self.certificate_accepted(&snapshot) {
                return Err(Refused::Certificate);
            }
            let connection = &self.cx.connection;
            let request = StreamRequest {
                remote: self.cx.client_ip(),
                server: connection.local,
                sni: connection.tls.as_ref().and_then(|tls| tls.server_name.as_deref()),
            };
            let route = snapshot.stream_router.find(&request).cloned().ok_or(Refused::NoRoute)?;
            self.cx.route_id = route.id.clone();
            self.cx.route_name.clone_from(&route.name);
            self.loggers =
                route.plugins.iter().filter(|entry| entry.plugin.logs()).map(|entry| entry.plugin.clone()).collect();
            if route.missing_service {
                return Err(Refused::MissingService);
            }
            route
        };
        self.preread(&route.plugins).await?;
        let upstream = self.upstream(&route.upstream)?;
        drop(route);
        let balancer = upstream.nodes.balancer().to_arc();
        let (mut node, held, latency) = self.connect(&upstream, &balancer).await?;
        let mut to_upstream = Vec::new();
        if announce {
            let (peer, local) = (self.cx.connection.peer, self.cx.connection.local);
            write_v1(&Address::Ip(peer), &Address::Ip(local), &mut to_upstream);
        }
        let read_before = self.cx.head.len() as u64;
        to_upstream.append(&mut self.cx.head);
        let mut to_client = Vec::new();
        let client = End { stream: &mut self.client, pending: &mut to_client };
        let up = End { stream: &mut node, pending: &mut to_upstream };
        // What plugins have read, and the header in front, were taken in before the tunnel counts.
        self.figures.first(read_before, up.pending.len() as u64);
        let idle = upstream.stream_idle;
        let passed = tunnel::run(client, up, &self.timeout, idle, &self.worker.drain, Some(&*self.figures)).await;
        self.cx.status = match passed.ended {
            Ended::Closed | Ended::Drained => 200,
            Ended::ClientFailed => 400,
            Ended::UpstreamFailed | Ended::Idle => 502,
        };
        held.answered(0, None, &upstream::outcome(latency));
        tracing::debug!(
            peer = %self.cx.connection.peer, route = &*self.cx.route_id, sent = passed.to_client,
            received = passed.to_upstream, ended = ?passed.ended, "stream connection ended"
        );
        close(&mut node, &self.timeout).await;
        Ok(())
    }

    /// A plugin's choice, or the route's.
    fn upstream(&mut self, own: &RouteUpstream) -> Result<Arc<Upstream>, Refused> {
        match (self.cx.upstream.take(), own) {
            (Some(UpstreamRef::Inline(upstream)), _) => Ok(upstream),
            (Some(UpstreamRef::Id(id)), _) => {
                self.worker.snapshot().upstreams.get(&id).cloned().ok_or(Refused::MissingUpstream)
            }
            (None, RouteUpstream::Found(upstream)) => Ok(upstream.clone()),
            (None, RouteUpstream::Missing) => Err(Refused::MissingUpstream),
            (None, RouteUpstream::None) => Err(Refused::NoUpstream),
        }
    }

    /// An ssl object with `skip_mtls_uri_regex` lets everybody through the handshake; here there is no URI to except. One may also
    /// have come to ask for certificates since.
    fn certificate_accepted(&self, snapshot: &Snapshot) -> bool {
        let tls = self.cx.connection.tls.as_ref();
        tls.is_none_or(|tls| &*tls.client_verify == "SUCCESS" || !snapshot.mutual.contains_key(&tls.ssl_id))
    }
}
