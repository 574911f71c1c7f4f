//! The gateway's own response: made by a plugin, or by `rescue` where there is none to relay.
//!
//! The surprise: a body that many requests share is never copied; where the client is slow it is sent from where it stands.
use crate::answer::write_date;
use crate::client;
use crate::exchange::{Exchange, Gone};
use crate::grpc;
use crate::rescue;
use crate::scratch;
use bytes::Bytes;
use sluice_http::h1::write;
use sluice_http::{Known, Version};
use sluice_net::timer;
use sluice_plugin::reply::ReplyBody;
use sluice_plugin::{BodyChunk, BodySource, Context, Reply};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncWrite as _;

/// Up to so many bytes of a body are sent with the head in one turn; what a slow client leaves of them is copied.
const AT_ONCE: usize = 64 * 1024;
/// So much before their moment time-outs may come: the wheel's clock is coarse.
const EARLY: Duration = timer::TICK.saturating_mul(4);

impl Exchange<'_> {
    /// Answers the client.
    pub(crate) async fn reply(&mut self, cx: &mut Context, reply: Box<Reply>) -> Result<(), Gone> {
        let to_head = cx.client_sent_head();
        let (body, bodiless) = self.begin(cx, *reply);
        let filtered = cx.wants_body() && !bodiless;
        let body = match body {
            Body::Streamed(source, length) => {
                let length = (!filtered).then_some(length);
                return Box::pin(self.stream_reply(cx, source, length, filtered, bodiless || to_head)).await;
            }
            whole if !filtered => whole,
            whole => {
                let mut chunk = BodyChunk { data: whole.into_vec(), last: true };
                self.body_filter(cx, &mut chunk);
                Body::Own(chunk.data)
            }
        };
        cx.response.headers.remove("content-length");
        if !bodiless {
            let mut number = itoa::Buffer::new();
            cx.response.headers.append("Content-Length", number.format(body.length()));
        }
        if !self.client.skip_buffered_body(&mut self.body) {
            self.keep = false;
        }
        self.answered = true;
        let bytes: &[u8] = if to_head || bodiless { &[] } else { body.bytes() };
        let at_once = if bytes.len() <= AT_ONCE { bytes } else { &[] };
        let sent = poll_fn(|task| {
            Poll::Ready(scratch::with(|scratch| {
                self.write_head(cx, false, &mut scratch.out);
                scratch::send(&mut self.client.stream, task, &mut scratch.out, at_once, &mut self.client.pending)
            }))
        });
        sent.await.map_err(|_| Gone)?;
        cx.bytes_sent += bytes.len() as u64;
        cx.body_bytes_sent += bytes.len() as u64;
        self.client.flush(self.worker.settings.send_timeout).await.map_err(|_| Gone)?;
        if at_once.len() < bytes.len() {
            Box::pin(self.write_slowly(bytes)).await?;
        }
        Ok(())
    }

    /// Makes the response's head of a reply, and lets the plugins see it; gives the body, and whether there can be none.
    fn begin(&mut self, cx: &mut Context, reply: Reply) -> (Body, bool) {
        // What was kept of the body will not be sent any more, and must not pass for the next request.
        client::consume(&mut self.client.buffered, std::mem::take(&mut self.first_part));
        // The upstream's status is told even where its answer could not be used.
        cx.response.clear();
        cx.own_response = true;
        cx.response.status = if reply.status == 0 { 200 } else { reply.status };
        for (name, value) in reply.shared.iter().flat_map(|fields| fields.iter()) {
            cx.response.headers.append(name, value);
        }
        for (name, value) in &reply.headers {
            cx.response.headers.append(name, value);
        }
        let (body, kind) = match reply.body {
            ReplyBody::Bytes(body) => (Body::Own(body), "text/plain; charset=utf-8"),
            ReplyBody::Shared(body) => (Body::Shared(body), ""),
            ReplyBody::Streamed(length) => match cx.body_source.take() {
                Some(source) => (Body::Streamed(source, length), ""),
                None => (Body::Own(Vec::new()), ""),
            },
            ReplyBody::Default if reply.status >= 300 => {
                (Body::Own(rescue::page(reply.status)), "text/html; charset=utf-8")
            }
            ReplyBody::Default => (Body::Own(Vec::new()), "text/plain; charset=utf-8"),
        };
        let bodiless = matches!(cx.response.status, 100..200 | 204 | 304);
        let typed = kind.is_empty()
            || cx.response.headers.contains("content-type")
            || cx.early_headers().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if !bodiless && body.length() > 0 && !typed {
            cx.response.headers.append("Content-Type", kind);
        }
        self.tell_upstream_status(cx);
        let late = self.deadline.is_some_and(|limit| cx.started.elapsed() + EARLY >= limit);
        // A call that failed is told by the head alone ("Trailers-Only"); in HTTP/1 the length says so.
        let told = grpc::tell_status(cx, late);
        self.header_filter(cx);
        match told {
            true => (Body::Own(Vec::new()), bodiless || self.client.h2.is_some()),
            false => (body, bodiless),
        }
    }

    fn write_head(&mut self, cx: &mut Context, chunked: bool, out: &mut Vec<u8>) {
        if self.client.h2.is_some() {
            return self.start_h2(cx);
        }
        write::status_line(&cx.response, out);
        if cx.response.headers.known(Known::Date).is_none() {
            write_date(out);
        }
        if chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        self.write_connection(cx, out);
        cx.response.headers.write_to(out, |_| false);
        out.extend_from_slice(b"\r\n");
        cx.bytes_sent += out.len() as u64;
    }

    /// Writes bytes from where they stand, as fast as the client takes them.
    async fn write_slowly(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let limit = self.worker.settings.send_timeout;
        let client = &mut *self.client;
        client.timeout.arm(limit);
        let mut rest = bytes;
        poll_fn(|task| {
            while !rest.is_empty() {
                match Pin::new(&mut client.stream).poll_write(task, rest) {
                    Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Err(Gone)),
                    Poll::Ready(Ok(sent)) => {
                        rest = rest.get(sent..).unwrap_or_default();
                        client.timeout.arm(limit);
                    }
                    Poll::Pending => return client.timeout.poll(task).map(|()| Err(Gone)),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        client.flush(limit).await.map_err(|_| Gone)
    }

    /// A body that comes piece by piece. Without a length it is chunked, or ends with the connection.
    async fn stream_reply(
        &mut self,
        cx: &mut Context,
        mut source: Box<dyn BodySource>,
        length: Option<u64>,
        filtered: bool,
        nobody: bool,
    ) -> Result<(), Gone> {
        cx.response.headers.remove("content-length");
        if let Some(length) = length {
            cx.response.headers.append("Content-Length", length.to_string());
        }
        let chunked = length.is_none() && cx.request.version == Version::Http11;
        if !self.client.skip_buffered_body(&mut self.body) || length.is_none() && !chunked {
            self.keep = false;
        }
        self.answered = true;
        let mut head = Vec::with_capacity(1024);
        self.write_head(cx, chunked && !nobody, &mut head);
        self.write_slowly(&head).await?;
        if nobody {
            return Ok(());
        }
        loop {
            // A source that fails in the middle leaves a body that is too short: the connection must tell so.
            let piece = Box::pin(source.next()).await.map_err(|error| {
                tracing::warn!(%error, "a body could not be read to its end");
                Gone
            })?;
            let last = piece.is_none();
            let piece = piece.unwrap_or_default();
            let sent = if filtered {
                let mut chunk = BodyChunk { data: piece.to_vec(), last };
                self.body_filter(cx, &mut chunk);
                self.write_piece(chunk.data.into(), chunked, last).await?
            } else {
                self.write_piece(piece, chunked, last).await?
            };
            cx.bytes_sent += sent;
            cx.body_bytes_sent += sent;
            if last {
                return Ok(());
            }
        }
    }

    async fn write_piece(&mut self, piece: Bytes, chunked: bool, last: bool) -> Result<u64, Gone> {
        if !chunked {
            self.write_slowly(&piece).await?;
            return Ok(piece.len() as u64);
        }
        let mut framed = Vec::with_capacity(piece.len() + 32);
        write::chunk(&piece, &mut framed);
        if last {
            write::last_chunk(&mut framed);
        }
        self.write_slowly(&framed).await?;
        Ok(framed.len() as u64)
    }
}

enum Body {
    Own(Vec<u8>),
    Shared(Bytes),
    Streamed(Box<dyn BodySource>, u64),
}

impl Body {
    fn length(&self) -> u64 {
        match self {
            Body::Own(bytes) => bytes.len() as u64,
            Body::Shared(bytes) => bytes.len() as u64,
            Body::Streamed(_, length) => *length,
        }
    }
    fn bytes(&self) -> &[u8] {
        match self {
            Body::Own(bytes) => bytes,
            Body::Shared(bytes) => bytes,
            Body::Streamed(..) => &[],
        }
    }
    fn into_vec(self) -> Vec<u8> {
        match self {
            Body::Own(bytes) => bytes,
            Body::Shared(bytes) => bytes.into(),
            Body::Streamed(..) => Vec::new(),
        }
    }
}
