//! One request from its head to its log line. This file is the list of steps of ARCHITECTURE.md, "The way of a request",
//! from 3 to 7; sending and relaying are in `send.rs` and `answer.rs`.
use crate::background;
use crate::balancing::Balancing;
use crate::client::{BodyError, Client, has_body};
use crate::debug::Observed;
use crate::rescue::{self, Trouble};
use crate::retry::Tries;
use crate::worker::{Held, Worker};
use sluice_config::{CompiledRoute, Snapshot};
use sluice_http::Known;
use sluice_http::h1::{BodyReader, Framing};
use sluice_plugin::chain::Step;
use sluice_plugin::{Chain, Context, Outcome, Phase, Reply};
use sluice_router::Request as RouterRequest;
use sluice_upstream::breaker::Permit;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The client's connection broke: nothing more can be said to it.
#[derive(Debug)]
pub struct Gone;

/// How the request phases ended.
pub(crate) enum Verdict {
    /// On to the upstream.
    Proxy,
    Reply(Box<Reply>),
    Trouble(Trouble),
}

/// A request under way.
pub struct Exchange<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) client: &'a mut Client,
    pub(crate) snapshot: Held,
    pub(crate) route: Option<Arc<CompiledRoute>>,
    /// The route's chain, with the consumer's plugins once it is known.
    pub(crate) chain: Arc<Chain>,
    /// Global entries that do not run beside this chain.
    pub(crate) skip: u64,
    /// The request's body as it comes from the client.
    pub(crate) body: BodyReader,
    /// The connection can carry another request.
    pub(crate) keep: bool,
    /// The response's head has been written.
    pub(crate) answered: bool,
    /// Body bytes in the client's buffer that were sent to a node, kept until the answer begins.
    pub(crate) first_part: usize,
    /// Wire bytes of the request's head.
    pub(crate) head_bytes: u64,
    /// Body bytes went to a node without being kept.
    pub(crate) streamed: bool,
    pub(crate) tries: Tries,
    /// Lines behind a body in chunks: the request's for a node that speaks HTTP/2, or the answer's.
    #[allow(
        clippy::box_collection,
        reason = "hardly any request has some, and each connection's task holds the place"
    )]
    pub(crate) trailer_lines: Option<Box<Vec<u8>>>,
    /// How the call under way has ended, as far as its node has said.
    pub(crate) grpc_status: Option<u8>,
    /// How far a tap has followed the body.
    pub(crate) tapped: Option<BodyReader>,
    /// The client's own limit on the whole call.
    pub(crate) deadline: Option<Duration>,
    pub(crate) continued: bool,
    /// The attempt under way, where a circuit breaker watches it.
    pub(crate) permit: Option<Permit>,
    /// Something was waited for before the upstream was asked: [`Context::started`] is not "now" any more.
    pub(crate) waited: bool,
    /// Somebody looks at this request: debug mode, or watchers.
    pub(crate) observed: Option<Box<Observed>>,
    pub(crate) balancing: Balancing,
}

/// Serves one request; says whether the connection can carry another.
pub async fn run(worker: &Rc<Worker>, client: &mut Client, cx: &mut Context) -> bool {
    worker.figures.requests.inc();
    let _in_flight = InFlight::new(&worker.figures.in_flight);
    let snapshot = worker.snapshot();
    // The context was taken before the snapshot, or kept by a request that began under an older one.
    if !Arc::ptr_eq(&cx.consumers, &snapshot.consumers) {
        cx.consumers = snapshot.consumers.clone();
    }
    let connection = &client.connection;
    let requests = connection.requests.get() + 1;
    connection.requests.set(requests);
    cx.started = std::time::Instant::now();
    let settings = &worker.settings;
    let keep = cx.request.keep_alive
        && (settings.keepalive_requests == 0 || requests < settings.keepalive_requests)
        && !worker.drain.is_draining();
    let mut exchange = Exchange::new(worker, client, snapshot, cx);
    exchange.keep = keep;
    let result = exchange.serve(cx).await;
    exchange.end_h2(cx, result.is_ok());
    if result.is_err() {
        exchange.keep = false;
        if !exchange.answered {
            // nginx's status for a client that went away.
            cx.response.set_status(499);
        }
    }
    exchange.log(cx);
    if cx.background.is_some() {
        background::spawn(worker, &exchange, cx);
    }
    let keep = exchange.keep && exchange.client.skip_buffered_body(&mut exchange.body);
    let unread = !exchange.body.is_done();
    client.unread_body = unread;
    keep
}

