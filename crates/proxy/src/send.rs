//! Sending a request to a node: choice of node, connection, head, body, and whether a failure may go to another node.
use crate::balancing::Balancing;
use crate::breaking::Gate;
use crate::client::{self, BodyError};
use crate::exchange::{Exchange, Gone};
use crate::forwarded;
use crate::grpc;
use crate::h2::{self, Asked, NoAnswer};
use crate::rescue::{self, Trouble};
use crate::scratch;
use crate::shape::{Shape, frame};
use crate::tap;
use serde_json::json;
use sluice_http::h1::{BodyReader, Framing, write};
use sluice_http::{Known, Version};
use sluice_net::{Address, ConnectErrorKind, ConnectOptions, Readable, Stream, connect, timer};
use sluice_plugin::{Attempt as AttemptLog, Context, Phase, Reply, UpstreamRef};
use sluice_upstream::pool::{PoolKey, Pooled};
use sluice_upstream::{
    Algorithm, Failure, FailureKind, FailureSource, Outcome, PickInput, RetryDecision, Scheme, Timeouts, Upstream,
};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

/// Why an attempt ended without a response.
pub(crate) enum AttemptError {
    Failed(Failure),
    /// An answer came, and another node is to give a better one.
    Dropped(u16),
    /// The request's body could not be read, so that there is nothing to send.
    Body(BodyError),
    /// An answer came, and this goes to the client instead; the time until its head.
    Replaced(Box<Reply>, Duration),
    /// The client went away.
    Gone,
}

impl AttemptError {
    pub(crate) fn upstream(kind: FailureKind, sent_bytes: bool) -> AttemptError {
        AttemptError::Failed(Failure { source: FailureSource::Upstream, kind, sent_bytes })
    }
}

/// A connection to a node with a request on it.
pub(crate) struct Outgoing {
    pub pooled: Pooled,
    /// Request bytes that the socket has not taken yet.
    pub pending: Vec<u8>,
    /// When the attempt began.
    pub begun: Instant,
    pub address: SocketAddr,
    /// A dropped answer was whole: the connection can carry another request.
    pub drained: bool,
    /// The request where it goes out in HTTP/2; `pooled.stream` is one of the connection's then.
    pub asked: Option<Asked>,
}

fn say(trouble: Trouble) -> Result<Option<Reply>, Gone> {
    rescue::reply(&trouble).map(Some).ok_or(Gone)
}

