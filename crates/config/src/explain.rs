//! What would become of a request, without sending it: for the command line and the Admin API. The surprise: requests are
//! looked at in one go, as a context belongs to one thread.
mod resilience;
mod stream;
mod tls;

use crate::{CompiledRoute, RouteUpstream, Snapshot};
use serde_json::{Value, json};
use sluice_plugin::{ChainEntry, Connection, Context, TlsInfo};
use sluice_router::{Outcome, Request};
use sluice_upstream::RetryPolicy;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, SystemTime};
pub use stream::{StreamQuestion, explain_stream};

/// A request to explain.
#[derive(Clone, Debug)]
pub struct Question {
    pub method: String,
    /// `http://host/path?query`; only a path takes the host `localhost`.
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
    /// The address that the connection comes from; `real_ip_header` of a trusted one stands before it.
    pub client: IpAddr,
}

impl Question {
    /// Without headers and body, from this machine.
    pub fn new(method: &str, url: &str) -> Question {
        Question {
            method: method.to_owned(),
            url: url.to_owned(),
            headers: Vec::new(),
            body: None,
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    fn context(&self, snapshot: &Snapshot) -> Result<Context, String> {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 9080));
        let tls = self.url.starts_with("https://").then(|| TlsInfo {
            protocol: "TLSv1.3",
            client_verify: "NONE".into(),
            ..TlsInfo::default()
        });
        let connection = Rc::new(Connection::new(SocketAddr::new(self.client, 0), local, tls));
        let mut cx = Context::new(connection, snapshot.consumers.clone());
        let rest = self.url.strip_prefix("http://").or(self.url.strip_prefix("https://"));
        let (host, target) = match rest {
            Some(rest) => rest.find('/').map_or((rest, "/"), |at| rest.split_at(at)),
            None => ("localhost", self.url.as_str()),
        };
        if !target.starts_with('/') {
            return Err(format!("the URL must be http://host/path or /path, not {:?}", self.url));
        }
        let is_host = |name: &str| name.eq_ignore_ascii_case("host");
        let named = self.headers.iter().find(|(name, _)| is_host(name)).map(|(_, value)| value.as_str());
        let others: Vec<(&str, &str)> =
            self.headers.iter().filter(|(name, _)| !is_host(name)).map(|(n, v)| (n.as_str(), v.as_str())).collect();
        cx.request.assemble(&self.method, target, named.unwrap_or(host), &others);
        cx.request_body = self.body.clone();
        cx.parsed_bodies = snapshot.rules.parsed_bodies;
        Ok(cx)
    }
}

/// Everything that matching decides about a request.
pub fn explain(snapshot: &Snapshot, question: &Question) -> Result<Value, String> {
    let mut cx = question.context(snapshot)?;
    snapshot.rules.find_client(&mut cx);
    let refused = snapshot.rules.shape_path(&mut cx).err();
    let cx = &cx;
    let about = json!({
        "method": cx.request.method_text(),
        "host": cx.request.host(),
        "path": cx.request.path(),
        "args": cx.request.query(),
        "client": cx.client_ip().to_string(),
    });
    let global: Vec<Value> = snapshot.global.entries().iter().map(|entry| explained(entry, cx)).collect();
    let tls =
        cx.connection.tls.as_ref().map(|_| tls::describe(snapshot, cx.request.host(), Some(cx.request.path_bytes())));
    if let Some(reason) = refused {
        let refused = format!("400: {reason}");
        return Ok(json!({
            "request": about, "tls": tls, "refused": refused, "candidates": [], "route": null, "global_plugins": global,
        }));
    }
    let to_match = snapshot.rules.path_to_match(cx);
    let request = Request {
        path: to_match.as_deref().unwrap_or(cx.request.path()),
        host: cx.request.host(),
        method: cx.request.method_text(),
        remote_addr: cx.client_ip(),
    };
    let candidates: Vec<Value> = snapshot
        .router
        .explain(&request, cx)
        .into_iter()
        .map(|c| match c.outcome {
            Outcome::Won => json!({"route": &*c.id, "uri": &*c.uri, "won": true}),
            Outcome::Lost { reason } => json!({"route": &*c.id, "uri": &*c.uri, "won": false, "reason": reason}),
        })
        .collect();
    let found = snapshot.router.find(&request, cx);
    let route = found.as_ref().map(|found| {
        let params: serde_json::Map<String, Value> =
            found.params.iter().map(|(n, v)| (n.to_string(), json!(&**v))).collect();
        describe(found.handle, found.uri, found.host, params, cx)
    });
    Ok(json!({
        "request": about,
        "tls": tls,
        "candidates": candidates,
        "route": route,
        "global_plugins": global,
    }))
}

