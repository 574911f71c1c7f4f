//! A connection to one of the upstream's nodes. A node that cannot be connected to makes way for the next, by `retries` and
//! `retry_timeout`; once connected there is no second try, for bytes may have been taken.
use super::{Refused, Session};
use sluice_net::{Address, ConnectErrorKind, ConnectOptions, Stream, connect, timer};
use sluice_upstream::{
    Algorithm, Attempt, Balancer, Failure, FailureKind, FailureSource, Held, Outcome, PickInput, RetryDecision, Tried,
    Upstream, hash_key,
};
use std::time::{Duration, Instant};

/// What a session tells the balancer at its end: how fast the node took the connection.
pub(super) fn outcome(latency: Duration) -> Outcome {
    Outcome { latency, ok: true, now_ms: timer::unix_ms_coarse() }
}

impl Session {
    /// The node's connection, the place held on the node, and how long connecting took.
    pub(super) async fn connect<'b>(
        &mut self,
        upstream: &Upstream,
        balancer: &'b Balancer,
    ) -> Result<(Stream, Held<'b>, Duration), Refused> {
        if balancer.nodes().is_empty() {
            return Err(Refused::NoNode);
        }
        let mut hash = Vec::new();
        if balancer.settings().algorithm == Algorithm::Chash {
            hash_key(&balancer.settings().hash, &self.cx, &mut hash);
        }
        let options = ConnectOptions { timeout: upstream.timeouts.connect, ..ConnectOptions::default() };
        let (started, mut tried, mut retried) = (Instant::now(), Tried::new(), 0);
        loop {
            let input = PickInput {
                hash_key: Some(&hash),
                random: self.worker.random(),
                now_ms: timer::unix_ms_coarse(),
                worker: self.worker.id,
                sticky: None,
            };
            let picked = balancer.pick(&input, &tried).ok_or(Refused::Exhausted)?;
            let held = balancer.hold(&picked);
            let address = picked.endpoint.address.ok_or(Refused::NoNode)?;
            self.cx.node = Some(address);
            // The name of the client's own handshake goes on (apisix/upstream.lua `set_by_route`).
            let client_tls = self.cx.connection.tls.as_ref();
            let own = picked.endpoint.domain.as_deref().unwrap_or(&picked.endpoint.host);
            let name = client_tls.and_then(|tls| tls.server_name.as_deref()).unwrap_or(own);
            let tls = upstream.scheme.is_tls().then_some((&upstream.tls.client, name));
            let begun = Instant::now();
            let error = match connect(&Address::Ip(address), &options, tls).await {
                Ok(stream) => return Ok((stream, held, begun.elapsed())),
                Err(error) => error,
            };
            held.failed(timer::unix_ms_coarse());
            let kind = match error.kind {
                ConnectErrorKind::Timeout => FailureKind::Timeout,
                ConnectErrorKind::Tls => FailureKind::Tls,
                _ => FailureKind::Connect,
            };
            let failure = Failure { source: FailureSource::Upstream, kind, sent_bytes: false };
            let decision = upstream.retry.may_retry(&Attempt {
                failure,
                method: b"",
                body_replayable: true,
                response_started: false,
                pooled: false,
                retried,
                nodes: u32::try_from(balancer.nodes().len()).unwrap_or(u32::MAX),
                elapsed: started.elapsed(),
                // connections of streams are tried one after the other at once
                wait: Duration::ZERO,
            });
            tracing::warn!(upstream = %upstream.key, %error, ?decision, "no connection to the upstream");
            if let Some(checker) = &upstream.health {
                match decision {
                    RetryDecision::Retry { .. } => checker.failed(picked.endpoint, &failure, false, input.now_ms),
                    RetryDecision::Stop | RetryDecision::TimedOut => {
                        checker.session_failed(picked.endpoint, input.now_ms);
                    }
                }
            }
            if self.worker.drain.is_forced() {
                return Err(Refused::Drained);
            }
            match decision {
                RetryDecision::Retry { .. } => {
                    retried += 1;
                    tried.insert(picked.index);
                }
                RetryDecision::Stop | RetryDecision::TimedOut => return Err(Refused::Exhausted),
            }
        }
    }
}
