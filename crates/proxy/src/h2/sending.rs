//! Sending a request to a node that speaks HTTP/2: a place on a shared connection, the head, what became of it.
//!
//! The surprise: a node of scheme `h2` that does not agree to HTTP/2 in the handshake is asked in HTTP/1.1 on that connection,
//! which then lives in the pool of such connections.
use super::asked::{Asked, NoAnswer};
use super::pool;
use crate::exchange::Exchange;
use crate::forwarded;
use crate::send::{AttemptError, Outgoing, host_field};
use sluice_http::Known;
use sluice_net::{Stream, timer};
use sluice_plugin::Context;
use sluice_upstream::pool::{PoolKey, Pooled};
use sluice_upstream::{FailureKind, Scheme, Upstream};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

impl Exchange<'_> {
    /// The same in HTTP/2: a place on a connection that others may share. Of scheme `h2` the node may turn out to speak HTTP/1.1.
    pub(crate) async fn attempt_h2(
        &mut self,
        cx: &mut Context,
        upstream: &Upstream,
        key: &PoolKey,
        host: Option<&str>,
        fresh: bool,
        (scheme, begun, address): (Scheme, Instant, SocketAddr),
    ) -> Result<(Duration, bool), AttemptError> {
        self.tries.connect_time = None;
        let (worker, settings) = (self.worker, &upstream.pool);
        let tls = scheme.is_tls().then_some(&upstream.tls);
        let (negotiates, upgrades) = (scheme == Scheme::H2, self.upgrades(cx));
        // A retry for a broken connection takes one that was opened since, or its own.
        let after = if fresh { self.tries.connection } else { 0 };
        let take = || worker.shared_pool.borrow_mut().take(key, settings, after, timer::now_coarse());
        let mut place = take();
        if place.is_none() && negotiates {
            let old = worker.shared_pool.borrow_mut().is_old(key, timer::now_coarse());
            let reused = if old && !fresh { worker.pool.borrow_mut().take(key) } else { None };
            if let Some(pooled) = reused {
                self.tries.pooled = true;
                self.tries.connect_time = Some(Duration::ZERO);
                worker.figures.upstream.reused.inc();
                let outgoing = Outgoing::alone(pooled, begun, address);
                return self.attempt_old(cx, upstream, key, host, outgoing).await;
            }
            if old {
                // Nobody gains from waiting for somebody else's connection.
                let pooled = self.connect(cx, upstream, key, tls, host).await?;
                if pooled.stream.alpn() != Some(b"h2") {
                    self.tries.pooled = false;
                    self.tries.connect_time = Some(begun.elapsed());
                    let outgoing = Outgoing::alone(pooled, begun, address);
                    return self.attempt_old(cx, upstream, key, host, outgoing).await;
                }
                place = Some(self.open_h2(cx, upstream, key, pooled, upgrades).await?);
            }
        }
        if let Some(found) = &place {
            self.tries.connection = found.number;
        }
        // One that fails although it is new to this request is the node's failure.
        self.tries.pooled = place.is_some() && !fresh;
        if place.is_none() {
            let opening = worker.shared_pool.borrow_mut().opening(key);
            // Whoever waited may find the connection that was waited for.
            let turn = opening.lock().await;
            place = take();
            self.tries.pooled = place.is_some() && !fresh;
            if place.is_none() {
                let pooled = self.connect(cx, upstream, key, tls, host).await?;
                if negotiates && pooled.stream.alpn() != Some(b"h2") {
                    worker.shared_pool.borrow_mut().set_old(key, true, timer::now_coarse());
                    drop(turn);
                    self.tries.connect_time = Some(begun.elapsed());
                    let outgoing = Outgoing::alone(pooled, begun, address);
                    return self.attempt_old(cx, upstream, key, host, outgoing).await;
                }
                place = Some(self.open_h2(cx, upstream, key, pooled, upgrades).await?);
            }
            self.tries.connect_time = Some(begun.elapsed());
        }
        let Some(place) = place else { return Err(AttemptError::upstream(FailureKind::Connect, false)) };
        self.tries.connection = place.number;
        let asked = Asked::new(place, scheme);
        let tunnel = upgrades && asked.tunnels();
        if upgrades && !tunnel {
            drop(asked);
            let Some(old) = &upstream.old_tls else {
                tracing::warn!(upstream = %upstream.key, node = %address, "the node opens no WebSocket over HTTP/2 (RFC 8441)");
                return Err(AttemptError::upstream(FailureKind::BadResponse, false));
            };
            // It may in HTTP/1.1, which then is all that it is offered.
            let pooled = self.connect(cx, upstream, key, Some(old), host).await?;
            self.tries.pooled = false;
            self.tries.connect_time = Some(begun.elapsed());
            let outgoing = Outgoing::alone(pooled, begun, address);
            return self.attempt_old(cx, upstream, key, host, outgoing).await;
        }
        let pooled = Pooled { stream: Stream::Sub(Box::new(asked.clone())), requests: 0, open: None };
        let mut outgoing =
            Outgoing { pooled, pending: Vec::new(), begun, address, drained: false, asked: Some(asked), tunnel };
        self.converse(cx, upstream, host, &mut outgoing).await
    }

    /// The same in HTTP/1.1.
    async fn attempt_old(
        &mut self,
        cx: &mut Context,
        upstream: &Upstream,
        key: &PoolKey,
        host: Option<&str>,
        mut outgoing: Outgoing,
    ) -> Result<(Duration, bool), AttemptError> {
        let result = self.converse(cx, upstream, host, &mut outgoing).await;
        self.keep(upstream, key, outgoing, &result);
        result
    }

    /// Begins HTTP/2 on a new connection, and keeps it for others.
    async fn open_h2(
        &self,
        cx: &Context,
        upstream: &Upstream,
        key: &PoolKey,
        pooled: Pooled,
        hears: bool,
    ) -> Result<pool::Place, AttemptError> {
        let settings = &self.worker.settings;
        let opening = pool::open(pooled, &settings.http2, settings.response_head, hears);
        let opened = tokio::time::timeout(self.timeouts(cx, upstream).connect, opening).await;
        let kind = |timeout| if timeout { FailureKind::Timeout } else { FailureKind::Connect };
        let sender = opened.map_err(|_| AttemptError::upstream(kind(true), false))?;
        let sender = sender.map_err(|_| AttemptError::upstream(kind(false), false))?;
        let mut pool = self.worker.shared_pool.borrow_mut();
        pool.set_old(key, false, timer::now_coarse());
        Ok(pool.put(key, sender, &upstream.pool, timer::now_coarse()))
    }

    /// What a failed stream says of its node.
    pub(crate) fn no_answer(&self, outgoing: &Outgoing, failed: &NoAnswer) -> AttemptError {
        tracing::warn!(node = %outgoing.address, error = %failed.error, "no answer of an upstream in HTTP/2");
        match failed.unprocessed {
            // Where a part of the body is gone it counts as sent, as it cannot be sent again.
            true => AttemptError::upstream(FailureKind::Refused, self.streamed),
            false => AttemptError::upstream(FailureKind::Reset, true),
        }
    }

    /// What came behind the request's body, for a node that speaks HTTP/2. HTTP/1's trailers stay where they are between two
    /// sides of HTTP/1, and are none of a node's that gets a request of HTTP/2 as one of HTTP/1: it may take them for fields.
    pub(crate) fn request_trailers(&self) -> Option<http::HeaderMap> {
        if let Some(answer) = &self.client.h2 {
            return answer.get().request_trailers.as_deref().cloned();
        }
        let lines = self.trailer_lines.as_ref()?;
        let map = sluice_http::h2::trailer_map(&sluice_http::trailers::parse(lines));
        (!map.is_empty()).then_some(map)
    }
}

