//! Bytes in both directions after `101 Switching Protocols` (WebSocket), until one side closes, falls silent, or the
//! gateway is told to end now.
use crate::client::Client;
use crate::scratch;
use crate::send::Outgoing;
use sluice_net::{Drain, Stream};
use std::future::poll_fn;
use std::io;
use std::task::{Context as Task, Poll};
use std::time::Duration;

/// Bytes passed each way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    pub to_client: u64,
    pub to_upstream: u64,
}

/// One direction.
struct Lane {
    ended: bool,
    bytes: u64,
}

impl Lane {
    /// Moves what can be moved now; true where anything was. A full `to` stops reading: back-pressure.
    fn poll(
        &mut self,
        task: &mut Task<'_>,
        from: &mut Stream,
        to: &mut Stream,
        pending: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let mut moved = false;
        loop {
            let before = pending.len();
            match scratch::poll_flush(to, task, pending) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(moved || pending.len() < before),
            }
            if self.ended {
                return Ok(moved);
            }
            let read = scratch::with(|scratch| {
                let n = match scratch::poll_read(from, task, &mut scratch.read) {
                    Poll::Pending => return Ok(None),
                    Poll::Ready(n) => n?,
                };
                if n > 0 {
                    scratch.out.extend_from_slice(scratch.read.get(..n).unwrap_or_default());
                    scratch::send(to, task, &mut scratch.out, &[], pending)?;
                }
                Ok::<_, io::Error>(Some(n))
            })?;
            match read {
                None => return Ok(moved),
                Some(0) => self.ended = true,
                Some(n) => {
                    moved = true;
                    self.bytes += n as u64;
                }
            }
        }
    }
}

/// Runs until the end of either direction has been passed on.
pub async fn run(
    client: &mut Client,
    outgoing: &mut Outgoing,
    early: Vec<u8>,
    idle: Duration,
    drain: &Drain,
) -> Passed {
    let mut down = Lane { ended: false, bytes: early.len() as u64 };
    let mut up = Lane { ended: false, bytes: client.buffered.len() as u64 };
    client.pending.extend_from_slice(&early);
    outgoing.pending.append(&mut client.buffered);
    client.timeout.arm(idle);
    poll_fn(|task| {
        let upstream = &mut outgoing.pooled.stream;
        let up_moved = up.poll(task, &mut client.stream, upstream, &mut outgoing.pending);
        let down_moved = down.poll(task, upstream, &mut client.stream, &mut client.pending);
        match (up_moved, down_moved) {
            (Ok(a), Ok(b)) if a || b => client.timeout.arm(idle),
            (Ok(_), Ok(_)) => {}
            _ => return Poll::Ready(()),
        }
        let flushed = |lane: &Lane, pending: &Vec<u8>| lane.ended && pending.is_empty();
        if flushed(&up, &outgoing.pending) || flushed(&down, &client.pending) || drain.is_forced() {
            return Poll::Ready(());
        }
        client.timeout.poll(task)
    })
    .await;
    Passed { to_client: down.bytes, to_upstream: up.bytes }
}