impl Exchange<'_> {
    /// The upstream: a plugin's choice, or the route's.
    fn upstream(&self, cx: &Context) -> Result<Arc<Upstream>, Trouble> {
        match &cx.upstream.upstream {
            Some(UpstreamRef::Inline(upstream)) => return Ok(upstream.clone()),
            Some(UpstreamRef::Id(id)) => {
                let missing = || Trouble::MissingChoice(id.clone());
                return self.snapshot.upstreams.get(id).cloned().ok_or_else(missing);
            }
            None => {}
        }
        let route = self.route.as_ref().ok_or(Trouble::NoRoute)?;
        match &route.upstream {
            sluice_config::RouteUpstream::Found(upstream) => Ok(upstream.clone()),
            sluice_config::RouteUpstream::Missing => Err(Trouble::MissingUpstream),
            sluice_config::RouteUpstream::None => Err(Trouble::NoUpstream),
        }
    }

    /// Sends the request and relays the answer. A reply is what to say where there is no answer.
    pub(crate) async fn proxy(&mut self, cx: &mut Context) -> Result<Option<Reply>, Gone> {
        let before = self.chain.has(Phase::BeforeProxy) || self.snapshot.global.has(Phase::BeforeProxy);
        if before && let Some(reply) = self.before_proxy(cx).await {
            return Ok(Some(reply));
        }
        let upstream = match self.upstream(cx) {
            Ok(upstream) => upstream,
            Err(trouble) => return say(trouble),
        };
        if upstream.scheme.is_h2() {
            self.deadline = grpc::deadline(cx);
        }
        let trouble = match self.send_to(cx, &upstream).await? {
            Ok(reply) => return Ok(reply),
            Err(trouble) => trouble,
        };
        self.count_refused(&upstream, &trouble);
        cx.note(|| json!({"trouble": format!("{trouble:?}"), "upstream": upstream.key}));
        // Once: who stands in for another has nobody to stand in for it.
        if let Some(other) = self.fallback(&upstream) {
            self.tries.begin_elsewhere();
            cx.note(|| json!({"fallback": other.key}));
            return match Box::pin(self.send_to(cx, &other)).await? {
                Ok(reply) => Ok(reply),
                Err(trouble) => self.nobody(cx, &other, trouble),
            };
        }
        self.nobody(cx, &upstream, trouble)
    }

    /// The same to one upstream. A trouble says that it has no node to ask, so that another upstream may be.
    async fn send_to(
        &mut self,
        cx: &mut Context,
        upstream: &Arc<Upstream>,
    ) -> Result<Result<Option<Reply>, Trouble>, Gone> {
        let balancer = upstream.nodes.balancer().to_arc();
        if balancer.nodes().is_empty() {
            return Ok(Err(if upstream.nodes.has_names() { Trouble::Unresolved } else { Trouble::NoNode }));
        }
        let _slot = match &upstream.concurrency {
            None => None,
            Some(limit) => match self.enter(limit).await? {
                Ok(slot) => Some(slot),
                Err(refusal) => return Ok(Ok(Some(refusal))),
            },
        };
        let mut hash = Vec::new();
        if balancer.settings().algorithm == Algorithm::Chash {
            sluice_upstream::hash_key(&balancer.settings().hash, cx, &mut hash);
        }
        if let Some(budget) = &upstream.retry.budget {
            budget.request(timer::unix_ms_coarse());
        }
        self.tries.nodes = u32::try_from(balancer.nodes().len()).unwrap_or(u32::MAX);
        let (mut fresh, mut asked, mut broken) = (false, false, false);
        loop {
            let input = PickInput {
                hash_key: Some(&hash),
                random: self.worker.random(),
                now_ms: timer::unix_ms_coarse(),
                worker: self.worker.id,
                sticky: Balancing::asked(&balancer, cx),
            };
            let Some(picked) = balancer.pick(&input, &self.tries.tried) else {
                // A round in which every node turned out broken is the last.
                let another = asked || upstream.breaking.is_none();
                if upstream.retry.rounds && another && !balancer.is_out() && self.tries.begin_again() {
                    asked = false;
                    continue;
                }
                return match (broken, balancer.is_out()) {
                    (true, _) => Ok(Err(Trouble::Broken)),
                    (false, true) => Ok(Err(Trouble::NoNode)),
                    (false, false) => say(Trouble::Exhausted).map(Ok),
                };
            };
            let held = balancer.hold(&picked);
            match self.gate(upstream, picked.endpoint, input.now_ms) {
                Gate::Open => asked = true,
                // A lone node is picked again and again.
                Gate::Node if !self.tries.tried.contains(picked.index) => {
                    broken = true;
                    cx.note(|| json!({"breaker_open": picked.endpoint.address, "upstream": upstream.key}));
                    self.tries.tried.insert(picked.index);
                    continue;
                }
                Gate::Node | Gate::Shut => return Ok(Err(Trouble::Broken)),
            }
            let Some(address) = picked.endpoint.address else { return Ok(Err(Trouble::Unresolved)) };
            // A clock read costs as much as a look-up: the request's own start serves where nothing came between.
            let begun = if std::mem::replace(&mut self.waited, true) { Instant::now() } else { cx.started };
            cx.upstream.node_name = picked.endpoint.domain.clone();
            cx.upstream.node_metadata.clone_from(&picked.endpoint.metadata);
            self.balancing.chosen(upstream, &balancer, picked.index, input.sticky);
            let host = upstream.host.for_node(picked.endpoint);
            let result = self.attempt(cx, upstream, address, host, fresh, begun).await;
            let (result, instead) = match result {
                Err(AttemptError::Replaced(reply, latency)) => (Ok(latency), Some(reply)),
                other => (other, None),
            };
            let error = match result {
                Ok(latency) => {
                    let status = cx.attempts.last().map_or(0, |attempt| attempt.status);
                    let outcome = Outcome { latency, ok: true, now_ms: timer::unix_ms_coarse() };
                    held.answered(status, self.balancing.load, &outcome);
                    if let Some(checker) = &upstream.health
                        && let Some(attempt) = cx.attempts.last()
                    {
                        checker.answered(picked.endpoint, attempt.status, input.now_ms);
                    }
                    return Ok(Ok(instead.map(|reply| *reply)));
                }
                Err(error) if self.answered => {
                    // the node's status went out already
                    if let (Some(checker), Some(attempt)) = (&upstream.health, cx.attempts.last()) {
                        let (node, status, now) = (picked.endpoint, attempt.status, input.now_ms);
                        match &error {
                            AttemptError::Failed(failure) => checker.broke_off(node, failure, status, now),
                            AttemptError::Gone => checker.answered(node, status, now),
                            AttemptError::Body(_) | AttemptError::Dropped(_) | AttemptError::Replaced(..) => {}
                        }
                    }
                    if matches!(error, AttemptError::Failed(_)) {
                        held.failed(input.now_ms);
                    }
                    return Err(Gone);
                }
                Err(error) => error,
            };
            match error {
                AttemptError::Failed(_) | AttemptError::Dropped(_) => held.failed(timer::unix_ms_coarse()),
                AttemptError::Gone | AttemptError::Body(_) | AttemptError::Replaced(..) => drop(held),
            }
            let decision = match error {
                AttemptError::Gone | AttemptError::Replaced(..) => return Err(Gone),
                AttemptError::Body(e) => return say(Trouble::Body(e)).map(Ok),
                AttemptError::Dropped(status) => {
                    tracing::warn!(upstream = %upstream.key, node = %address, status, "an upstream's answer was dropped for another try");
                    cx.note(|| json!({"answer_dropped": address, "upstream": upstream.key, "status": status}));
                    if let Some(checker) = &upstream.health {
                        checker.answered(picked.endpoint, status, input.now_ms);
                    }
                    RetryDecision::Retry { counts: true }
                }
                AttemptError::Failed(failure) => {
                    let status = failure.status();
                    let (response_time, connect_time) = (begun.elapsed(), self.tries.connect_time);
                    cx.attempts.push(AttemptLog { address, status, connect_time, header_time: None, response_time });
                    let decision = self.decide(cx, upstream, failure);
                    match decision {
                        // A stale connection says nothing of the node.
                        RetryDecision::Retry { counts: false } => self.permit = None,
                        _ => self.unheard(upstream, &failure, response_time),
                    }
                    tracing::warn!(upstream = %upstream.key, node = %address, kind = ?failure.kind, ?decision, "upstream attempt failed");
                    cx.note(|| {
                        let (kind, decision) = (format!("{:?}", failure.kind), format!("{decision:?}"));
                        json!({"attempt_failed": address, "upstream": upstream.key, "kind": kind, "decision": decision})
                    });
                    if let Some(checker) = &upstream.health
                        && decision != (RetryDecision::Retry { counts: false })
                    {
                        let last = matches!(decision, RetryDecision::Stop | RetryDecision::TimedOut);
                        checker.failed(picked.endpoint, &failure, last, input.now_ms);
                    }
                    if decision == RetryDecision::Stop {
                        return say(Trouble::Upstream(failure)).map(Ok);
                    }
                    decision
                }
            };
            match decision {
                RetryDecision::Retry { counts: true } => {
                    self.tries.failed(picked.index);
                    fresh = false;
                    if !self.tries.wait.is_zero() {
                        self.back_off().await?;
                    }
                }
                // The connection was stale, not the node: the same node may be asked again, on a new connection.
                RetryDecision::Retry { counts: false } => fresh = true,
                RetryDecision::Stop | RetryDecision::TimedOut => return say(Trouble::Exhausted).map(Ok),
            }
        }
    }

    /// One try on one node; the time until the response's head.
    async fn attempt(
        &mut self,
        cx: &mut Context,
        upstream: &Upstream,
        address: SocketAddr,
        host: Option<&str>,
        fresh: bool,
        begun: Instant,
    ) -> Result<Duration, AttemptError> {
        let scheme = cx.upstream.scheme.as_deref().and_then(Scheme::parse).unwrap_or(upstream.scheme);
        let tls = scheme.is_tls();
        let identity = if tls { upstream.tls.identity_for(tls_name(cx, upstream, host)) } else { 0 };
        let key = PoolKey { address: Address::Ip(address), tls: identity };
        if scheme.is_h2() {
            return Box::pin(self.attempt_h2(cx, upstream, &key, host, fresh, (tls, begun, address))).await;
        }
        let reused = if fresh { None } else { self.worker.pool.borrow_mut().take(&key) };
        self.tries.pooled = reused.is_some();
        self.tries.connect_time = None;
        let pooled = match reused {
            Some(pooled) => {
                self.tries.connect_time = Some(Duration::ZERO);
                self.worker.figures.upstream.reused.inc();
                pooled
            }
            None => {
                let pooled = Box::pin(self.connect(cx, upstream, &key, tls, host)).await?;
                self.tries.connect_time = Some(begun.elapsed());
                pooled
            }
        };
        let mut outgoing = Outgoing { pooled, pending: Vec::new(), begun, address, drained: false, asked: None };
        let result = self.converse(cx, upstream, host, &mut outgoing).await;
        if outgoing.drained || matches!(result, Ok((_, true))) {
            outgoing.pooled.requests += 1;
            self.worker.pool.borrow_mut().put(&key, outgoing.pooled, &upstream.pool, timer::now_coarse());
        }
        result.map(|(latency, _)| latency)
    }

    /// The same in HTTP/2: a place on a connection that others may share.
    async fn attempt_h2(
        &mut self,
        cx: &mut Context,
        upstream: &Upstream,
        key: &PoolKey,
        host: Option<&str>,
        fresh: bool,
        (tls, begun, address): (bool, Instant, SocketAddr),
    ) -> Result<Duration, AttemptError> {
        self.tries.connect_time = None;
        let (worker, settings) = (self.worker, &upstream.pool);
        let take = || worker.shared_pool.borrow_mut().take(key, settings, timer::now_coarse());
        let mut place = if fresh { None } else { take() };
        self.tries.pooled = place.is_some();
        if place.is_none() {
            let opening = worker.shared_pool.borrow_mut().opening(key);
            // Whoever waited may find the connection that was waited for.
            let _turn = opening.lock().await;
            place = if fresh { None } else { take() };
            if place.is_none() {
                let pooled = self.connect(cx, upstream, key, tls, host).await?;
                let sender = h2::pool::open(pooled).await;
                let sender = sender.map_err(|_| AttemptError::upstream(FailureKind::Connect, false))?;
                place = Some(worker.shared_pool.borrow_mut().put(key, sender, settings, timer::now_coarse()));
            }
            self.tries.connect_time = Some(begun.elapsed());
        }
        let Some(place) = place else { return Err(AttemptError::upstream(FailureKind::Connect, false)) };
        let asked = Asked::new(place);
        let pooled = Pooled { stream: Stream::Sub(Box::new(asked.clone())), requests: 0, open: None };
        let mut outgoing = Outgoing { pooled, pending: Vec::new(), begun, address, drained: false, asked: Some(asked) };
        self.converse(cx, upstream, host, &mut outgoing).await.map(|(latency, _)| latency)
    }

    /// A new connection; a client that leaves meanwhile ends the wait for it.
    async fn connect(
        &mut self,
        cx: &Context,
        upstream: &Upstream,
        key: &PoolKey,
        tls: bool,
        host: Option<&str>,
    ) -> Result<Pooled, AttemptError> {
        let options = ConnectOptions { timeout: self.timeouts(cx, upstream).connect, ..ConnectOptions::default() };
        let tls = tls.then(|| (&upstream.tls.client, tls_name(cx, upstream, host)));
        let mut connecting = pin!(connect(&key.address, &options, tls));
        let (client, kept) = (&mut *self.client, self.first_part);
        let connected = poll_fn(|task| match connecting.as_mut().poll(task) {
            Poll::Pending if client.is_gone(task, kept) => Poll::Ready(None),
            other => other.map(Some),
        });
        let figures = &self.worker.figures.upstream;
        match connected.await.ok_or(AttemptError::Gone)? {
            Ok(stream) => {
                figures.connected.inc();
                Ok(Pooled { stream, requests: 0, open: Some(figures.open.guard()) })
            }
            Err(e) => {
                tracing::warn!(upstream = %upstream.key, error = %e, "no connection to the upstream");
                let (kind, count) = match e.kind {
                    ConnectErrorKind::Timeout => (FailureKind::Timeout, &figures.timed_out),
                    ConnectErrorKind::Tls => (FailureKind::Tls, &figures.tls_failed),
                    _ => (FailureKind::Connect, &figures.failed),
                };
                count.inc();
                Err(AttemptError::upstream(kind, false))
            }
        }
    }

    /// The route's limits, or the upstream's.
    pub(crate) fn own_timeouts(&self, upstream: &Upstream) -> Timeouts {
        let mut own = self.route.as_ref().and_then(|r| r.timeouts).unwrap_or(upstream.timeouts);
        if let Some(deadline) = self.deadline {
            own.request = Some(own.request.map_or(deadline, |limit| limit.min(deadline)));
        }
        own
    }

    /// What may be waited for now: less than the limits say where the whole request's is near.
    pub(crate) fn timeouts(&self, cx: &Context, upstream: &Upstream) -> Timeouts {
        let own = self.own_timeouts(upstream);
        own.request.map_or(own, |limit| own.within(limit.saturating_sub(cx.started.elapsed())))
    }

    /// Sends the request on a connection and relays the answer; also says whether the connection can be used again.
    async fn converse(
        &mut self,
        cx: &mut Context,
        upstream: &Upstream,
        host: Option<&str>,
        outgoing: &mut Outgoing,
    ) -> Result<(Duration, bool), AttemptError> {
        self.send_head(cx, host, outgoing).await?;
        let timeouts = self.timeouts(cx, upstream);
        if !self.body.is_done() {
            self.tries.keep_body = self.keeps_body(cx, upstream) && self.first_part <= upstream.retry.body_limit;
            if !self.tries.keep_body {
                self.forget_body();
            }
            self.send_continue(cx).await.map_err(AttemptError::Body)?;
            Box::pin(self.stream_body(cx, outgoing, timeouts, upstream.retry.body_limit)).await?;
        }
        if !outgoing.pending.is_empty() || outgoing.pooled.stream.is_tls() {
            self.flush_request(outgoing, timeouts).await?;
        }
        if let Some(asked) = &outgoing.asked
            && (self.body.is_done() || cx.request_body.is_some() || cx.upstream.body.is_some())
            && outgoing.pending.is_empty()
        {
            // A node that answered early may have closed the stream; the answer is read next.
            let _ = asked.finish();
        }
        let timeouts = self.timeouts(cx, upstream);
        self.answer(cx, upstream, outgoing, timeouts).await
    }

    /// What a failed stream says of its node.
    pub(crate) fn no_answer(&self, outgoing: &Outgoing, failed: &NoAnswer) -> AttemptError {
        tracing::warn!(node = %outgoing.address, error = %failed.error, "no answer of an upstream in HTTP/2");
        match failed.unprocessed {
            true => AttemptError::upstream(FailureKind::Closed, false),
            false => AttemptError::upstream(FailureKind::Reset, true),
        }
    }

    /// Body bytes that were sent are not kept: from here on there is nothing to send a second time.
    fn forget_body(&mut self) {
        self.tries.keep_body = false;
        self.streamed = true;
        client::consume(&mut self.client.buffered, std::mem::take(&mut self.first_part));
    }

    /// Head and what is there of the body, in one piece. Body bytes stay in the client's buffer until the answer begins,
    /// so that they can be sent again.
    async fn send_head(
        &mut self,
        cx: &mut Context,
        host: Option<&str>,
        outgoing: &mut Outgoing,
    ) -> Result<(), AttemptError> {
        if cx.upstream.body.is_none() && cx.request_body.is_none() {
            // A retry scans the same bytes again.
            self.body = BodyReader::new(cx.request.framing);
            let buffered = &self.client.buffered;
            self.first_part = self.body.scan(buffered).map_err(|_| AttemptError::Body(BodyError::Malformed))?;
            if self.client.body_ended {
                // All of it is here, from an earlier attempt.
                let _ = self.body.end_of_input();
            }
            if self.over_limit(cx, self.body.payload()) {
                return Err(AttemptError::Body(BodyError::TooLarge));
            }
            cx.request.received = self.head_bytes + self.first_part as u64;
        }
        if cx.tap.is_some() {
            self.tap_begin(cx, host);
        }
        let upgrade = self.upgrades(cx);
        let decodes = cx.upstream.decoder.is_some() && cx.upstream.body.is_none();
        let decoded = if decodes { Some(self.decoded(cx, outgoing)?) } else { None };
        let own_body = match &decoded {
            Some(decoded) => cx.request_body.is_some().then_some(decoded.as_slice()),
            None => cx.upstream.body.as_deref().or(cx.request_body.as_deref()),
        };
        let own_length = own_body.map(<[u8]>::len);
        let mut framed = Vec::new();
        let body = match own_body {
            Some(body) => body,
            None => {
                let part = self.client.buffered.get(..self.first_part).unwrap_or_default();
                match Shape::of(cx, cx.request.framing, outgoing) {
                    Shape::Same => part,
                    Shape::Decode => decoded.as_deref().unwrap_or_default(),
                    Shape::Chunk => {
                        frame(part, self.body.is_done(), &mut framed);
                        &framed
                    }
                    Shape::Unchunk => {
                        // What is malformed was refused above.
                        let _ = BodyReader::new(cx.request.framing).decode(part, &mut framed);
                        &framed
                    }
                }
            }
        };
        let cx = &*cx;
        if let Some(asked) = &outgoing.asked {
            let Some(head) = head_h2(cx, host, own_length) else {
                return Err(AttemptError::Body(BodyError::Malformed));
            };
            let end = body.is_empty() && (own_body.is_some() || self.body.is_done());
            asked.send(head, end).map_err(|e| self.no_answer(outgoing, &e))?;
        }
        poll_fn(|task| {
            let sent = scratch::with(|scratch| {
                if outgoing.asked.is_none() {
                    write_head(cx, host, own_length, upgrade, &mut scratch.out);
                }
                scratch::send(&mut outgoing.pooled.stream, task, &mut scratch.out, body, &mut outgoing.pending)
            });
            Poll::Ready(sent)
        })
        .await
        .map_err(|_| AttemptError::upstream(FailureKind::Reset, true))
    }

    /// Passes the rest of the body on as it arrives, with its framing. Ends early where the node answers early.
    async fn stream_body(
        &mut self,
        cx: &mut Context,
        outgoing: &mut Outgoing,
        timeouts: Timeouts,
        keep_limit: usize,
    ) -> Result<(), AttemptError> {
        let read_limit = self.worker.settings.body_timeout;
        while !self.body.is_done() {
            if !outgoing.pending.is_empty() {
                self.flush_request(outgoing, timeouts).await?;
            }
            self.client.timeout.arm(read_limit);
            let early = poll_fn(|task| {
                if outgoing.pooled.stream.poll_readable(task).is_ready() {
                    return Poll::Ready(Ok(true));
                }
                match self.poll_part(task, cx, outgoing) {
                    Poll::Pending => {
                        self.client.timeout.poll(task).map(|()| Err(AttemptError::Body(BodyError::Timeout)))
                    }
                    sent => sent,
                }
            })
            .await?;
            if self.tries.keep_body && self.first_part > keep_limit {
                self.forget_body();
            }
            if early {
                if outgoing.asked.is_none() {
                    outgoing.pending.clear();
                }
                cx.tap = None;
                return Ok(());
            }
        }
        tap::finish(cx);
        Ok(())
    }

    /// Reads a part of the body and sends it on, as far as the node takes it now. Ready with true where the node closed.
    fn poll_part(
        &mut self,
        task: &mut Task<'_>,
        cx: &mut Context,
        outgoing: &mut Outgoing,
    ) -> Poll<Result<bool, AttemptError>> {
        let client = &mut *self.client;
        let body = &mut self.body;
        let shape = Shape::of(cx, body.framing(), outgoing);
        let (mut payload, mut decoded) = (Vec::new(), Vec::new());
        let closed = scratch::with(|scratch::Scratch { read, out }| {
            let n = match scratch::poll_read(&mut client.stream, task, read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) if body.framing() == Framing::Close => {
                    let _ = body.end_of_input();
                    client.body_ended = true;
                    0
                }
                Poll::Ready(Err(_)) | Poll::Ready(Ok(0)) => return Poll::Ready(Err(AttemptError::Gone)),
                Poll::Ready(Ok(n)) => n,
            };
            let data = read.get(..n).unwrap_or_default();
            let used = match shape {
                Shape::Unchunk => body.decode(data, out),
                Shape::Decode => body.decode(data, &mut payload),
                Shape::Same | Shape::Chunk => body.scan(data),
            };
            let Ok(used) = used else { return Poll::Ready(Err(AttemptError::Body(BodyError::Malformed))) };
            cx.request.received += used as u64;
            if self.tries.keep_body {
                // all that was there before is body
                self.first_part += used;
                client.buffered.extend_from_slice(data);
            } else {
                client.buffered.extend_from_slice(data.get(used..).unwrap_or_default());
            }
            let part = data.get(..used).unwrap_or_default();
            if let Some(tap) = &mut cx.tap {
                tap::follow(tap, &mut self.tapped, part);
            }
            match shape {
                Shape::Same => out.extend_from_slice(part),
                Shape::Chunk => frame(part, body.is_done(), out),
                Shape::Unchunk => {}
                Shape::Decode => {
                    let decoder = cx.upstream.decoder.as_mut();
                    let read = decoder.map(|own| own.piece(&payload, body.is_done(), &mut decoded));
                    if read.is_some_and(|read| read.is_err()) {
                        return Poll::Ready(Err(AttemptError::Body(BodyError::Malformed)));
                    }
                    match outgoing.asked {
                        Some(_) => out.extend_from_slice(&decoded),
                        None => frame(&decoded, body.is_done(), out),
                    }
                }
            }
            let sent = scratch::send(&mut outgoing.pooled.stream, task, out, &[], &mut outgoing.pending);
            // A node that closes while we send may have answered: the answer is looked for next.
            Poll::Ready(Ok(sent.is_err()))
        });
        if closed.is_ready() && self.over_limit(cx, self.body.payload()) {
            return Poll::Ready(Err(AttemptError::Body(BodyError::TooLarge)));
        }
        closed
    }

    /// While the answer comes: goes on sending the body, as calls that stream both ways need it.
    pub(crate) fn poll_rest(
        &mut self,
        task: &mut Task<'_>,
        cx: &mut Context,
        outgoing: &mut Outgoing,
        asked: &Asked,
    ) -> Result<(), AttemptError> {
        loop {
            // A node that does not want the rest says so in its answer.
            match scratch::poll_flush(&mut outgoing.pooled.stream, task, &mut outgoing.pending) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) | Poll::Pending => return Ok(()),
            }
            if self.body.is_done() {
                let _ = asked.finish();
                return Ok(());
            }
            match self.poll_part(task, cx, outgoing) {
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Ok(true)) | Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
    }

    /// Sends what is pending to the node; an early answer ends the wait.
    async fn flush_request(&mut self, outgoing: &mut Outgoing, timeouts: Timeouts) -> Result<(), AttemptError> {
        let (client, kept) = (&mut *self.client, self.first_part);
        // what a client sends before its body ended is no sign of life to look for, but the body
        let whole = self.body.is_done();
        client.timeout.arm(timeouts.send);
        poll_fn(|task| {
            if let Poll::Ready(result) = scratch::poll_flush(&mut outgoing.pooled.stream, task, &mut outgoing.pending) {
                return Poll::Ready(result.map_err(|_| AttemptError::upstream(FailureKind::Reset, true)));
            }
            if !outgoing.pooled.stream.is_tls()
                && let Poll::Ready(Readable::Data) = outgoing.pooled.stream.poll_readable(task)
            {
                // In HTTP/2 the rest goes on beside the answer.
                if outgoing.asked.is_none() {
                    outgoing.pending.clear();
                }
                return Poll::Ready(Ok(()));
            }
            if whole && client.is_gone(task, kept) {
                return Poll::Ready(Err(AttemptError::Gone));
            }
            client.timeout.poll(task).map(|()| Err(AttemptError::upstream(FailureKind::Timeout, true)))
        })
        .await
    }
}