/// Counts a request for as long as it is served, also where its task is dropped.
struct InFlight<'a>(&'a sluice_telemetry::GaugeHandle);

impl<'a> InFlight<'a> {
    fn new(gauge: &'a sluice_telemetry::GaugeHandle) -> InFlight<'a> {
        gauge.inc();
        InFlight(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Answers a head that could not be read, and counts it like any request.
pub async fn refuse(worker: &Worker, client: &mut Client, cx: &mut Context, status: u16, reason: &str) {
    let snapshot = worker.snapshot();
    cx.started = std::time::Instant::now();
    let mut exchange = Exchange::new(worker, client, snapshot, cx);
    exchange.skip = u64::MAX;
    exchange.body = BodyReader::new(Framing::None);
    if worker.settings.debug.is_on() {
        exchange.observed = worker.settings.debug.begin(cx);
    }
    let reply = Reply::text(status, format!("{reason}\n"));
    let sent = exchange.reply(cx, Box::new(reply)).await;
    exchange.end_h2(cx, sent.is_ok());
    exchange.log(cx);
    client.unread_body = true;
}

/// The request phases are over (apisix/core/response.lua `exit` ends the spans of a refused request).
#[cold]
fn accessed(cx: &mut Context, verdict: &Verdict) {
    let Some(timings) = cx.timings() else { return };
    let status = match verdict {
        Verdict::Proxy => 0,
        Verdict::Reply(reply) => reply.status,
        Verdict::Trouble(trouble) => rescue::reply(trouble).map_or(499, |reply| reply.status),
    };
    if status >= 400 {
        timings.fail(format!("response code {status}"));
    }
    timings.end_all();
}

impl<'a> Exchange<'a> {
    /// A request at its beginning: without a route, on a connection that is not kept.
    #[inline]
    pub(crate) fn new(worker: &'a Worker, client: &'a mut Client, snapshot: Held, cx: &Context) -> Exchange<'a> {
        let chain = snapshot.empty_chain.clone();
        Exchange {
            worker,
            client,
            snapshot,
            route: None,
            chain,
            skip: 0,
            body: BodyReader::new(cx.request.framing),
            keep: false,
            answered: false,
            first_part: 0,
            head_bytes: cx.request.received,
            streamed: false,
            tries: Tries::default(),
            trailer_lines: None,
            grpc_status: None,
            tapped: None,
            deadline: None,
            continued: false,
            permit: None,
            waited: false,
            observed: None,
            balancing: Balancing::default(),
        }
    }
}

impl Exchange<'_> {
    /// Ends the answer's stream: in order, or so that the client does not take what it has for whole.
    fn end_h2(&self, cx: &Context, whole: bool) {
        let Some(answer) = &self.client.h2 else { return };
        let trailers = cx.response.trailers.as_ref().filter(|own| !own.is_withheld());
        let trailers = trailers.map(|own| sluice_http::h2::trailer_map(own));
        if !whole || answer.get().finish(trailers).is_err() {
            answer.get().abort();
        }
    }

    async fn serve(&mut self, cx: &mut Context) -> Result<(), Gone> {
        self.snapshot.rules.find_client(cx);
        crate::forwarded::neutralize(cx, &self.worker.settings);
        if self.worker.settings.debug.is_on() {
            self.observed = self.worker.settings.debug.begin(cx);
            self.debug_call("http_access_phase", cx);
        }
        if let Err(trouble) = crate::client_certificate::check(cx, &self.snapshot) {
            let reply = rescue::reply(&trouble).ok_or(Gone)?;
            return self.reply(cx, Box::new(reply)).await;
        }
        let verdict = self.request_phases(cx).await;
        if cx.trace.is_some() {
            accessed(cx, &verdict);
        }
        let end = match &verdict {
            Verdict::Reply(reply) => Some(reply.as_ref()),
            _ => None,
        };
        if let Some(begun) = cx.take_begun(end) {
            return self.reply(cx, Box::new(begun)).await;
        }
        let reply = match verdict {
            Verdict::Reply(reply) => reply,
            Verdict::Trouble(trouble) => {
                cx.note(|| serde_json::json!({"trouble": format!("{trouble:?}")}));
                Box::new(rescue::reply(&trouble).ok_or(Gone)?)
            }
            Verdict::Proxy => match self.proxy(cx).await? {
                None => return Ok(()),
                // Where no answer could be had, who watches for one may have another.
                Some(reply) => Box::new(match cx.answer_tap.take() {
                    None => reply,
                    Some(mut tap) => tap.failed(cx, reply),
                }),
            },
        };
        self.reply(cx, reply).await
    }

    /// Matching, `rewrite`, the consumer's plugins, `access` (order: apisix/init.lua `http_access_phase`).
    async fn request_phases(&mut self, cx: &mut Context) -> Verdict {
        if let Err(reason) = self.snapshot.rules.shape_path(cx) {
            tracing::error!("failed to normalize: {reason}");
            return Verdict::Reply(Box::new(Reply::status(400)));
        }
        let snapshot = self.snapshot.clone();
        if snapshot.router_reads_body
            && has_body(cx.request.framing)
            && let Err(e) = self.buffer_body(cx).await
        {
            return Verdict::Trouble(Trouble::Body(e));
        }
        let global = &snapshot.global;
        let found = match cx.trace.is_some() {
            false => self.find_route(cx, &snapshot),
            true => self.find_route_timed(cx, &snapshot),
        };
        match found {
            Some(route) => {
                if let Some(trouble) = &route.trouble {
                    return Verdict::Trouble(match trouble {
                        sluice_config::RouteTrouble::MissingService => Trouble::MissingService,
                        sluice_config::RouteTrouble::MissingPluginConfig => Trouble::MissingPluginConfig,
                    });
                }
                self.skip = global.preferring(&route.chain);
                self.chain = route.chain.clone();
                self.route = Some(route);
            }
            None => {
                for phase in [Phase::Rewrite, Phase::Access] {
                    if let Some(verdict) = self.phase(phase, global, true, cx).await {
                        return verdict;
                    }
                }
                return Verdict::Trouble(Trouble::NoRoute);
            }
        }
        if global.has(Phase::Rewrite)
            && let Some(verdict) = self.phase(Phase::Rewrite, global, true, cx).await
        {
            return verdict;
        }
        let chain = self.chain.clone();
        if chain.has(Phase::Rewrite)
            && let Some(verdict) = self.phase(Phase::Rewrite, &chain, false, cx).await
        {
            return verdict;
        }
        let chain = match self.consumer_chain(cx, &snapshot) {
            Ok(None) => chain,
            Ok(Some(merged)) => {
                // Only what the consumer brought anew is still to be run (`rewrite_in_consumer`).
                let fresh = merged.fresh.clone();
                if let Some(verdict) = self.phase(Phase::Rewrite, &fresh, false, cx).await {
                    return verdict;
                }
                self.chain = merged.whole.clone();
                self.skip = snapshot.global.preferring(&self.chain);
                self.chain.clone()
            }
            Err(trouble) => return Verdict::Trouble(trouble),
        };
        if global.has(Phase::Access)
            && let Some(verdict) = self.phase(Phase::Access, global, true, cx).await
        {
            return verdict;
        }
        if chain.has(Phase::Access)
            && let Some(verdict) = self.phase(Phase::Access, &chain, false, cx).await
        {
            return verdict;
        }
        if self.body_too_large(cx) {
            return Verdict::Trouble(Trouble::Body(BodyError::TooLarge));
        }
        Verdict::Proxy
    }

    fn find_route(&self, cx: &mut Context, snapshot: &Snapshot) -> Option<Arc<CompiledRoute>> {
        let keeping_slash = snapshot.rules.path_to_match(cx);
        let request = RouterRequest {
            path: keeping_slash.as_deref().unwrap_or(cx.request.path()),
            host: cx.request.host(),
            method: cx.request.method_text(),
            remote_addr: cx.client_ip(),
        };
        let found = snapshot.router.find(&request, cx)?;
        let route = found.handle.clone();
        let matched_uri = route.info.uris.iter().find(|u| u.as_ref() == found.uri).cloned();
        let matched_host = found.host.and_then(|host| route.info.hosts.iter().find(|h| h.as_ref() == host).cloned());
        let params = found.params.iter().map(|(n, v)| (Arc::from(*n), Box::from(*v))).collect();
        cx.matched_uri = matched_uri;
        cx.matched_host = matched_host;
        cx.uri_params = params;
        cx.route = Some(route.info.clone());
        Some(route)
    }

    #[cold]
    fn find_route_timed(&self, cx: &mut Context, snapshot: &Snapshot) -> Option<Arc<CompiledRoute>> {
        if let Some(timings) = cx.timings() {
            timings.begin("http_router_match", false);
        }
        let found = self.find_route(cx, snapshot);
        if let Some(timings) = cx.timings() {
            if found.is_none() {
                timings.fail("no matched route".into());
            }
            timings.end();
        }
        found
    }

    /// Runs one request phase of one chain. `None`: go on.
    async fn phase(&mut self, phase: Phase, chain: &Chain, global: bool, cx: &mut Context) -> Option<Verdict> {
        self.phase_from(0, phase, chain, global, cx).await
    }

    /// The same from a hook on.
    pub(crate) async fn phase_from(
        &mut self,
        mut at: usize,
        phase: Phase,
        chain: &Chain,
        global: bool,
        cx: &mut Context,
    ) -> Option<Verdict> {
        if !chain.has(phase) {
            return None;
        }
        let skip = if global { self.skip } else { 0 };
        loop {
            let outcome = match chain.step(phase, &mut at, skip, cx) {
                Step::Done => return None,
                Step::Next => continue,
                Step::NeedBody => None,
                Step::Reply(reply) => Some(Outcome::Reply(reply)),
                Step::Wait(future) => {
                    self.waited = true;
                    Some(future.await)
                }
            };
            match outcome {
                Some(Outcome::Next) => {}
                Some(Outcome::Reply(reply)) => {
                    if cx.trace.is_some() {
                        cx.hook_replied(reply.status);
                    }
                    if let Some(background) = &mut cx.background {
                        background.resume = (at, global);
                    }
                    return Some(Verdict::Reply(chain.finish(phase, at, reply)));
                }
                None => {
                    if let Err(e) = self.buffer_body(cx).await {
                        return Some(Verdict::Trouble(Trouble::Body(e)));
                    }
                }
            }
        }
    }

    /// `before_proxy`: the upstream is known. `None`: go on.
    pub(crate) async fn before_proxy(&mut self, cx: &mut Context) -> Option<Reply> {
        let snapshot = self.snapshot.clone();
        let chain = self.chain.clone();
        for (chain, global) in [(&snapshot.global, true), (&chain, false)] {
            match self.phase(Phase::BeforeProxy, chain, global, cx).await {
                None => {}
                Some(Verdict::Reply(reply)) => return cx.take_begun(Some(&reply)).or(Some(*reply)),
                Some(Verdict::Trouble(trouble)) => return cx.take_begun(None).or_else(|| rescue::reply(&trouble)),
                Some(Verdict::Proxy) => {}
            }
        }
        cx.take_begun(None)
    }

    /// The route's chain with the consumer's and its group's plugins, if they bring any.
    fn consumer_chain(
        &self,
        cx: &Context,
        snapshot: &Snapshot,
    ) -> Result<Option<Arc<sluice_config::ConsumerChain>>, Trouble> {
        let (Some(found), Some(route)) = (&cx.consumer, &self.route) else { return Ok(None) };
        let merged = self.worker.consumer_chain(route, &found.consumer.username, snapshot);
        merged.map_err(|_| Trouble::MissingConsumerGroup)
    }

    /// The limit of the request's body in bytes; 0 is none.
    fn body_limit(&self, cx: &Context) -> u64 {
        cx.max_body_size.unwrap_or(self.worker.settings.max_body_size)
    }

    fn body_too_large(&self, cx: &Context) -> bool {
        let limit = self.body_limit(cx);
        match (cx.request.framing, limit) {
            (_, 0) => false,
            (Framing::Length(n), limit) => n > limit,
            _ => cx.request_body.as_ref().is_some_and(|b| b.len() as u64 > limit),
        }
    }

    /// Whether so many body bytes are more than the limit.
    pub(crate) fn over_limit(&self, cx: &Context, bytes: u64) -> bool {
        let limit = self.body_limit(cx);
        limit != 0 && bytes > limit
    }

    /// Tells a client that waits for it to send its body (RFC 9110 section 10.1.1), once.
    pub(crate) async fn send_continue(&mut self, cx: &Context) -> Result<(), BodyError> {
        if cx.request.expects_continue && !self.continued && !self.body.is_done() && self.client.buffered.is_empty() {
            self.continued = true;
            let limit = self.worker.settings.send_timeout;
            if let Some(answer) = &self.client.h2 {
                let mut head = http::Response::new(());
                *head.status_mut() = http::StatusCode::CONTINUE;
                return answer.get().interim(head).map_err(|_| BodyError::Closed);
            }
            return self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n", limit).await.map_err(|_| BodyError::Closed);
        }
        Ok(())
    }

    /// Reads the whole body into memory.
    pub(crate) async fn buffer_body(&mut self, cx: &mut Context) -> Result<(), BodyError> {
        if cx.request_body.is_some() {
            return Ok(());
        }
        if self.body_too_large(cx) || self.body.remaining().is_some_and(|n| n > self.worker.settings.buffered_body) {
            return Err(BodyError::TooLarge);
        }
        self.waited = true;
        self.send_continue(cx).await?;
        let mut body = Vec::with_capacity(self.body.remaining().unwrap_or(0).min(1 << 20) as usize);
        while !self.body.is_done() {
            let limit = self.worker.settings.body_timeout;
            cx.request.received += self.client.read_body(&mut self.body, limit, &mut body).await?;
            if self.over_limit(cx, body.len() as u64) || body.len() as u64 > self.worker.settings.buffered_body {
                return Err(BodyError::TooLarge);
            }
        }
        cx.request_body = Some(body);
        Ok(())
    }

    /// `log` of all plugins, and the access log.
    fn log(&mut self, cx: &mut Context) {
        if let Some(timings) = cx.timings() {
            timings.end_all();
        }
        let global = &self.snapshot.global;
        if global.has(Phase::Log) && self.skip != u64::MAX {
            global.log(self.skip, cx);
        }
        if self.chain.has(Phase::Log) {
            self.chain.log(0, cx);
        }
        self.debug_call("http_log_phase", cx);
        if cx.trace.is_some() {
            self.debug_late(cx);
            self.explain(cx);
        }
        if let Some(observed) = &self.observed {
            self.show(observed, cx);
        }
        self.worker.log_access(cx);
    }

    /// Whether the client asked for another protocol and the route lets it.
    pub(crate) fn upgrades(&self, cx: &Context) -> bool {
        cx.request.upgrade
            && self.route.as_ref().is_some_and(|r| r.enable_websocket)
            && cx.request.headers.may_have(Known::Upgrade)
    }
}
