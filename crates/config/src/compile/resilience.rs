//! An upstream's `circuit_breaker` and `concurrency_limit`, compiled. Surprise: compiling puts a limit into force, as its count is
//! shared with the form of the upstream that is being replaced.
use super::upstream::{Parts, compile, seconds};
use sluice_expr::Template;
use sluice_model::{resilience, upstream as model};
use sluice_upstream::GrpcStatuses;
use sluice_upstream::breaker::{BreakResponse, Breaking, Fallback, Limits, Ratio, Scope as Watched, StatusSet};
use sluice_upstream::concurrency::{ConcurrencyLimit, Gradient, Kind as LimitKind, QueueSettings, Settings};
use std::sync::Arc;

/// Where a gradient begins that is not told.
const FIRST_LIMIT: u32 = 20;

/// The upstream's circuit breaker with the state of the one before.
pub(super) fn breaking(key: &str, upstream: &model::Upstream, parts: &Parts<'_>) -> Result<Option<Breaking>, String> {
    let Some(breaker) = &upstream.circuit_breaker else { return Ok(None) };
    let fallback = match &breaker.fallback {
        None => None,
        Some(resilience::Fallback::Id(id)) => Some(Fallback::Id(id.as_str().into())),
        Some(resilience::Fallback::Inline(other)) => {
            // A stored body may say more than the schema allows.
            let other = model::Upstream { circuit_breaker: None, ..other.as_ref().clone() };
            let key = format!("{key}#fallback");
            let compiled = compile(&key, &other, parts, None).map_err(|e| format!("circuit_breaker.fallback: {e}"))?;
            Some(Fallback::Inline(Arc::new(compiled)))
        }
    };
    let statuses = breaker.unhealthy.statuses();
    let limits = Limits {
        max_failures: breaker.max_failures,
        ratio: breaker.failure_ratio.map(|share| Ratio {
            share,
            window: seconds(breaker.window),
            min_requests: breaker.min_requests,
        }),
        interval: seconds(breaker.unhealthy.interval),
        growth: breaker.unhealthy.growth,
        max_interval: seconds(breaker.unhealthy.max_interval),
        successes: breaker.healthy.successes.max(1),
        half_open: breaker.half_open_requests.max(1),
        grpc: GrpcStatuses::parse(&breaker.unhealthy.grpc_statuses).unwrap_or_default(),
        statuses: statuses.map_or_else(StatusSet::server_errors, |all| StatusSet::new(all.iter().copied())),
    };
    let headers = breaker.break_response_headers.iter();
    Ok(Some(Breaking {
        scope: match breaker.scope {
            resilience::Scope::Node => Watched::Node,
            resilience::Scope::Upstream => Watched::Upstream,
        },
        limits,
        response: BreakResponse {
            code: breaker.break_response_code,
            body: breaker.break_response_body.as_deref().map(Into::into),
            headers: headers.map(|h| (h.key.as_str().into(), Template::compile(&h.value))).collect(),
        },
        fallback,
        whole: parts.states.breaker(&key.into(), None),
    }))
}

/// The upstream's concurrency limit with the count and the estimate of the one before.
pub(super) fn concurrency(key: &str, limit: &resilience::ConcurrencyLimit, parts: &Parts<'_>) -> ConcurrencyLimit {
    let kind = match limit.kind {
        resilience::LimitType::Fixed => LimitKind::Fixed(limit.limit.unwrap_or(limit.max_limit)),
        resilience::LimitType::Gradient => {
            let gradient = Gradient {
                min_limit: limit.min_limit,
                max_limit: limit.max_limit,
                tolerance: limit.tolerance,
                smoothing: limit.smoothing,
                headroom: limit.headroom,
                window: seconds(limit.window),
            };
            LimitKind::Gradient(limit.limit.unwrap_or(FIRST_LIMIT), gradient)
        }
    };
    let queue = limit.queue.map(|queue| QueueSettings { size: queue.size, timeout: seconds(queue.timeout) });
    let settings = Settings {
        kind,
        queue: queue.unwrap_or_default(),
        rejected_code: limit.rejected_code,
        retry_after: limit.retry_after,
    };
    ConcurrencyLimit::new(settings, parts.states.limiter(&key.into()))
}
