//! Asking an upstream once more for a request that has its answer already (`sluice_plugin::Background`): the rest of its `access`
//! phase and what follows, without client, filters and log.
//!
//! The surprise: it runs on a connection that leads nowhere, so that the pipeline is the same for it.
use crate::client::Client;
use crate::exchange::Exchange;
use crate::worker::{Held, Worker};
use sluice_config::CompiledRoute;
use sluice_http::h1::{BodyReader, Framing};
use sluice_net::Stream;
use sluice_plugin::{Background, Chain, Context, Phase};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Longest time for it, beside the limits of its upstream.
const LIMIT: Duration = Duration::from_secs(120);

/// Begins it beside the other requests of this worker.
#[cold]
pub(crate) fn spawn(worker: &Rc<Worker>, exchange: &Exchange<'_>, cx: &mut Context) {
    let Some(background) = cx.background.take() else { return };
    let Ok((stream, nobody)) = tokio::net::UnixStream::pair() else { return };
    let mut client = Client::new(Stream::Unix(stream), cx.connection.clone());
    let mut fork = Box::new(cx.fork());
    fork.request.framing = Framing::None;
    let (worker, snapshot) = (worker.clone(), exchange.snapshot.clone());
    let (route, chain, skip) = (exchange.route.clone(), exchange.chain.clone(), exchange.skip);
    tokio::task::spawn_local(async move {
        let _open = nobody;
        let run = run(&worker, &mut client, (snapshot, route, chain, skip), &mut fork, *background);
        if tokio::time::timeout(LIMIT, Box::pin(run)).await.is_err() {
            tracing::warn!("a background request took too long");
        }
    });
}

async fn run(
    worker: &Worker,
    client: &mut Client,
    (snapshot, route, chain, skip): (Held, Option<Arc<CompiledRoute>>, Arc<Chain>, u64),
    cx: &mut Context,
    background: Background,
) {
    let mut exchange = Exchange::new(worker, client, snapshot.clone(), cx);
    exchange.route = route;
    exchange.chain = chain.clone();
    exchange.skip = skip;
    // There is no body to wait for, and time has passed.
    exchange.body = BodyReader::new(Framing::None);
    exchange.continued = true;
    exchange.waited = true;
    let (at, global) = background.resume;
    if global && exchange.phase_from(at, Phase::Access, &snapshot.global, true, cx).await.is_some() {
        return;
    }
    let at = if global { 0 } else { at };
    if exchange.phase_from(at, Phase::Access, &chain, false, cx).await.is_some() {
        return;
    }
    // What plugins behind it may have hung in is for requests with a client.
    cx.tap = None;
    cx.answer_tap = Some(background.tap);
    if let Ok(Some(reply)) = exchange.proxy(cx).await
        && let Some(mut tap) = cx.answer_tap.take()
    {
        let _ = tap.failed(cx, reply);
    }
}
