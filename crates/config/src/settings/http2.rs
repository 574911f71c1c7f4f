//! `sluice.http2`: bounds on connections that speak HTTP/2, to clients and to nodes. Surprise: the size of a head is not among
//! them, as `sluice.limits` bounds it for every version of HTTP.

use crate::section::Section;
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Http2 {
    /// Requests at once on a client's connection (nginx `http2_max_concurrent_streams`).
    pub max_concurrent_streams: u64,
    /// Bytes of one body that its sender may send ahead.
    pub stream_window: u64,
    /// Bytes of all bodies on a connection that may be sent ahead.
    pub connection_window: u64,
    /// Bytes of one body that wait in memory for the other side to take them.
    pub send_buffer: u64,
    /// Streams that a client may have opened and reset before the gateway came to look at them; beyond it is sent away.
    pub max_pending_resets: u64,
    /// Streams that the gateway may have to reset for errors of its client before that is sent away.
    pub max_local_resets: u64,
    /// `PING`, `SETTINGS`, `PRIORITY` and `RST_STREAM` frames of a client within ten seconds, less four for each frame of a
    /// request; beyond it is sent away. 0: no bound.
    pub max_control_frames: u64,
    /// Requests at once on a connection to a node that has not said how many it takes.
    pub upstream_initial_streams: u64,
    /// Connections of one worker to one node.
    pub upstream_connections: u64,
}

pub(super) fn read(s: &Section<'_>) -> Http2 {
    // RFC 9113 section 6.9.1: no window is larger.
    const WINDOW: u64 = (1 << 31) - 1;
    let http2 = Http2 {
        max_concurrent_streams: s.integer("max_concurrent_streams", 1..=65_536, 128),
        stream_window: s.size("stream_window", 64 << 10).clamp(1024, WINDOW),
        // Less than the protocol's first window cannot be asked for.
        connection_window: s.size("connection_window", 1 << 20).clamp(65_535, WINDOW),
        send_buffer: s.size("send_buffer", 64 << 10).clamp(1024, 64 << 20),
        max_pending_resets: s.integer("max_pending_resets", 1..=100_000, 20),
        max_local_resets: s.integer("max_local_resets", 1..=1_000_000, 1024),
        max_control_frames: s.integer("max_control_frames", 0..=1_000_000_000, 10_000),
        upstream_initial_streams: s.integer("upstream_initial_streams", 1..=65_536, 100),
        upstream_connections: s.integer("upstream_connections", 1..=65_536, 32),
    };
    s.finish();
    http2
}
