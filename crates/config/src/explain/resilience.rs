//! What `explain` says of an upstream's circuit breaker and concurrency limit. Surprise: on the command line every breaker is
//! closed and nothing is under way; the Admin API of a running gateway tells how things stand.
use serde_json::{Value, json};
use sluice_net::timer::unix_ms_coarse;
use sluice_upstream::breaker::{BreakerReport, Fallback, Scope};
use sluice_upstream::concurrency::ConcurrencyReport;
use sluice_upstream::{Balancer, Upstream};

/// Adds `circuit_breaker` and `concurrency_limit` where the upstream has them.
pub(super) fn describe(upstream: &Upstream, balancer: &Balancer, described: &mut Value) {
    let now_ms = unix_ms_coarse();
    if let Some(breaking) = &upstream.breaking {
        let nodes = balancer.nodes().iter().filter_map(|node| {
            let breaker = node.breaker.as_ref()?;
            Some(json!({
                "node": node.name(),
                "state": BreakerReport::of(breaker, now_ms).state,
                "lets_pass": breaker.would_admit(&breaking.limits, now_ms),
            }))
        });
        let nodes: Vec<Value> = nodes.collect();
        let mut own = json!({"scope": breaking.scope.as_str(), "break_response_code": breaking.response.code});
        match breaking.scope {
            Scope::Node => own["nodes"] = nodes.into(),
            Scope::Upstream => {
                own["state"] = BreakerReport::of(&breaking.whole, now_ms).state.into();
                own["lets_pass"] = breaking.whole.would_admit(&breaking.limits, now_ms).into();
            }
        }
        match &breaking.fallback {
            None => {}
            Some(Fallback::Id(id)) => own["fallback"] = format!("upstreams/{id}").into(),
            Some(Fallback::Inline(other)) => own["fallback"] = (*other.key).into(),
        }
        described["circuit_breaker"] = own;
    }
    if let Some(concurrency) = &upstream.concurrency {
        let report = ConcurrencyReport::of(&concurrency.limiter);
        described["concurrency_limit"] =
            json!({"limit": report.limit, "in_flight": report.in_flight, "waiting": report.waiting});
    }
}
