//! The head of an answer in HTTP/2, as `answer.rs` reads that of HTTP/1.
//!
//! The surprise: where it matters how a call of gRPC ended, one more look is taken behind the head: a node that failed at once may
//! have sent its trailers with it, and nothing was passed on yet.
use super::asked::Asked;
use crate::answer::{Event, Relay};
use crate::answer_tap;
use crate::exchange::Exchange;
use crate::scratch;
use crate::send::{AttemptError, Outgoing};
use base64::Engine as _;
use sluice_http::h1::BodyReader;
use sluice_http::{Method, Version};
use sluice_plugin::{Answer, Context};
use sluice_upstream::{FailureKind, Upstream, grpc_status};
use std::task::{Context as Task, Poll};

impl Exchange<'_> {
    /// As [`Exchange::poll_head`], of a node that speaks HTTP/2.
    pub(crate) fn poll_head_h2(
        &mut self,
        task: &mut Task<'_>,
        cx: &mut Context,
        upstream: &Upstream,
        (outgoing, asked): (&mut Outgoing, &Asked),
        relay: &mut Relay,
    ) -> Poll<Result<Event, AttemptError>> {
        while let Some(head) = asked.poll_interim(task) {
            // 100 was the gateway's to say; the rest is for clients that know it (RFC 9110 section 15.2).
            if head.status() == http::StatusCode::CONTINUE || cx.request.version < Version::Http11 {
                continue;
            }
            // RFC 9113 section 8.6: HTTP/2 does not switch protocols.
            if head.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(AttemptError::upstream(FailureKind::BadResponse, true)));
            }
            sluice_http::h2::response(&head.into_parts().0, true, false, &mut cx.response);
            scratch::with(|scratch| self.pass_interim(task, cx, &mut scratch.out))?;
            self.client.timeout.arm(self.timeouts(cx, upstream).read);
        }
        let (head, ended) = match asked.poll_head(task, cx.upstream.awaits_message) {
            Poll::Pending => {
                return match self.poll_waiting(task) {
                    Poll::Ready(e) => Poll::Ready(Err(e)),
                    Poll::Pending => Poll::Pending,
                };
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(self.no_answer(outgoing, &error))),
            Poll::Ready(Ok(head)) => head,
        };
        sluice_http::h2::response(&head, ended, cx.request.method == Method::Head, &mut cx.response);
        relay.call = upstream.watches_calls();
        if relay.call {
            if !ended {
                asked.poll_bare_trailers(task);
            }
            let own = head.headers.get("grpc-status").and_then(|value| grpc_status::parse(value.as_bytes()));
            self.grpc_status = own.or_else(|| asked.trailer("grpc-status", grpc_status::parse).flatten());
        }
        let elapsed = self.headed(cx, upstream, outgoing);
        let status = cx.response.status;
        if outgoing.tunnel && (200..300).contains(&status) {
            let key = cx.request.headers.get("sec-websocket-key").map(accept);
            sluice_http::h2::switch(&mut cx.response, key.as_deref());
            return scratch::with(|scratch| {
                let switched = self.start_switched(task, cx, &mut scratch.out);
                Poll::Ready(switched.map(|()| Event::Switched { elapsed, early: Vec::new() }))
            });
        }
        if self.misleads(cx) {
            return Poll::Ready(Err(AttemptError::upstream(FailureKind::BadResponse, true)));
        }
        if upstream.retry.on.has_status(status) && self.drops(cx, upstream, status)
            || self
                .grpc_status
                .is_some_and(|call| upstream.retry.on.has_grpc(call) && self.drops_call(cx, upstream, call))
        {
            return Poll::Ready(Err(AttemptError::Dropped(status)));
        }
        if cx.answer_tap.is_some() {
            match answer_tap::head(cx) {
                Answer::Pass => cx.answer_tap = None,
                Answer::Watch => relay.watched = true,
                Answer::Keep => (relay.watched, relay.muted) = (true, true),
                Answer::Replace(reply) => return Poll::Ready(Err(AttemptError::Replaced(reply, elapsed))),
            }
        }
        relay.reader = BodyReader::new(cx.response.framing);
        scratch::with(|scratch| {
            self.start(cx, relay, &mut scratch.out);
            Poll::Ready(self.pass(task, cx, relay, &[], &mut scratch.out).map(|()| Event::Started { elapsed }))
        })
    }
}

/// `Sec-WebSocket-Accept` for a client's key (RFC 6455 section 4.2.2).
fn accept(key: &[u8]) -> String {
    let mut hash = sha1_smol::Sha1::from(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(hash.digest().bytes())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_proof_of_the_rfc() {
        assert_eq!(super::accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
