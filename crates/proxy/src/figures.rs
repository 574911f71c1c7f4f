//! What workers count of their own work: requests, retries, connections to nodes, and what goes over stream listeners.
use sluice_telemetry::{CounterHandle, FamilyOptions, GaugeHandle, MetricError, Registry};
use sluice_upstream::pool::OpenConnections;
use std::sync::Arc;

/// Handles that cost about a nanosecond per update, as each worker adds to its own shard.
#[derive(Clone)]
pub struct Figures {
    /// Requests since the start.
    pub requests: CounterHandle,
    /// Requests that are being served.
    pub in_flight: GaugeHandle,
    pub retries: RetryFigures,
    pub upstream: UpstreamFigures,
}

/// Connections to nodes.
#[derive(Clone)]
pub struct UpstreamFigures {
    /// Attempts on a connection that had carried a request before.
    pub reused: CounterHandle,
    pub connected: CounterHandle,
    pub timed_out: CounterHandle,
    pub tls_failed: CounterHandle,
    pub failed: CounterHandle,
    /// Open now, idle ones included.
    pub open: OpenConnections,
    /// Idle in the pools, as of each worker's last tick.
    pub idle: GaugeHandle,
}

impl UpstreamFigures {
    fn register(metrics: &Registry) -> Result<UpstreamFigures, MetricError> {
        let options = FamilyOptions::default;
        let connects = metrics.counter(
            "sluice_upstream_connects_total",
            "Attempts to connect to a node, by how they ended",
            &["result"],
            options(),
        )?;
        let reused = metrics.counter(
            "sluice_upstream_connections_reused_total",
            "Attempts of requests that took a pooled connection",
            &[],
            options(),
        )?;
        let idle = metrics.gauge(
            "sluice_upstream_connections_idle",
            "Connections to nodes that wait in the pools for a request",
            &[],
            options(),
        )?;
        Ok(UpstreamFigures {
            reused: reused.with(&[]),
            connected: connects.with(&["connected"]),
            timed_out: connects.with(&["timeout"]),
            tls_failed: connects.with(&["tls"]),
            failed: connects.with(&["failed"]),
            open: OpenConnections::default(),
            idle: idle.with(&[]),
        })
    }
}

/// What goes over one listener of stream routes. All its workers count into it.
#[derive(Clone)]
pub struct StreamFigures {
    /// As configured: `0.0.0.0:9100`.
    pub listen_addr: Arc<str>,
    pub(crate) active: GaugeHandle,
    pub(crate) client: Lane,
    pub(crate) upstream: Lane,
}

/// Bytes in both directions of one side.
#[derive(Clone)]
pub(crate) struct Lane {
    pub ingress: CounterHandle,
    pub egress: CounterHandle,
}

/// Sums of a [`StreamFigures`]. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamTotals {
    /// Connections under way.
    pub active: u64,
    pub from_client: u64,
    pub to_client: u64,
    pub from_upstream: u64,
    pub to_upstream: u64,
}

impl StreamFigures {
    /// Shown by whoever asks for [`StreamFigures::totals`], and in no registry.
    pub fn new(listen_addr: &str) -> Result<StreamFigures, MetricError> {
        let own = Registry::new();
        let active = own.gauge("active", "", &[], FamilyOptions::default())?.with(&[]);
        let bytes = own.counter("bytes", "", &["side", "type"], FamilyOptions::default())?;
        let lane = |side| Lane { ingress: bytes.with(&[side, "ingress"]), egress: bytes.with(&[side, "egress"]) };
        let (client, upstream) = (lane("downstream"), lane("upstream"));
        Ok(StreamFigures { listen_addr: listen_addr.into(), active, client, upstream })
    }

    /// Bytes that went on to the node and to the client, read and handed over.
    #[inline]
    pub(crate) fn passed(&self, to_upstream: u64, to_client: u64) {
        if to_upstream > 0 {
            self.client.ingress.add(to_upstream);
            self.upstream.egress.add(to_upstream);
        }
        if to_client > 0 {
            self.upstream.ingress.add(to_client);
            self.client.egress.add(to_client);
        }
    }

    /// Bytes that were read from the client, and those that wait for the node, before the tunnel began.
    pub(crate) fn first(&self, read: u64, waiting: u64) {
        self.client.ingress.add(read);
        self.upstream.egress.add(waiting);
    }

    pub fn totals(&self) -> StreamTotals {
        StreamTotals {
            active: self.active.value().max(0.0) as u64,
            from_client: self.client.ingress.value(),
            to_client: self.client.egress.value(),
            from_upstream: self.upstream.ingress.value(),
            to_upstream: self.upstream.egress.value(),
        }
    }
}

/// Counts a connection as active for as long as it lives.
pub(crate) struct ActiveStream(pub GaugeHandle);

impl ActiveStream {
    pub(crate) fn of(figures: &StreamFigures) -> ActiveStream {
        figures.active.inc();
        ActiveStream(figures.active.clone())
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Retries by reason, and those that were not made.
#[derive(Clone)]
pub struct RetryFigures {
    pub timeout: CounterHandle,
    pub connection_error: CounterHandle,
    /// An answer was dropped for its status.
    pub status: CounterHandle,
    /// A pooled connection was found closed: no retry in the user's sense, none is counted off `retries`.
    pub stale: CounterHandle,
    /// `retry_budget` was spent.
    pub refused_budget: CounterHandle,
    /// `retry_timeout` or `timeout.request` would have been passed.
    pub refused_deadline: CounterHandle,
    /// The body was not kept: larger than `retry_body_limit`.
    pub refused_body: CounterHandle,
}

impl RetryFigures {
    fn register(metrics: &Registry) -> Result<RetryFigures, MetricError> {
        let options = FamilyOptions::default;
        let made = metrics.counter(
            "sluice_upstream_retries_total",
            "Attempts after the first, by what failed before",
            &["reason"],
            options(),
        )?;
        let refused = metrics.counter(
            "sluice_upstream_retries_refused_total",
            "Failures that were answered although a retry would have been right, by what forbade it",
            &["reason"],
            options(),
        )?;
        Ok(RetryFigures {
            timeout: made.with(&["timeout"]),
            connection_error: made.with(&["connection_error"]),
            status: made.with(&["status"]),
            stale: made.with(&["stale_connection"]),
            refused_budget: refused.with(&["budget"]),
            refused_deadline: refused.with(&["deadline"]),
            refused_body: refused.with(&["body"]),
        })
    }
}

impl Figures {
    /// Registers the families, or finds them where they are registered.
    pub fn register(metrics: &Registry) -> Result<Figures, MetricError> {
        let requests =
            metrics.counter("sluice_http_requests_total", "Requests since the start", &[], FamilyOptions::default())?;
        let in_flight =
            metrics.gauge("sluice_http_requests_in_flight", "Requests being served", &[], FamilyOptions::default())?;
        let retries = RetryFigures::register(metrics)?;
        let upstream = UpstreamFigures::register(metrics)?;
        Ok(Figures { requests: requests.with(&[]), in_flight: in_flight.with(&[]), retries, upstream })
    }
}
