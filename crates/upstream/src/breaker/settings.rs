//! What a breaker is configured with, compiled, and the breakers of one upstream together.
use super::machine::{Breaker, Permit, Refusal, Transition};
use super::window::Tally;
use crate::Upstream;
use crate::endpoint::Endpoint;
use crate::grpc_status::GrpcStatuses;
use sluice_expr::Template;
use std::sync::Arc;
use std::time::Duration;

/// A share of failures that opens a breaker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// 0 to 1.
    pub share: f64,
    pub window: Duration,
    /// Requests within the window below which the share says nothing.
    pub min_requests: u32,
}

impl Ratio {
    pub(super) fn is_reached(&self, tally: Tally) -> bool {
        tally.requests >= u64::from(self.min_requests) && tally.ratio() >= self.share
    }
}

/// Thresholds and times.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Failures in a row that open it.
    pub max_failures: Option<u32>,
    pub ratio: Option<Ratio>,
    /// The first cool-down.
    pub interval: Duration,
    /// By which each further opening in a row lengthens it; at least 1.
    pub growth: f64,
    pub max_interval: Duration,
    /// Probes in a row that must go well.
    pub successes: u32,
    /// Probes at a time, over all workers.
    pub half_open: u32,
    /// Answers that are failures.
    pub statuses: StatusSet,
    /// Calls of gRPC that are failures, by how they ended; only that which comes with the head, or right behind it, is looked at.
    pub grpc: GrpcStatuses,
}

impl Limits {
    /// How long it stays open after so many openings before this one.
    pub fn cool_down(&self, openings: u32) -> Duration {
        let exponent = i32::try_from(openings).unwrap_or(i32::MAX);
        let seconds = self.interval.as_secs_f64() * self.growth.max(1.0).powi(exponent);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).min(self.max_interval.max(self.interval))
    }
}

/// Statuses 0 to 599, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusSet([u64; 10]);

impl StatusSet {
    pub fn new(statuses: impl IntoIterator<Item = u16>) -> StatusSet {
        let mut bits = [0; 10];
        for status in statuses {
            if let Some(word) = bits.get_mut(usize::from(status / 64)) {
                *word |= 1 << (status % 64);
            }
        }
        StatusSet(bits)
    }

    /// 500 to 599.
    pub fn server_errors() -> StatusSet {
        StatusSet::new(500..600)
    }

    #[inline]
    pub fn contains(&self, status: u16) -> bool {
        self.0.get(usize::from(status / 64)).is_some_and(|word| word >> (status % 64) & 1 == 1)
    }
}

/// The gateway's answer while a breaker lets nothing pass.
#[derive(Clone, Debug)]
pub struct BreakResponse {
    pub code: u16,
    /// Without one it is the status' page.
    pub body: Option<Arc<str>>,
    /// Values may hold variables.
    pub headers: Vec<(Arc<str>, Template)>,
}

/// Who serves instead.
#[derive(Clone, Debug)]
pub enum Fallback {
    /// A stored upstream, by its id.
    Id(Arc<str>),
    Inline(Arc<Upstream>),
}

/// What has a breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Each node has its own.
    Node,
    /// All nodes share one.
    #[default]
    Upstream,
}

impl Scope {
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Node => "node",
            Scope::Upstream => "upstream",
        }
    }
}

/// The circuit breaking of one upstream. With scope `node` the nodes' breakers are in their [`Endpoint`]s.
#[derive(Debug)]
pub struct Breaking {
    pub scope: Scope,
    pub limits: Limits,
    pub response: BreakResponse,
    pub fallback: Option<Fallback>,
    /// The upstream's own; with scope `node` it counts the requests that found no node.
    pub whole: Arc<Breaker>,
}

impl Breaking {
    /// Lets an attempt on this node pass, or not. `Ok(None)`: the node is not watched.
    #[inline]
    pub fn admit(&self, endpoint: &Endpoint, now_ms: u64) -> Result<Option<Permit>, Refusal> {
        match (self.scope, &endpoint.breaker) {
            (Scope::Upstream, _) => self.whole.admit(&self.limits, now_ms).map(Some),
            (Scope::Node, Some(breaker)) => breaker.admit(&self.limits, now_ms).map(Some),
            (Scope::Node, None) => Ok(None),
        }
    }

    /// The node answered with this status, and `grpc` where a call ended with that.
    #[inline]
    pub fn answered(&self, permit: Permit, status: u16, grpc: Option<u8>, now_ms: u64) -> Option<Transition> {
        if self.limits.statuses.contains(status) || grpc.is_some_and(|status| self.limits.grpc.contains(status)) {
            permit.fail(&self.limits, now_ms)
        } else {
            permit.succeed(&self.limits, now_ms)
        }
    }
}
