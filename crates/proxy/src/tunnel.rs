//! Bytes in both directions, of a stream route or after `101 Switching Protocols` (WebSocket), until one side closes, falls
//! silent, or the gateway is told to end now.
use crate::figures::StreamFigures;
use crate::scratch;
use sluice_net::{Drain, Stream, Timeout};
use std::future::poll_fn;
use std::io;
use std::task::{Context as Task, Poll};
use std::time::Duration;

/// One side of a tunnel.
pub(crate) struct End<'a> {
    pub stream: &'a mut Stream,
    /// Bytes for this side that its socket has not taken yet. What is here at the start goes first.
    pub pending: &'a mut Vec<u8>,
}

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// One side closed, and what it had sent has been passed on.
    Closed,
    /// The client's socket failed.
    ClientFailed,
    /// The node's socket failed.
    UpstreamFailed,
    /// Nothing moved for as long as that may be.
    Idle,
    /// The drain's time is over.
    Drained,
}

/// What a tunnel has passed on, apart from what was pending at its start.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    pub to_client: u64,
    pub to_upstream: u64,
    pub ended: Ended,
}

/// Whose socket failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Reading,
    Writing,
}

/// One direction.
#[derive(Default)]
struct Lane {
    ended: bool,
    bytes: u64,
}

impl Lane {
    /// Moves what can be moved now; true where anything was. A full `to` stops reading: back-pressure. An error comes with
    /// whether it was the reading side's.
    fn poll(&mut self, task: &mut Task<'_>, from: &mut Stream, to: &mut End<'_>) -> Result<bool, Side> {
        let mut moved = false;
        loop {
            let before = to.pending.len();
            match scratch::poll_flush(to.stream, task, to.pending) {
                Poll::Ready(result) => result.map_err(|_| Side::Writing)?,
                Poll::Pending => return Ok(moved || to.pending.len() < before),
            }
            if self.ended {
                return Ok(moved);
            }
            let read = scratch::with(|scratch| {
                let n = match scratch::poll_read(from, task, &mut scratch.read) {
                    Poll::Pending => return Ok(None),
                    Poll::Ready(n) => n.map_err(|_: io::Error| Side::Reading)?,
                };
                if n > 0 {
                    scratch.out.extend_from_slice(scratch.read.get(..n).unwrap_or_default());
                    scratch::send(to.stream, task, &mut scratch.out, &[], to.pending).map_err(|_| Side::Writing)?;
                }
                Ok::<_, Side>(Some(n))
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
pub(crate) async fn run(
    mut client: End<'_>,
    mut upstream: End<'_>,
    timeout: &Timeout,
    idle: Duration,
    drain: &Drain,
    figures: Option<&StreamFigures>,
) -> Passed {
    let (mut down, mut up) = (Lane::default(), Lane::default());
    let (mut told_down, mut told_up) = (0, 0);
    timeout.arm(idle);
    let ended = poll_fn(|task| {
        let up_moved = up.poll(task, client.stream, &mut upstream);
        let down_moved = down.poll(task, upstream.stream, &mut client);
        if let Some(figures) = figures {
            let (more_up, more_down) = (up.bytes - told_up, down.bytes - told_down);
            (told_up, told_down) = (up.bytes, down.bytes);
            figures.passed(more_up, more_down);
        }
        match (up_moved, down_moved) {
            (Ok(a), Ok(b)) if a || b => timeout.arm(idle),
            (Ok(_), Ok(_)) => {}
            (Err(Side::Reading), _) | (Ok(_), Err(Side::Writing)) => return Poll::Ready(Ended::ClientFailed),
            (Err(Side::Writing), _) | (Ok(_), Err(Side::Reading)) => return Poll::Ready(Ended::UpstreamFailed),
        }
        if up.ended && upstream.pending.is_empty() || down.ended && client.pending.is_empty() {
            return Poll::Ready(Ended::Closed);
        }
        if drain.is_forced() {
            return Poll::Ready(Ended::Drained);
        }
        timeout.poll(task).map(|()| Ended::Idle)
    })
    .await;
    Passed { to_client: down.bytes, to_upstream: up.bytes, ended }
}
