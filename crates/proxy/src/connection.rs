//! One client connection: request after request until one side has had enough.
use crate::client::{Client, Head};
use crate::exchange;
use crate::worker::Worker;
use sluice_net::Stream;
use sluice_plugin::Connection;
use std::rc::Rc;

/// Serves a connection until it ends.
pub async fn serve(worker: Rc<Worker>, stream: Stream, connection: Connection) {
    let mut client = Client::new(stream, Rc::new(connection));
    loop {
        match client.head(&worker).await {
            Head::Closed => break,
            Head::Request(mut cx) => {
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
