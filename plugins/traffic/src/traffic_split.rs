//! Sends shares of a route's traffic to other upstreams.
//!
//! Use it for canary and blue-green releases. The first rule whose `match` holds (or that has none) chooses among its
//! `weighted_upstreams` in proportion to their weights: an upstream given here, one by `upstream_id`, or, where neither is
//! given, the route's own. Without a matching rule the route's own upstream serves.
//!
//! Differences from APISIX: an upstream given here is a whole upstream, with health checks, retries, TLS and connection
//! pool, of which APISIX uses only the nodes, balancing, host, timeouts and scheme. An `upstream_id` that does not exist
//! fails the requests that chose it, not all that reach the rule. Choices follow the weights exactly in every cycle, in an order
//! that spreads heavy upstreams more evenly. With `pass_host: node` a node's `Host` has no port, as in APISIX, but only where
//! the nodes of the upstream share one name and the scheme is not `https`; with several names each keeps its port.
//!
//! On stream routes it splits connections in the same way, before the upstream is chosen (apisix/stream/plugins/traffic-split.lua).
//
// Read in apisix/plugins/traffic-split.lua and lua-resty-balancer's roundrobin.lua.
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::Value;
use sluice_expr::{Expr, Lookup};
use sluice_model::{Kind, schemas};
use sluice_plugin::{
    BuildError, Context, Define, DefineStream, Env, Flow, Info, Phases, Plugin, StreamContext, StreamFlow,
    StreamPlugin, UpstreamRef,
};
use sluice_upstream::roundrobin::RoundRobin;
use sluice_upstream::{Endpoint, Tried};

/// Conditions, all of which must hold.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Match {
    /// `[["arg_name", "==", "value"], …]` as in a route's `vars`.
    #[schemars(schema_with = "list")]
    #[serde(default)]
    vars: Value,
}

/// One choice.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct WeightedUpstream {
    /// A stored upstream.
    #[serde(default)]
    #[schemars(schema_with = "id")]
    upstream_id: Option<Value>,
    /// An upstream of this plugin's own.
    #[serde(default)]
    #[schemars(schema_with = "upstream")]
    upstream: Option<Value>,
    /// Its share. Without an upstream the share goes to the route's own.
    #[serde(default = "one")]
    #[schemars(extend("minimum" = 0))]
    weight: i64,
}

/// What is split, and how.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Rule {
    /// The rule holds where one of these does, or where there are none.
    #[serde(rename = "match")]
    matches: Option<Vec<Match>>,
    /// The choices.
    #[serde(default = "route_only")]
    #[schemars(length(min = 1, max = 20), extend("default" = [{"weight": 1}]))]
    weighted_upstreams: Vec<WeightedUpstream>,
}

/// The plugin's configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// The first that holds counts.
    rules: Option<Vec<Rule>>,
}

fn one() -> i64 {
    1
}
fn route_only() -> Vec<WeightedUpstream> {
    vec![WeightedUpstream { upstream_id: None, upstream: None, weight: 1 }]
}
fn list(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({"type": "array"})
}
pub(crate) fn id(_: &mut SchemaGenerator) -> Schema {
    Schema::try_from(schemas::id_schema()).unwrap_or_default()
}
pub(crate) fn upstream(_: &mut SchemaGenerator) -> Schema {
    Schema::try_from(schemas::document(Kind::Upstream).clone()).unwrap_or_default()
}

struct Split {
    /// `None`: the rule always holds.
    matches: Option<Vec<Expr>>,
    /// `None`: the route's own upstream.
    choices: Vec<Option<UpstreamRef>>,
    turns: RoundRobin,
}

/// The plugin.
pub struct TrafficSplit {
    rules: Vec<Split>,
    reads_body: bool,
}

fn compile(vars: &Value) -> Result<Expr, BuildError> {
    Expr::compile(vars).map_err(|e| BuildError(format!("failed to validate the 'vars' expression: {e}")))
}

impl Define for TrafficSplit {
    const INFO: Info = Info::new("traffic-split", 966, Phases::ACCESS).request_body();
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        let mut matches = config.rules.iter().flatten().flat_map(|rule| rule.matches.iter().flatten());
        matches.try_for_each(|m| compile(&m.vars).map(drop))
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        TrafficSplit::compile(config, env)
    }
}

impl DefineStream for TrafficSplit {
    const NAME: &'static str = "traffic-split";
    const PRIORITY: i32 = 966;
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        <TrafficSplit as Define>::check(config)
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        TrafficSplit::compile(config, env)
    }
}

impl TrafficSplit {
    fn compile(config: Config, env: &Env) -> Result<Self, BuildError> {
        let rules = config.rules.into_iter().flatten().enumerate();
        let rules: Vec<Split> = rules.map(|(number, rule)| split(number, rule, env)).collect::<Result<_, _>>()?;
        let mut conditions = rules.iter().flat_map(|rule| rule.matches.iter().flatten());
        Ok(TrafficSplit { reads_body: conditions.any(Expr::needs_request_body), rules })
    }
}