/// The name that a TLS handshake with a node asks for, without port.
fn tls_name<'a>(cx: &'a Context, upstream: &'a Upstream, host: Option<&'a str>) -> &'a str {
    let of_request =
        || cx.upstream.host.as_deref().and_then(|h| std::str::from_utf8(h).ok()).unwrap_or(cx.request.host());
    let name = upstream.tls.sni.as_deref().or(host).unwrap_or_else(of_request);
    sluice_http::target::host_name(name.as_bytes()).and_then(|n| std::str::from_utf8(n).ok()).unwrap_or(name)
}

/// The same for a node that speaks HTTP/2 (apisix/cli/ngx_tpl.lua, `location @grpc_pass`). `None` where the host or the target
/// cannot stand in a head.
fn head_h2(cx: &Context, host: Option<&str>, own_length: Option<usize>) -> Option<http::Request<()>> {
    let request = &cx.request;
    let https = cx.connection.tls.is_some();
    let host = host_field(cx, host);
    let mut head = sluice_http::h2::request_head(request.method_text(), https, host, cx.upstream_target())?;
    let fields = head.headers_mut();
    let replaced = own_length.is_some() || cx.upstream.decoder.is_some();
    let kind = cx.upstream.content_type;
    sluice_http::h2::fields(&request.headers, fields, |known| {
        matches!(known, Known::Host | Known::Expect)
            || replaced && known == Known::ContentLength
            || kind.is_some() && known == Known::ContentType
    });
    if let Some(kind) = kind {
        fields.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    }
    if let Some(length) = own_length {
        fields.insert(http::header::CONTENT_LENGTH, length.into());
    }
    fields.insert(http::header::TE, http::HeaderValue::from_static("trailers"));
    Some(head)
}

