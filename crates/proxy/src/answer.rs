//! The response's way to the client: from an upstream (streamed, untouched where no plugin wants the body) or the
//! gateway's own.
use crate::answer_tap;
use crate::client;
use crate::exchange::Exchange;
use crate::h2::Asked;
use crate::scratch;
use crate::send::{AttemptError, Outgoing};
use crate::tunnel::{self, End, Silence};
use crate::websocket::{self, WebSocket};
use sluice_http::h1::{BodyReader, Framing, parse_response, write};
use sluice_http::{Known, Version, trailers};
use sluice_net::timer;
use sluice_plugin::{Answer, Attempt as AttemptLog, BodyChunk, Context, Phase};
use sluice_upstream::{FailureKind, Timeouts, Upstream, grpc_status};
use std::future::poll_fn;
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

/// How body bytes are written to the client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Encoding {
    /// As they came, framing included.
    Untouched,
    /// Payload alone: its length is known, or the connection's end is the body's.
    Identity,
    Chunked,
    /// Not at all: a plugin has made the response one without body.
    Discarded,
}

/// What reading the upstream came to.
pub(crate) enum Event {
    /// The final response's head was sent.
    Started { elapsed: Duration },
    /// `101`: both sides now speak another protocol. Bytes that came with the head are kept.
    Switched { elapsed: Duration, early: Vec<u8> },
}

/// A response body under way.
pub(crate) struct Relay {
    pub reader: BodyReader,
    encoding: Encoding,
    filtered: bool,
    /// Bytes came after the response's end: the connection is not to be trusted.
    surplus: bool,
    /// A tap sees the body.
    pub watched: bool,
    /// Nobody else does, and nobody gets the head.
    pub muted: bool,
    /// How the call ended matters.
    pub call: bool,
}