/// The same for a node that speaks HTTP/2. Calls of gRPC go as they are (apisix/cli/ngx_tpl.lua, `location @grpc_pass`); other
/// requests get what those of HTTP/1 get. `None` where the host or the target cannot stand in a head.
pub(crate) fn head_h2(
    cx: &Context,
    host: Option<&str>,
    own_length: Option<usize>,
    scheme: Scheme,
) -> Option<http::Request<()>> {
    let request = &cx.request;
    let host = host_field(cx, host);
    let mut head = sluice_http::h2::request_head(request.method_text(), scheme.is_tls(), host, cx.upstream_target())?;
    let fields = head.headers_mut();
    let replaced = own_length.is_some() || cx.upstream.decoder.is_some();
    let kind = cx.upstream.content_type;
    let call = scheme.is_grpc();
    sluice_http::h2::fields(&request.headers, fields, |known| match known {
        Known::Host | Known::Expect => true,
        Known::XRealIp | Known::XForwardedFor => !call,
        Known::ContentLength => replaced,
        Known::ContentType => kind.is_some(),
        _ => false,
    });
    if !call {
        let mut added = Vec::with_capacity(256);
        forwarded::write(cx, &mut added);
        sluice_http::h2::append_lines(&added, fields);
    }
    if let Some(kind) = kind {
        fields.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    }
    if let Some(length) = own_length {
        fields.insert(http::header::CONTENT_LENGTH, length.into());
    }
    if call || sluice_http::trailers::are_read(&request.headers) {
        fields.insert(http::header::TE, http::HeaderValue::from_static("trailers"));
    }
    Some(head)
}

/// Makes the request to change to `websocket` an extended CONNECT (RFC 8441 section 4).
pub(crate) fn to_tunnel(head: &mut http::Request<()>) {
    *head.method_mut() = http::Method::CONNECT;
    head.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    // Section 5.1: what HTTP/1's handshake proves is plain here.
    head.headers_mut().remove("sec-websocket-key");
}
