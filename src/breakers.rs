//! Circuit breakers and concurrency limits of the process, as the Control API and metrics tell them. The surprise: an upstream
//! that breaks node by node has a breaker of its own, too; it counts the requests that found no node and nothing else.
use serde_json::{Value, json};
use sluice_net::timer::unix_ms_coarse;
use sluice_plugins_observe::prometheus::{BreakerFigures, LimitFigures};
use sluice_upstream::NodeStates;
use sluice_upstream::registry::NamedBreaker;

/// As the Control API names an upstream.
fn name(key: &str) -> String {
    format!("/apisix/{key}")
}

fn with(mut value: Value, fields: Value) -> Value {
    if let (Value::Object(own), Value::Object(more)) = (&mut value, fields) {
        own.extend(more);
    }
    value
}

/// For the Control API: one object per upstream.
pub fn reports(states: &NodeStates) -> Vec<Value> {
    let all = states.breakers(unix_ms_coarse());
    // Sorted: the upstream's own stands before its nodes'.
    let groups = all.chunk_by(|a, b| a.upstream == b.upstream);
    groups.filter_map(|group| group.split_first()).map(|(whole, nodes)| report(whole, nodes)).collect()
}

fn report(whole: &NamedBreaker, nodes: &[NamedBreaker]) -> Value {
    let name = name(&whole.upstream);
    if nodes.is_empty() {
        let report = serde_json::to_value(&whole.report).unwrap_or_default();
        return with(json!({"name": name, "scope": "upstream"}), report);
    }
    let nodes: Vec<Value> = nodes
        .iter()
        .filter_map(|own| {
            let (ip, port) = own.node.as_ref()?;
            let report = serde_json::to_value(&own.report).unwrap_or_default();
            Some(with(json!({"ip": &**ip, "port": port}), report))
        })
        .collect();
    json!({"name": name, "scope": "node", "refused": whole.report.total.refused, "nodes": nodes})
}

/// For the Control API: one object per upstream.
pub fn limits(states: &NodeStates) -> Vec<Value> {
    let limits = states.concurrency_limits().into_iter();
    let value = |report| serde_json::to_value(report).unwrap_or_default();
    limits.map(|(key, report)| with(json!({"name": name(&key)}), value(report))).collect()
}

/// For metrics.
pub fn figures(states: &NodeStates) -> Vec<BreakerFigures> {
    let figures = |own: NamedBreaker| BreakerFigures {
        name: name(&own.upstream),
        node: own.node.map_or_else(String::new, |(ip, port)| {
            if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
        }),
        state: own.report.state,
        opened: own.report.total.opened,
        half_opened: own.report.total.half_opened,
        closed: own.report.total.closed,
        refused: own.report.total.refused,
    };
    states.breakers(unix_ms_coarse()).into_iter().map(figures).collect()
}

/// For metrics.
pub fn limit_figures(states: &NodeStates) -> Vec<LimitFigures> {
    let limits = states.concurrency_limits().into_iter().map(|(key, report)| LimitFigures {
        name: name(&key),
        limit: report.limit,
        in_flight: report.in_flight,
        waiting: report.waiting,
        refused: report.refused,
        given_up: report.given_up,
    });
    limits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn an_upstream_is_shown_with_its_nodes() {
        let states = NodeStates::new();
        let (key, other, ip): (Arc<str>, Arc<str>, Arc<str>) = ("routes/1".into(), "upstreams/1".into(), "::1".into());
        let _whole = states.breaker(&key, None);
        let _node = states.breaker(&key, Some((&ip, 80)));
        let _other = states.breaker(&other, None);
        let _limiter = states.limiter(&other);
        let shown = reports(&states);
        assert_eq!((&shown[0]["name"], &shown[0]["scope"]), (&json!("/apisix/routes/1"), &json!("node")));
        assert_eq!(shown[0]["nodes"][0]["ip"], "::1");
        assert_eq!(shown[0]["nodes"][0]["state"], "closed");
        assert_eq!((&shown[1]["scope"], &shown[1]["total"]["refused"]), (&json!("upstream"), &json!(0)));
        assert_eq!(limits(&states)[0]["name"], "/apisix/upstreams/1");
        let nodes: Vec<String> = figures(&states).into_iter().map(|own| own.node).collect();
        assert_eq!(nodes, ["", "[::1]:80", ""]);
        assert_eq!(limit_figures(&states).len(), 1);
    }
}
