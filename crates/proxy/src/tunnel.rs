//! Bytes in both directions, of a stream route or after `101 Switching Protocols` (WebSocket), until one side closes, falls
//! silent, or the gateway is told to end now.
//!
//! The surprise: when the gateway ends it, a WebSocket is closed as its protocol wants it: each side gets a Close frame with status
//! 1012 behind the frame that is under way, and a moment to answer.
use crate::figures::StreamFigures;
use crate::scratch;
use crate::websocket::{Way, WebSocket};
use sluice_net::{Drain, Stream, Timeout};
use std::future::poll_fn;
use std::io;
use std::task::{Context as Task, Poll};
use std::time::Duration;

/// How long both sides may take to answer a Close frame.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a tunnel may be silent: both ways, or while one side takes nothing of what waits for it (nginx: `proxy_read_timeout`
/// of the node, `send_timeout`, `proxy_send_timeout`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    pub both: Duration,
    pub to_client: Duration,
    pub to_upstream: Duration,
}

impl Silence {
    /// The same for all.
    pub fn of(both: Duration) -> Silence {
        Silence { both, to_client: both, to_upstream: both }
    }

    fn now(&self, client: &End<'_>, upstream: &End<'_>) -> Duration {
        let mut limit = self.both;
        if !client.pending.is_empty() {
            limit = limit.min(self.to_client);
        }
        if !upstream.pending.is_empty() {
            limit = limit.min(self.to_upstream);
        }
        limit
    }
}

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
    /// whether it was the reading side's. `ending`: nothing but the rest of a frame passes.
    fn poll(
        &mut self,
        task: &mut Task<'_>,
        from: &mut Stream,
        to: &mut End<'_>,
        mut way: Option<&mut Way>,
        ending: bool,
    ) -> Result<bool, Side> {
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
                    let data = scratch.read.get(..n).unwrap_or_default();
                    match &mut way {
                        Some(way) if ending => way.rest(data, &mut scratch.out),
                        Some(way) => {
                            way.follow(data);
                            scratch.out.extend_from_slice(data);
                        }
                        None => scratch.out.extend_from_slice(data),
                    }
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
    silence: Silence,
    drain: &Drain,
    figures: Option<&StreamFigures>,
    mut socket: Option<Box<WebSocket>>,
) -> Passed {
    let (mut down, mut up) = (Lane::default(), Lane::default());
    let (mut told_down, mut told_up) = (0, 0);
    let mut limit = silence.both;
    let mut ending = false;
    timeout.arm(limit);
    let ended = poll_fn(|task| {
        if drain.is_forced() && !std::mem::replace(&mut ending, true) {
            let Some(socket) = &mut socket else { return Poll::Ready(Ended::Drained) };
            socket.up.end(upstream.pending);
            socket.down.end(client.pending);
            timeout.arm(LAST_WORDS);
        }
        let (up_way, down_way) = match &mut socket {
            Some(socket) => (Some(&mut socket.up), Some(&mut socket.down)),
            None => (None, None),
        };
        let up_moved = up.poll(task, client.stream, &mut upstream, up_way, ending);
        let down_moved = down.poll(task, upstream.stream, &mut client, down_way, ending);
        if let Some(figures) = figures {
            let (more_up, more_down) = (up.bytes - told_up, down.bytes - told_down);
            (told_up, told_down) = (up.bytes, down.bytes);
            figures.passed(more_up, more_down);
        }
        let moved = match (up_moved, down_moved) {
            (Ok(a), Ok(b)) => a || b,
            (Err(Side::Reading), _) | (Ok(_), Err(Side::Writing)) => return Poll::Ready(Ended::ClientFailed),
            (Err(Side::Writing), _) | (Ok(_), Err(Side::Reading)) => return Poll::Ready(Ended::UpstreamFailed),
        };
        if ending {
            let answered = socket.as_ref().is_none_or(|socket| socket.up.is_over() && socket.down.is_over());
            let flushed = client.pending.is_empty() && upstream.pending.is_empty();
            if (answered || up.ended && down.ended) && flushed {
                return Poll::Ready(Ended::Drained);
            }
            return timeout.poll(task).map(|()| Ended::Drained);
        }
        if up.ended && upstream.pending.is_empty() || down.ended && client.pending.is_empty() {
            return Poll::Ready(Ended::Closed);
        }
        let now = silence.now(&client, &upstream);
        if moved || now != limit {
            limit = now;
            timeout.arm(limit);
        }
        timeout.poll(task).map(|()| Ended::Idle)
    })
    .await;
    Passed { to_client: down.bytes, to_upstream: up.bytes, ended }
}