/// The `Host` that the node gets; `host` is what `pass_host` says.
#[inline]
pub(crate) fn host_field<'a>(cx: &'a Context, host: Option<&'a str>) -> &'a [u8] {
    match (host, &cx.upstream.host) {
        (Some(host), _) => host.as_bytes(),
        (None, Some(host)) => host,
        (None, None) => cx.request.headers.known(Known::Host).unwrap_or(cx.request.host().as_bytes()),
    }
}

/// The request head as the node gets it (apisix/cli/ngx_tpl.lua, `location /`).
#[inline]
fn write_head(cx: &Context, host: Option<&str>, own_length: Option<usize>, upgrade: bool, out: &mut Vec<u8>) {
    let request = &cx.request;
    write::request_line(request, cx.upstream_target(), out);
    let host = host_field(cx, host);
    // HTTP/1.0 requests may have none; nginx sends no empty field.
    if !host.is_empty() {
        write::field(b"Host", host, out);
    }
    if upgrade && let Some(protocol) = request.headers.known(Known::Upgrade) {
        write::field(b"Upgrade", protocol, out);
        write::field(b"Connection", b"upgrade", out);
        if request.version == Version::Http2 && !request.headers.contains("sec-websocket-key") {
            // RFC 8441 section 5.1: HTTP/2's handshake has none. Nobody checks what comes of it, as both ends of this hop are known.
            write::field(b"Sec-WebSocket-Key", b"AAAAAAAAAAAAAAAAAAAAAA==", out);
        }
    }
    forwarded::write(cx, out);
    let decoded = cx.upstream.decoder.is_some();
    let replaced = own_length.is_some() || decoded;
    request.headers.write_to(out, |known| {
        matches!(known, Known::Host | Known::XRealIp | Known::XForwardedFor)
            || replaced && known == Known::ContentLength
    });
    match own_length {
        Some(length) => {
            out.extend_from_slice(b"Content-Length: ");
            write::number(length as u64, out);
            out.extend_from_slice(b"\r\n");
        }
        None if decoded || matches!(request.framing, Framing::Chunked | Framing::Close) => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n")
        }
        None => {}
    }
    out.extend_from_slice(b"\r\n");
}