fn describe(
    route: &CompiledRoute,
    uri: &str,
    host: Option<&str>,
    params: serde_json::Map<String, Value>,
    cx: &Context,
) -> Value {
    json!({
        "id": &*route.info.route_id,
        "name": route.info.route_name.as_deref(),
        "service": route.info.service_id.as_deref(),
        "matched_uri": uri,
        "matched_host": host,
        "params": params,
        "problem": route.trouble.map(|t| format!("{t:?}")),
        "plugins": route.chain.entries().iter().map(|entry| explained(entry, cx)).collect::<Vec<_>>(),
        "upstream": upstream(&route.upstream),
    })
}

fn upstream(upstream: &RouteUpstream) -> Value {
    match upstream {
        RouteUpstream::None => json!({"error": "neither the route nor its service has an upstream: 503"}),
        RouteUpstream::Missing => json!({"error": "upstream_id names no upstream: 502"}),
        RouteUpstream::Found(upstream) => {
            let balancer = upstream.nodes.balancer();
            let nodes: Vec<Value> = upstream
                .nodes
                .configs()
                .iter()
                .map(|n| json!({"host": &*n.host, "port": n.port, "weight": n.weight, "priority": n.priority}))
                .collect();
            let mut about = json!({
                "from": &*upstream.key,
                "scheme": upstream.scheme.as_str(),
                "type": format!("{:?}", balancer.settings().algorithm).to_ascii_lowercase(),
                "nodes": nodes,
                "retry": retry(&upstream.retry, balancer.nodes().len()),
            });
            if let Some(service) = upstream.nodes.service() {
                about["discovery"] = json!({"type": &*service.registry, "service_name": &*service.name});
            }
            resilience::describe(upstream, &balancer, &mut about);
            about
        }
    }
}

/// The retry policy, with what it comes to for so many nodes.
fn retry(policy: &RetryPolicy, nodes: usize) -> Value {
    let (counts, seconds) = (policy.budget.as_ref().map(|b| b.window.counts(unix_ms())), |d: Duration| d.as_secs_f64());
    json!({
        "retries": policy.limit(u32::try_from(nodes).unwrap_or(u32::MAX)),
        "retry_timeout": (!policy.retry_timeout.is_zero()).then(|| seconds(policy.retry_timeout)),
        "retry_on": policy.on.words(),
        "retry_backoff": policy.backoff.map(|b| json!({"base_interval": seconds(b.base), "max_interval": seconds(b.max)})),
        "retry_budget": policy.budget.as_ref().zip(counts).map(|(budget, (requests, retries))| json!({
            "percent": f64::from(budget.per_mille) / 10.0,
            "min_retries_per_second": budget.min_per_second,
            "last_10_seconds": {"requests": requests, "retries": retries},
        })),
        "retry_body_limit": policy.body_limit,
    })
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// A plugin of a chain: its configuration, secrets masked, and where that came from.
pub fn plugin(entry: &ChainEntry) -> Value {
    json!({"name": entry.info.name, "priority": entry.priority, "from": entry.source, "config": masked(entry)})
}

/// As `plugin`, with what it would look at for the request.
fn explained(entry: &ChainEntry, cx: &Context) -> Value {
    let mut about = plugin(entry);
    if let Some(looks) = entry.plugin.explain(cx) {
        about["looks_at"] = looks;
    }
    about
}

/// Hides what a dotted path leads to; lists on the way are entered at each item.
fn mask(value: &mut Value, path: &str) {
    if let Value::Array(items) = value {
        return items.iter_mut().for_each(|item| mask(item, path));
    }
    match path.split_once('.') {
        Some((first, rest)) => value.get_mut(first).into_iter().for_each(|inner| mask(inner, rest)),
        None => value.get_mut(path).into_iter().for_each(|secret| *secret = "***".into()),
    }
}

/// The configuration without its secrets.
fn masked(entry: &ChainEntry) -> Value {
    let mut config = entry.config.as_ref().clone();
    entry.info.secrets.iter().for_each(|path| mask(&mut config, path));
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_lists_are_hidden() {
        let mut config =
            json!({"brokers": [{"host": "a", "sasl_config": {"password": "p"}}, {"host": "b"}], "auth": {"x": 1}});
        mask(&mut config, "brokers.sasl_config.password");
        mask(&mut config, "auth");
        mask(&mut config, "none.such");
        let hidden =
            json!({"brokers": [{"host": "a", "sasl_config": {"password": "***"}}, {"host": "b"}], "auth": "***"});
        assert_eq!(config, hidden);
    }
}