impl Exchange<'_> {
    /// Reads the node's answer and relays it; says how long its head took and whether the connection can be used again.
    pub(crate) async fn answer(
        &mut self,
        cx: &mut Context,
        upstream: &Upstream,
        outgoing: &mut Outgoing,
        timeouts: Timeouts,
    ) -> Result<(Duration, bool), AttemptError> {
        let mut relay = Relay {
            reader: BodyReader::new(Framing::None),
            encoding: Encoding::Untouched,
            filtered: false,
            surplus: false,
            watched: false,
            muted: false,
            call: false,
        };
        let mut before = Vec::new();
        self.client.timeout.arm(timeouts.read);
        let event = match outgoing.asked.clone() {
            None => poll_fn(|task| self.poll_head(task, cx, upstream, outgoing, &mut before, &mut relay)).await?,
            Some(asked) => {
                poll_fn(|task| self.poll_head_h2(task, cx, upstream, (outgoing, &asked), &mut relay)).await?
            }
        };
        let timeouts = self.own_timeouts(upstream);
        // From here on nothing is sent twice: the request's bytes can go.
        client::consume(&mut self.client.buffered, std::mem::take(&mut self.first_part));
        let elapsed = match event {
            Event::Started { elapsed } => elapsed,
            Event::Switched { elapsed, early } => {
                let first = (early.len() as u64, self.client.buffered.len() as u64);
                let random = self.worker.random();
                let client = &mut *self.client;
                let socket = cx.request.headers.known(Known::Upgrade).is_some_and(websocket::is_named);
                let socket = socket.then(|| Box::new(WebSocket::new(&early, &client.buffered, random)));
                client.pending.extend_from_slice(&early);
                outgoing.pending.append(&mut client.buffered);
                drop(early);
                let silence = Silence {
                    both: timeouts.read,
                    to_client: self.worker.settings.send_timeout,
                    to_upstream: timeouts.send,
                };
                let down = End { stream: &mut client.stream, pending: &mut client.pending };
                let up = End { stream: &mut outgoing.pooled.stream, pending: &mut outgoing.pending };
                let tunnel = tunnel::run(down, up, &client.timeout, silence, &self.worker.drain, None, socket);
                let passed = Box::pin(tunnel).await;
                if let Some(asked) = &outgoing.asked {
                    let _ = asked.finish(None);
                }
                self.keep = false;
                cx.bytes_sent += first.0 + passed.to_client;
                cx.body_bytes_sent += first.0 + passed.to_client;
                cx.request.received += first.1 + passed.to_upstream;
                return Ok((elapsed, false));
            }
        };
        let limit = self.worker.settings.send_timeout;
        let whole = relay.reader.is_done();
        while !relay.reader.is_done() {
            if let Some(answer) = &self.client.h2 {
                answer.get().start(false).map_err(|_| AttemptError::Gone)?;
            }
            if !self.client.pending.is_empty() || self.client.stream.is_tls() {
                self.client.flush(limit).await.map_err(|_| AttemptError::Gone)?;
            }
            self.client.timeout.arm(timeouts.read);
            poll_fn(|task| self.poll_body(task, cx, outgoing, &mut relay)).await?;
        }
        self.client.flush(limit).await.map_err(|_| AttemptError::Gone)?;
        if !whole && let Some(attempt) = cx.attempts.last_mut() {
            attempt.response_time = outgoing.begun.elapsed();
        }
        let reusable = cx_reusable(upstream, cx) && !relay.surplus && self.body.is_done();
        Ok((elapsed, reusable))
    }

    fn poll_head(
        &mut self,
        task: &mut Task<'_>,
        cx: &mut Context,
        upstream: &Upstream,
        outgoing: &mut Outgoing,
        before: &mut Vec<u8>,
        relay: &mut Relay,
    ) -> Poll<Result<Event, AttemptError>> {
        let to_head = cx.request.method == sluice_http::Method::Head;
        scratch::with(|scratch| {
            loop {
                let n = match scratch::poll_read(&mut outgoing.pooled.stream, task, &mut scratch.read) {
                    Poll::Pending => {
                        return match self.poll_waiting(task) {
                            Poll::Ready(e) => Poll::Ready(Err(e)),
                            Poll::Pending => Poll::Pending,
                        };
                    }
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(AttemptError::upstream(FailureKind::Closed, true))),
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(AttemptError::upstream(FailureKind::Reset, true))),
                    Poll::Ready(Ok(n)) => n,
                };
                if !before.is_empty() {
                    before.extend_from_slice(scratch.read.get(..n).unwrap_or_default());
                }
                // Several heads may stand in one read: 1xx before the final one.
                let mut start = 0;
                loop {
                    let all: &[u8] = if before.is_empty() { scratch.read.get(..n).unwrap_or_default() } else { before };
                    let data = all.get(start..).unwrap_or_default();
                    if data.is_empty() {
                        before.clear();
                        break;
                    }
                    let head = match parse_response(data, self.worker.settings.response_head, to_head, &mut cx.response)
                    {
                        Ok(Some(head)) => head,
                        Ok(None) => {
                            *before = data.to_vec();
                            break;
                        }
                        Err(e) => {
                            tracing::warn!(node = %outgoing.address, error = %e, "the upstream's response cannot be relayed");
                            return Poll::Ready(Err(AttemptError::upstream(FailureKind::BadResponse, true)));
                        }
                    };
                    if cx.response.is_interim() {
                        start += head;
                        self.client.timeout.arm(self.timeouts(cx, upstream).read);
                        // 100 was the gateway's to say; the rest is for clients that know it (RFC 9110 section 15.2).
                        if cx.response.status == 100 || cx.request.version < Version::Http11 {
                            continue;
                        }
                        if let Err(gone) = self.pass_interim(task, cx, &mut scratch.out) {
                            return Poll::Ready(Err(gone));
                        }
                        continue;
                    }
                    let status = cx.response.status;
                    let elapsed = self.headed(cx, upstream, outgoing);
                    let rest = data.get(head..).unwrap_or_default();
                    if status == 101 {
                        if !self.upgrades(cx) {
                            return Poll::Ready(Err(AttemptError::upstream(FailureKind::BadResponse, true)));
                        }
                        let early = rest.to_vec();
                        return Poll::Ready(
                            self.start_switched(task, cx, &mut scratch.out)
                                .map(|()| Event::Switched { elapsed, early }),
                        );
                    }
                    if self.misleads(cx) {
                        return Poll::Ready(Err(AttemptError::upstream(FailureKind::BadResponse, true)));
                    }
                    if upstream.retry.on.has_status(status) && self.drops(cx, upstream, status) {
                        let mut body = BodyReader::new(cx.response.framing);
                        let ended = body.scan(rest).is_ok_and(|used| used == rest.len()) && body.is_done();
                        outgoing.drained =
                            ended && self.body.is_done() && outgoing.pending.is_empty() && cx_reusable(upstream, cx);
                        return Poll::Ready(Err(AttemptError::Dropped(status)));
                    }
                    if cx.answer_tap.is_some() {
                        let (framing, reusable) = (cx.response.framing, cx_reusable(upstream, cx));
                        match answer_tap::head(cx) {
                            Answer::Pass => cx.answer_tap = None,
                            Answer::Watch => relay.watched = true,
                            Answer::Keep => (relay.watched, relay.muted) = (true, true),
                            Answer::Replace(reply) => {
                                let mut body = BodyReader::new(framing);
                                let ended = body.scan(rest).is_ok_and(|used| used == rest.len()) && body.is_done();
                                let idle = self.body.is_done() && outgoing.pending.is_empty();
                                outgoing.drained = ended && idle && reusable;
                                return Poll::Ready(Err(AttemptError::Replaced(reply, elapsed)));
                            }
                        }
                    }
                    relay.reader = BodyReader::new(cx.response.framing);
                    // The body's beginning is checked before a byte is sent: a bad one still can become a 502.
                    let mut check = relay.reader;
                    if check.scan(rest).is_err() {
                        return Poll::Ready(Err(AttemptError::upstream(FailureKind::BadResponse, true)));
                    }
                    self.start(cx, relay, &mut scratch.out);
                    return Poll::Ready(
                        self.pass(task, cx, relay, rest, &mut scratch.out).map(|()| Event::Started { elapsed }),
                    );
                }
            }
        })
    }

    /// Passes a head of 1xx on, of [`Context::response`].
    pub(crate) fn pass_interim(
        &mut self,
        task: &mut Task<'_>,
        cx: &Context,
        out: &mut Vec<u8>,
    ) -> Result<(), AttemptError> {
        if let Some(answer) = &self.client.h2 {
            let head = sluice_http::h2::response_head(&cx.response);
            return answer.get().interim(head).map_err(|_| AttemptError::Gone);
        }
        out.clear();
        write::status_line(&cx.response, out);
        cx.response.headers.write_to(out, |_| false);
        out.extend_from_slice(b"\r\n");
        let sent = scratch::send(&mut self.client.stream, task, out, &[], &mut self.client.pending);
        out.clear();
        sent.map_err(|_| AttemptError::Gone)
    }

    /// Whether a client that asked for a tunnel over HTTP/2 would take this answer, which opens none, for one.
    pub(crate) fn misleads(&self, cx: &Context) -> bool {
        cx.request.version == Version::Http2 && cx.request.upgrade && (200..300).contains(&cx.response.status)
    }

    /// The final head has come: how long that took, for the log and whoever watches the node.
    pub(crate) fn headed(&mut self, cx: &mut Context, upstream: &Upstream, outgoing: &Outgoing) -> Duration {
        let elapsed = Instant::now() - outgoing.begun;
        let status = cx.response.status;
        cx.attempts.push(AttemptLog {
            address: outgoing.address,
            status,
            connect_time: self.tries.connect_time,
            header_time: Some(elapsed),
            response_time: elapsed,
        });
        self.heard(upstream, status, elapsed);
        elapsed
    }

    /// Nothing from the upstream yet: has the client gone, or the time run out?
    pub(crate) fn poll_waiting(&mut self, task: &mut Task<'_>) -> Poll<AttemptError> {
        // What TLS hands out while a body still comes is that body.
        let looks = self.body.is_done() || !self.client.stream.is_tls();
        if looks && self.client.is_gone(task, self.first_part) || self.worker.drain.is_forced() {
            return Poll::Ready(AttemptError::Gone);
        }
        self.client.timeout.poll(task).map(|()| AttemptError::upstream(FailureKind::Timeout, true))
    }

    fn poll_body(
        &mut self,
        task: &mut Task<'_>,
        cx: &mut Context,
        outgoing: &mut Outgoing,
        relay: &mut Relay,
    ) -> Poll<Result<(), AttemptError>> {
        if let Some(asked) = outgoing.asked.clone().filter(|asked| !asked.is_sent()) {
            self.poll_rest(task, cx, outgoing, &asked)?;
        }
        scratch::with(|scratch| {
            let n = match scratch::poll_read(&mut outgoing.pooled.stream, task, &mut scratch.read) {
                Poll::Pending => {
                    return match self.poll_waiting(task) {
                        Poll::Ready(e) => Poll::Ready(Err(e)),
                        Poll::Pending => Poll::Pending,
                    };
                }
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(_)) if outgoing.asked.is_some() => {
                    return Poll::Ready(Err(AttemptError::upstream(FailureKind::Reset, true)));
                }
                Poll::Ready(Err(_)) => 0,
            };
            if n == 0
                && let Some(trailers) = outgoing.asked.as_ref().and_then(Asked::take_trailers)
            {
                if relay.call {
                    self.grpc_status = trailers.get("grpc-status").and_then(|v| grpc_status::parse(v.as_bytes()));
                }
                cx.response.trailers = Some(Box::new(sluice_http::h2::trailers(&trailers)));
            }
            if n == 0 {
                if relay.reader.end_of_input().is_err() {
                    tracing::warn!(node = %outgoing.address, "the upstream closed in the middle of a response");
                    return Poll::Ready(Err(AttemptError::upstream(FailureKind::Closed, true)));
                }
                return Poll::Ready(self.pass(task, cx, relay, &[], &mut scratch.out));
            }
            let data = scratch.read.get(..n).unwrap_or_default();
            Poll::Ready(self.pass(task, cx, relay, data, &mut scratch.out))
        })
    }

    /// Decides the client's framing and writes the head, after the plugins have seen it.
    pub(crate) fn start(&mut self, cx: &mut Context, relay: &mut Relay, out: &mut Vec<u8>) {
        if relay.muted {
            relay.encoding = Encoding::Discarded;
            self.answered = true;
            return;
        }
        self.tell_upstream_status(cx);
        self.balancing.head(cx);
        self.header_filter(cx);
        let body = !(cx.client_sent_head() || matches!(cx.response.status, 100..200 | 204 | 304));
        relay.filtered = body
            && cx.wants_body()
            && (self.chain.has(Phase::BodyFilter) || self.snapshot.global.has(Phase::BodyFilter));
        let has_length = cx.response.headers.known(Known::ContentLength).is_some();
        // HTTP/1.0 knows no chunks, HTTP/2 has frames instead.
        let old_client = cx.request.version != Version::Http11;
        relay.encoding = match relay.reader.framing() {
            _ if !body => Encoding::Discarded,
            Framing::None if !relay.filtered => Encoding::Untouched,
            Framing::Length(_) if !relay.filtered && has_length => Encoding::Untouched,
            Framing::Chunked if !relay.filtered && !old_client => Encoding::Untouched,
            _ if has_length => Encoding::Identity,
            _ if old_client => Encoding::Identity,
            _ => Encoding::Chunked,
        };
        if body && !relay.filtered && relay.reader.framing() == Framing::None {
            // Of a 204, or to HEAD: with another status, or method, the client waits for a body.
            cx.response.headers.set("Content-Length", "0");
        }
        let chunked = body
            && (relay.encoding == Encoding::Chunked
                || relay.encoding == Encoding::Untouched && relay.reader.framing() == Framing::Chunked);
        let until_close = body && relay.encoding == Encoding::Identity && !has_length;
        if until_close || !self.body.is_done() && cx.request_body.is_none() {
            self.keep = false;
        }
        if self.client.h2.is_some() {
            return self.start_h2(cx);
        }
        write::status_line(&cx.response, out);
        if cx.response.headers.known(Known::Date).is_none() {
            write_date(out);
        }
        if chunked && !has_length {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        self.write_connection(cx, out);
        cx.response.headers.write_to(out, |_| false);
        out.extend_from_slice(b"\r\n");
        self.answered = true;
        cx.bytes_sent += out.len() as u64;
    }

    /// The head for a client of HTTP/2; it waits for the first part of the body.
    pub(crate) fn start_h2(&mut self, cx: &mut Context) {
        let Some(answer) = &self.client.h2 else { return };
        if cx.response.headers.known(Known::Date).is_none() {
            let mut now = Vec::new();
            date(&mut now);
            cx.response.headers.append("Date", now);
        }
        let head = sluice_http::h2::response_head(&cx.response);
        let size: usize = head.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        answer.get().head(head);
        self.answered = true;
        cx.bytes_sent += size as u64;
    }

    pub(crate) fn write_connection(&self, cx: &Context, out: &mut Vec<u8>) {
        if !self.keep {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if cx.request.version == Version::Http10 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
    }

    /// `Server`, early fields, `header_filter` of all plugins.
    pub(crate) fn header_filter(&mut self, cx: &mut Context) {
        if let Some(server) = &self.worker.settings.server {
            cx.response.headers.set("Server", server.as_bytes());
        }
        cx.apply_early_headers();
        if let Some(timings) = cx.timings() {
            timings.begin("apisix.phase.header_filter", true);
        }
        let global = &self.snapshot.global;
        if global.has(Phase::HeaderFilter) || self.chain.has(Phase::HeaderFilter) || cx.trace.is_some() {
            for encoders in [false, true] {
                if self.skip != u64::MAX {
                    global.header_filter(encoders, self.skip, cx);
                }
                self.chain.header_filter(encoders, 0, cx);
            }
        }
        self.debug_call("http_header_filter_phase", cx);
        self.debug_report(cx);
    }

    /// `X-APISIX-Upstream-Status` (apisix/init.lua `set_resp_upstream_status`): for 5xx of the upstream, or always.
    pub(crate) fn tell_upstream_status(&self, cx: &mut Context) {
        let Some(last) = cx.attempts.last() else { return };
        if last.status >= 500 || self.worker.settings.show_upstream_status {
            let all: Vec<String> = cx.attempts.iter().map(|a| a.status.to_string()).collect();
            cx.response.headers.set("X-APISIX-Upstream-Status", all.join(", "));
        }
    }

    /// Sends a part of the body, behind what already stands in `out`.
    pub(crate) fn pass(
        &mut self,
        task: &mut Task<'_>,
        cx: &mut Context,
        relay: &mut Relay,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), AttemptError> {
        let gone = |_| AttemptError::Gone;
        let bad = |_| AttemptError::upstream(FailureKind::BadResponse, true);
        if relay.watched {
            answer_tap::body(cx, relay.reader, data);
        }
        if relay.encoding == Encoding::Discarded {
            let used = relay.reader.scan(data).map_err(bad)?;
            relay.surplus |= used < data.len();
            cx.upstream_body_bytes += used as u64;
            return scratch::send(&mut self.client.stream, task, out, &[], &mut self.client.pending).map_err(gone);
        }
        if relay.encoding == Encoding::Untouched {
            let used = relay.reader.scan(data).map_err(bad)?;
            relay.surplus |= used < data.len();
            cx.upstream_body_bytes += used as u64;
            cx.bytes_sent += used as u64;
            cx.body_bytes_sent += used as u64;
            let body = data.get(..used).unwrap_or_default();
            return scratch::send(&mut self.client.stream, task, out, body, &mut self.client.pending).map_err(gone);
        }
        let mut chunk = BodyChunk::default();
        let mut lines = Vec::new();
        let used = relay.reader.decode_trailed(data, &mut chunk.data, &mut lines).map_err(bad)?;
        keep_lines(&mut self.trailer_lines, &lines);
        relay.surplus |= used < data.len();
        cx.upstream_body_bytes += chunk.data.len() as u64;
        chunk.last = relay.reader.is_done();
        // Those of a request are for a node that speaks HTTP/2, whose answers come in no chunks.
        if chunk.last
            && relay.reader.framing() == Framing::Chunked
            && let Some(lines) = &self.trailer_lines
        {
            cx.response.trailers = Some(Box::new(trailers::parse(lines)));
        }
        if relay.filtered && (chunk.last || !chunk.data.is_empty()) {
            self.body_filter(cx, &mut chunk);
        }
        let head = out.len();
        if relay.encoding == Encoding::Chunked {
            write::chunk(&chunk.data, out);
            if chunk.last {
                match &cx.response.trailers {
                    Some(own) => trailers::last_chunk(own, out),
                    None => write::last_chunk(out),
                }
            }
        } else {
            out.extend_from_slice(&chunk.data);
        }
        let sent = (out.len() - head) as u64;
        cx.bytes_sent += sent;
        cx.body_bytes_sent += sent;
        if out.is_empty() {
            return Ok(());
        }
        scratch::send(&mut self.client.stream, task, out, &[], &mut self.client.pending).map_err(gone)
    }

    pub(crate) fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        self.debug_call("http_body_filter_phase", cx);
        for encoders in [false, true] {
            if self.skip != u64::MAX {
                self.snapshot.global.body_filter(encoders, self.skip, cx, chunk);
            }
            self.chain.body_filter(encoders, 0, cx, chunk);
        }
    }

    /// Tells the client that protocols are switched.
    pub(crate) fn start_switched(
        &mut self,
        task: &mut Task<'_>,
        cx: &mut Context,
        out: &mut Vec<u8>,
    ) -> Result<(), AttemptError> {
        self.balancing.head(cx);
        self.header_filter(cx);
        if self.client.h2.is_some() {
            // RFC 8441 section 5: 200, and none of the fields of HTTP/1's handshake.
            cx.response.set_status(200);
            cx.response.headers.remove("sec-websocket-accept");
            self.start_h2(cx);
            // The client speaks next, and only once it knows.
            let answer = self.client.h2.as_ref();
            return answer.map_or(Ok(()), |answer| answer.get().start(false)).map_err(|_| AttemptError::Gone);
        }
        write::status_line(&cx.response, out);
        if let Some(protocol) = cx.response.headers.known(Known::Upgrade) {
            write::field(b"Upgrade", protocol, out);
        }
        out.extend_from_slice(b"Connection: upgrade\r\n");
        cx.response.headers.write_to(out, |_| false);
        out.extend_from_slice(b"\r\n");
        self.answered = true;
        cx.bytes_sent += out.len() as u64;
        scratch::send(&mut self.client.stream, task, out, &[], &mut self.client.pending).map_err(|_| AttemptError::Gone)
    }
}

/// Adds lines behind a body; the empty one at their end is none.
#[allow(clippy::box_collection, reason = "as the exchange has it")]
pub(crate) fn keep_lines(all: &mut Option<Box<Vec<u8>>>, lines: &[u8]) {
    if all.is_some() || lines.len() > 2 || lines.first().is_some_and(|b| !b"\r\n".contains(b)) {
        all.get_or_insert_default().extend_from_slice(lines);
    }
}

pub(crate) fn write_date(out: &mut Vec<u8>) {
    out.extend_from_slice(b"Date: ");
    date(out);
    out.extend_from_slice(b"\r\n");
}

fn date(out: &mut Vec<u8>) {
    sluice_telemetry::time_format::http_date(timer::now_wall(), out);
}

/// Whether the node lets its connection live on. The response's own word counts, as plugins cannot change it.
fn cx_reusable(upstream: &Upstream, cx: &Context) -> bool {
    upstream.pool.size > 0 && cx.response.keep_alive
}