/// A choice as APISIX tells them apart: of those that name the same upstream, or none, the last one's weight counts.
#[derive(PartialEq)]
enum Name {
    Id(String),
    Inline(usize),
    Route,
}

fn split(number: usize, rule: Rule, env: &Env) -> Result<Split, BuildError> {
    let matches =
        rule.matches.map(|all| all.iter().map(|m| compile(&m.vars)).collect::<Result<Vec<_>, _>>()).transpose()?;
    let mut names: Vec<Name> = Vec::new();
    let mut choices = Vec::new();
    let mut weights = Vec::new();
    for (index, choice) in rule.weighted_upstreams.iter().enumerate() {
        let weight = u32::try_from(choice.weight).unwrap_or(u32::MAX);
        let name = match (&choice.upstream_id, &choice.upstream) {
            (Some(id), _) => Name::Id(id_text(id)?),
            (None, Some(_)) => Name::Inline(index),
            (None, None) => Name::Route,
        };
        if let Some(known) = names.iter().position(|n| *n == name) {
            weights[known] = weight;
            continue;
        }
        choices.push(match (&name, &choice.upstream) {
            (Name::Id(id), _) => Some(UpstreamRef::Id(id.as_str().into())),
            (_, Some(inline)) => Some(inline_upstream(&format!("traffic-split-{number}-{index}"), inline, env)?),
            (_, None) => None,
        });
        names.push(name);
        weights.push(weight);
    }
    // Only the weights matter to the round robin; the addresses are never used.
    let endpoints: Vec<Endpoint> = weights.iter().map(|weight| Endpoint::new("choice", 0, *weight)).collect();
    let members: Vec<u32> = (0..endpoints.len() as u32).collect();
    Ok(Split { matches, choices, turns: RoundRobin::build(&endpoints, &members, 1, 0) })
}

pub(crate) fn id_text(id: &Value) -> Result<String, BuildError> {
    sluice_model::id::text(id).ok_or_else(|| BuildError(format!("invalid upstream id: {id}")))
}

/// Compiles an upstream of the plugin's own. `name` tells it from others of the same object.
pub(crate) fn inline_upstream(name: &str, upstream: &Value, env: &Env) -> Result<UpstreamRef, BuildError> {
    match without_port(upstream) {
        Some(upstream) => env.upstream(name, &upstream),
        None => env.upstream(name, upstream),
    }
    .map_err(BuildError)
}

/// With `pass_host: node` the `Host` of these upstreams is the node's without its port, whatever port that is
/// (apisix/balancer.lua `parse_server_for_upstream_host`, where the plugin has left the scheme unset unless it is https).
fn without_port(upstream: &Value) -> Option<Value> {
    if upstream["pass_host"] != "node" || upstream["scheme"] == "https" {
        return None;
    }
    let hosts: Vec<&str> = match &upstream["nodes"] {
        Value::Object(nodes) => nodes.keys().map(|address| host_of(address)).collect(),
        Value::Array(nodes) => nodes.iter().filter_map(|node| node["host"].as_str()).collect(),
        _ => return None,
    };
    let (first, rest) = hosts.split_first()?;
    if rest.iter().any(|host| host != first) {
        return None;
    }
    let mut upstream = upstream.clone();
    upstream["upstream_host"] = Value::from(*first);
    upstream["pass_host"] = Value::from("rewrite");
    Some(upstream)
}

/// The host of `host`, `host:port` or `[address]:port`.
fn host_of(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => address,
    }
}

impl TrafficSplit {
    /// The choice for this request or connection; `None` is the route's own upstream.
    fn pick(&self, lookup: &dyn Lookup) -> Option<Option<UpstreamRef>> {
        let rule = self.choose(lookup)?;
        let choice = rule.turns.pick(0, &Tried::new()).and_then(|i| rule.choices.get(i as usize));
        Some(choice.cloned().flatten())
    }

    fn choose(&self, cx: &dyn Lookup) -> Option<&Split> {
        let mut holds = true;
        for rule in &self.rules {
            let Some(conditions) = &rule.matches else { return Some(rule) };
            // An empty list keeps the verdict of the rule before it, as in APISIX.
            for condition in conditions {
                holds = condition.eval(cx);
                if holds {
                    break;
                }
            }
            if holds {
                return Some(rule);
            }
        }
        None
    }
}

impl Plugin for TrafficSplit {
    fn wants_request_body(&self, _: &Context) -> bool {
        self.reads_body
    }

    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if let Some(choice) = self.pick(cx) {
            cx.upstream.upstream = choice;
        }
        Flow::Next
    }
}

impl StreamPlugin for TrafficSplit {
    fn preread(&self, cx: &mut StreamContext) -> StreamFlow {
        if let Some(choice) = self.pick(cx) {
            cx.upstream = choice;
        }
        StreamFlow::Next
    }
}

#[cfg(test)]
mod tests;
