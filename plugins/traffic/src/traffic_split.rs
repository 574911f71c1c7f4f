//! Sends shares of a route's traffic to other upstreams.
//!
//! Use it for canary and blue-green releases. The first rule whose `match` holds (or that has none) chooses among its
//! `weighted_upstreams` in proportion to their weights: an upstream given here, one by `upstream_id`, or, where neither is
//! given, the route's own. Without a matching rule the route's own upstream serves.
//!
//! Differences from APISIX: an upstream given here is a whole upstream, with health checks, retries, TLS and connection
//! pool, of which APISIX uses only the nodes, balancing, host, timeouts and scheme. An `upstream_id` that does not exist
//! fails the requests that chose it, not all that reach the rule. Choices follow the weights exactly in every cycle, in an order
//! that spreads heavy upstreams more evenly.
//
// Read in apisix/plugins/traffic-split.lua and lua-resty-balancer's roundrobin.lua.
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::Value;
use sluice_expr::Expr;
use sluice_model::{Kind, schemas};
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, UpstreamRef};
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
fn id(_: &mut SchemaGenerator) -> Schema {
    Schema::try_from(schemas::id_schema()).unwrap_or_default()
}
fn upstream(_: &mut SchemaGenerator) -> Schema {
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
            (Some(id), _) => {
                Name::Id(sluice_model::id::text(id).ok_or_else(|| BuildError(format!("invalid upstream id: {id}")))?)
            }
            (None, Some(_)) => Name::Inline(index),
            (None, None) => Name::Route,
        };
        if let Some(known) = names.iter().position(|n| *n == name) {
            weights[known] = weight;
            continue;
        }
        choices.push(match (&name, &choice.upstream) {
            (Name::Id(id), _) => Some(UpstreamRef::Id(id.as_str().into())),
            (_, Some(inline)) => {
                let own = format!("traffic-split-{number}-{index}");
                Some(env.upstream(&own, inline).map_err(BuildError)?)
            }
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

impl TrafficSplit {
    fn choose(&self, cx: &Context) -> Option<&Split> {
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
        if let Some(rule) = self.choose(cx) {
            let choice = rule.turns.pick(0, &Tried::new()).and_then(|i| rule.choices.get(i as usize));
            cx.upstream.upstream = choice.cloned().flatten();
        }
        Flow::Next
    }
}

#[cfg(test)]
mod tests;
