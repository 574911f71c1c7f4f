//! What a worker counts of its own work: requests, and those under way.
use sluice_telemetry::{CounterHandle, FamilyOptions, GaugeHandle, MetricError, Registry};

/// Handles that cost about a nanosecond per update, as each worker adds to its own shard.
#[derive(Clone)]
pub struct Figures {
    /// Requests since the start.
    pub requests: CounterHandle,
    /// Requests that are being served.
    pub in_flight: GaugeHandle,
    pub retries: RetryFigures,
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
        Ok(Figures { requests: requests.with(&[]), in_flight: in_flight.with(&[]), retries })
    }
}
