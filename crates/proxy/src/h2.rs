//! Client connections that speak HTTP/2: each request is a task of its own with a [`Client`] whose stream is one of the
//! connection's. From there on it takes the way of every request.
//!
//! The surprise: this task only keeps the connection moving (frames in and out, settings, pings, GOAWAY); a request that is
//! slow, or not read by its client, holds up nobody but itself.
mod answer;
mod asked;
mod gathered;
mod incoming;
mod inlet;
mod outlet;
pub(crate) mod pool;

use crate::client::Client;
use crate::exchange;
use crate::worker::Worker;
use bytes::Bytes;
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

pub(crate) use answer::Handle;
pub(crate) use asked::{Asked, NoAnswer};
use gathered::Gathered;

/// Bytes of a request's body that its client may send ahead (`SETTINGS_INITIAL_WINDOW_SIZE`), and of all of a connection's.
const WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of answers that wait in memory for one stream's client to take them.
const SEND_BUFFER: usize = 64 * 1024;
/// Requests at once (nginx's `http2_max_concurrent_streams`).
const STREAMS: u32 = 128;
/// Streams that were reset and not yet looked at: a client that resets faster is sent away (CVE-2023-44487).
const PENDING_RESETS: usize = 20;

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

/// Whether a connection begins as RFC 9113 section 3.4 says. Nothing of HTTP/1 does.
pub(crate) fn is_preface(data: &[u8]) -> bool {
    data.starts_with(b"PRI * HTTP/2.0\r\n")
}

/// Serves a connection until it ends. What was read of it already is in the client's buffer.
pub(crate) async fn serve(worker: Rc<Worker>, client: Client) {
    let Client { stream, buffered: first, connection, .. } = client;
    let timeout = Timeout::new();
    timeout.arm(worker.settings.header_timeout);
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(worker.settings.limits.head).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .enable_connect_protocol();
    let io = Gathered::new(first, stream);
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
    let mut leaving = false;
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
            if matches!(io.poll_send(task), Poll::Ready(Err(_))) || worker.drain.is_forced() {
                return Poll::Ready(Event::Over);
            }
            if !leaving && worker.drain.is_draining() {
                return Poll::Ready(Event::Leave);
            }
            if active.count.get() > 0 {
                active.waiting.set(Some(task.waker().clone()));
                timeout.arm(keepalive);
            }
            timeout.poll(task).map(|()| Event::Leave)
        });
        match event.await {
            Event::Over => return,
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
    /// Nothing more can be said or heard, or the drain's time is over.
    Over,
    /// It was idle for too long, or the gateway drains: no more requests.
    Leave,
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
