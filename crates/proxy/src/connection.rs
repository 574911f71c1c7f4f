//! One client connection: request after request until one side has had enough.
use crate::client::{Client, Head};
use crate::exchange;
use crate::h2;
use crate::worker::Worker;
use sluice_net::Stream;
use sluice_plugin::Connection;
use std::rc::Rc;

/// Serves a connection until it ends. `http2`: the client may speak that.
pub async fn serve(worker: Rc<Worker>, stream: Stream, connection: Connection, http2: bool) {
    let mut client = Client::new(stream, Rc::new(connection));
    if client.stream.alpn() == Some(b"h2") {
        return Box::pin(h2::serve(worker, client)).await;
    }
    client.prior_knowledge = http2 && !client.stream.is_tls();
    loop {
        match client.head(&worker).await {
            Head::Closed => break,
            Head::Http2 => return Box::pin(h2::serve(worker, client)).await,
            Head::Request(mut cx) => {
                // HTTP/2's preface stands at a connection's very beginning, or is none.
                client.prior_knowledge = false;
                let keep = exchange::run(&worker, &mut client, &mut cx).await;
                worker.recycle(cx);
                if !keep {
                    break;
                }
            }
            Head::Refused(mut cx, reject) => {
                exchange::refuse(&worker, &mut client, &mut cx, reject.status, reject.reason).await;
                worker.recycle(cx);
                break;
            }
        }
    }
    client.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F>(_: impl FnOnce() -> F) -> usize {
        std::mem::size_of::<F>()
    }

    /// The size of its task is most of what an idle connection costs.
    #[test]
    #[allow(unreachable_code, clippy::diverging_sub_expression, reason = "only the future's type is wanted")]
    fn an_idle_connection_is_small() {
        let task = size(|| serve(panic!(), panic!(), panic!(), false));
        assert!(task <= 2352, "{task} bytes");
    }
}
