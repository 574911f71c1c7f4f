//! Metrics of circuit breakers and concurrency limits; ours, so that their names begin with `sluice_` whatever the prefix is.
//! The surprise: there are none where no upstream has any.
use super::node::NodeFigures;
use sluice_plugin::{BuildError, Env};
use sluice_telemetry::metrics::Kind;
use std::sync::Arc;

/// A breaker and what it has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerFigures {
    /// The upstream, as the Control API names it: `/apisix/upstreams/1`.
    pub name: String,
    /// `ip:port`; empty for the upstream's own.
    pub node: String,
    /// `closed`, `half_open` or `open`.
    pub state: &'static str,
    pub opened: u64,
    pub half_opened: u64,
    pub closed: u64,
    pub refused: u64,
}

/// A concurrency limit and what it has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitFigures {
    pub name: String,
    pub limit: u32,
    pub in_flight: u32,
    pub waiting: u32,
    pub refused: u64,
    pub given_up: u64,
}

type Push<'a> = &'a mut dyn FnMut(&[&str], f64);

/// Registers them. Once, at start.
pub(super) fn register(env: &Env, figures: &Arc<dyn NodeFigures>) -> Result<(), BuildError> {
    type Report = fn(&dyn NodeFigures, Push<'_>);
    let metric = |name: &str, help: &str, labels: &[&str], kind: Kind, report: Report| {
        let figures = figures.clone();
        let collect = move |samples: &mut sluice_telemetry::metrics::Samples<'_>| {
            report(&*figures, &mut |labels, value| samples.push(labels, value));
        };
        env.metrics.callback(name, help, labels, kind, collect).map_err(BuildError::new)
    };
    metric(
        "sluice_circuit_breaker_state",
        "State of circuit breakers of upstreams and nodes: 0 closed, 1 half-open, 2 open",
        &["name", "node"],
        Kind::Gauge,
        |figures, push| {
            for own in figures.breakers() {
                let state = match own.state {
                    "open" => 2.0,
                    "half_open" => 1.0,
                    _ => 0.0,
                };
                push(&[&own.name, &own.node], state);
            }
        },
    )?;
    metric(
        "sluice_circuit_breaker_transitions_total",
        "Changes of circuit breakers to a state",
        &["name", "node", "to"],
        Kind::Counter,
        |figures, push| {
            for own in figures.breakers() {
                for (to, count) in [("open", own.opened), ("half_open", own.half_opened), ("closed", own.closed)] {
                    push(&[&own.name, &own.node, to], count as f64);
                }
            }
        },
    )?;
    metric(
        "sluice_circuit_breaker_refused_total",
        "Requests that a circuit breaker did not let pass; of a node attempts",
        &["name", "node"],
        Kind::Counter,
        |figures, push| figures.breakers().iter().for_each(|own| push(&[&own.name, &own.node], own.refused as f64)),
    )?;
    type Value = fn(&LimitFigures) -> f64;
    let limits: [(&str, &str, Kind, Value); 5] = [
        ("limit", "Requests that may be under way at a time", Kind::Gauge, |own| f64::from(own.limit)),
        ("in_flight", "Requests under way", Kind::Gauge, |own| f64::from(own.in_flight)),
        ("waiting", "Requests that wait for a place", Kind::Gauge, |own| f64::from(own.waiting)),
        ("refused_total", "Requests refused as the queue was full", Kind::Counter, |own| own.refused as f64),
        ("given_up_total", "Requests refused as they waited too long", Kind::Counter, |own| own.given_up as f64),
    ];
    for (name, help, kind, value) in limits {
        let figures = figures.clone();
        let collect = move |samples: &mut sluice_telemetry::metrics::Samples<'_>| {
            figures.concurrency_limits().iter().for_each(|own| samples.push(&[&own.name], value(own)));
        };
        let name = format!("sluice_concurrency_{name}");
        env.metrics.callback(&name, help, &["name"], kind, collect).map_err(BuildError::new)?;
    }
    Ok(())
}
