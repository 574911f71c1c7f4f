//! Client connections that speak HTTP/2: each request is a task of its own with a [`Client`] whose stream is one of the
//! connection's. From there on it takes the way of every request.
//!
//! The surprise: this task only keeps the connection moving (frames in and out, settings, pings, GOAWAY); a request that is
//! slow, or not read by its client, holds up nobody but itself.
mod answer;
mod answered;
mod asked;
mod flood;
mod gathered;
mod incoming;
mod inlet;
mod outlet;
pub(crate) mod pool;
mod sending;

use crate::client::Client;
use crate::exchange;
use crate::worker::Worker;
use bytes::Bytes;
use h2::Reason;
use h2::server::{self, SendResponse};
use http::Request;
use sluice_http::h1::Reject;
use sluice_net::{Stream, Timeout};
use sluice_plugin::Connection;
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

pub(crate) use answer::Handle;
pub(crate) use asked::Asked;
use gathered::Gathered;
pub(crate) use sending::{head_h2, to_tunnel};

/// How long streams may take to say good-bye once the drain's time is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Requests under way on a connection.
#[derive(Default)]
struct Active {
    count: Cell<usize>,
    /// The connection's task, to be told that the last one ended.
    waiting: Cell<Option<Waker>>,
}

struct ActiveGuard(Rc<Active>);

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0
            && let Some(waker) = self.0.waiting.take()
        {
            waker.wake();
        }
    }
}

/// The first line of what RFC 9113 section 3.4 begins a connection with. Nothing of HTTP/1 does.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Whether a connection begins as HTTP/2's do.
pub(crate) fn is_preface(data: &[u8]) -> bool {
    data.starts_with(PREFACE)
}

/// Whether it may turn out to.
pub(crate) fn may_be_preface(data: &[u8]) -> bool {
    PREFACE.starts_with(data)
}

/// Serves a connection until it ends. What was read of it already is in the client's buffer.
pub(crate) async fn serve(worker: Rc<Worker>, client: Client) {
    let Client { stream, buffered: first, connection, .. } = client;
    let timeout = Timeout::new();
    timeout.arm(worker.settings.header_timeout);
    let limits = worker.settings.http2;
    let flooded = Rc::<Cell<bool>>::default();
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(limits.window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(limits.streams)
        .max_send_buffer_size(limits.send_buffer)
        .max_header_list_size(u32::try_from(worker.settings.limits.head).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits.pending_resets)
        .max_local_error_reset_streams(Some(limits.local_resets))
        .enable_connect_protocol();
    let io = Gathered::new(first, stream).watched(limits.control_frames, flooded.clone());
    let mut handshake = pin!(builder.handshake::<_, Bytes>(io.clone()));
    let begun = poll_fn(|task| match handshake.as_mut().poll(task) {
        Poll::Pending => match io.poll_send(task) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => timeout.poll(task).map(|()| None),
        },
        Poll::Ready(begun) => Poll::Ready(begun.ok()),
    });
    // A preface that is none, or too slow in coming, is nobody to talk to.
    let Some(mut streams) = begun.await else { return };
    let active = Rc::<Active>::default();
    let keepalive = worker.settings.keepalive_timeout;
    timeout.arm(keepalive);
    let (mut leaving, mut forced) = (false, false);
    loop {
        let event = poll_fn(|task| {
            while let Poll::Ready(accepted) = streams.poll_accept(task) {
                // The connection is over, or was broken by the client.
                let Some(Ok((request, respond))) = accepted else { return Poll::Ready(Event::Over) };
                timeout.arm(keepalive);
                let most = worker.settings.keepalive_requests;
                if !leaving && most != 0 && connection.requests.get() + 1 >= most {
                    leaving = true;
                    streams.graceful_shutdown();
                }
                active.count.set(active.count.get() + 1);
                let (guard, worker, connection) = (ActiveGuard(active.clone()), worker.clone(), connection.clone());
                let counted = worker.drain.clone();
                sluice_net::worker::spawn_connection(&counted, async move {
                    let _guard = guard;
                    exchange(&worker, connection, request, respond).await;
                });
            }
            if matches!(io.poll_send(task), Poll::Ready(Err(_))) {
                return Poll::Ready(Event::Over);
            }
            if flooded.get() {
                return Poll::Ready(Event::Flooded);
            }
            if !forced && worker.drain.is_forced() {
                return Poll::Ready(Event::Forced);
            }
            if forced && active.count.get() == 0 {
                return Poll::Ready(Event::Leave);
            }
            if !leaving && worker.drain.is_draining() {
                return Poll::Ready(Event::Leave);
            }
            if active.count.get() > 0 {
                active.waiting.set(Some(task.waker().clone()));
                if !forced {
                    timeout.arm(keepalive);
                }
            }
            timeout.poll(task).map(|()| Event::Leave)
        });
        match event.await {
            Event::Over => return,
            Event::Flooded => return leave(&mut streams, &io, &timeout, Reason::ENHANCE_YOUR_CALM).await,
            // Each request under way ends itself; what they say last is still to go out.
            Event::Forced => {
                forced = true;
                timeout.arm(LAST_WORDS);
            }
            Event::Leave if forced => return leave(&mut streams, &io, &timeout, Reason::NO_ERROR).await,
            // Nobody asks for anything: say good-bye, wait a moment for it to be read.
            Event::Leave if leaving => return,
            Event::Leave => {
                leaving = true;
                streams.graceful_shutdown();
                timeout.arm(keepalive);
            }
        }
    }
}

enum Event {
    /// Nothing more can be said or heard.
    Over,
    /// It was idle for too long, or the gateway drains: no more requests.
    Leave,
    /// The drain's time is over.
    Forced,
    /// Too many frames that are about no request.
    Flooded,
}

/// Ends a connection at once, as far as its client reads what is left to say.
async fn leave(streams: &mut server::Connection<Gathered, Bytes>, io: &Gathered, timeout: &Timeout, reason: Reason) {
    streams.abrupt_shutdown(reason);
    timeout.arm(LAST_WORDS);
    poll_fn(|task| {
        let closed = streams.poll_closed(task).is_ready();
        match io.poll_send(task) {
            Poll::Ready(sent) if closed || sent.is_err() => Poll::Ready(()),
            _ => timeout.poll(task),
        }
    })
    .await;
}

/// One request.
async fn exchange(
    worker: &Rc<Worker>,
    connection: Rc<Connection>,
    request: Request<h2::RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let (head, body) = request.into_parts();
    let protocol = head.extensions.get::<h2::ext::Protocol>().map(h2::ext::Protocol::as_str);
    let mut cx = worker.context(&connection);
    let read = match protocol {
        None | Some("websocket") => {
            sluice_http::h2::request(&head, protocol, body.is_end_stream(), &worker.settings.limits, &mut cx.request)
        }
        Some(_) => Err(Reject { status: 501, reason: "unknown :protocol" }),
    };
    drop(head);
    let answer = Handle::new(respond);
    let mut client = Client::new(Stream::Sub(Box::new(incoming::Exchanged::new(body, answer.clone()))), connection);
    client.h2 = Some(answer);
    match read {
        Ok(()) => drop(exchange::run(worker, &mut client, &mut cx).await),
        Err(reject) => exchange::refuse(worker, &mut client, &mut cx, reject.status, reject.reason).await,
    }
    worker.recycle(cx);
}
