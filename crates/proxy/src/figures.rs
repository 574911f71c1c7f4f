//! What a worker counts of its own work: requests, and those under way.
use sluice_telemetry::{CounterHandle, FamilyOptions, GaugeHandle, MetricError, Registry};

/// Handles that cost about a nanosecond per update, as each worker adds to its own shard.
#[derive(Clone)]
pub struct Figures {
    /// Requests since the start.
    pub requests: CounterHandle,
    /// Requests that are being served.
    pub in_flight: GaugeHandle,
}

impl Figures {
    /// Registers the families, or finds them where they are registered.
    pub fn register(metrics: &Registry) -> Result<Figures, MetricError> {
        let requests =
            metrics.counter("sluice_http_requests_total", "Requests since the start", &[], FamilyOptions::default())?;
        let in_flight =
            metrics.gauge("sluice_http_requests_in_flight", "Requests being served", &[], FamilyOptions::default())?;
        Ok(Figures { requests: requests.with(&[]), in_flight: in_flight.with(&[]) })
    }
}
