//! Runs one action for the first case that holds: refuse the request, or apply `limit-count` or `limit-conn` to it.
//!
//! Use it for limits that depend on who asks or what for. Rules are tried in order; a rule without `case` always holds. Of a
//! rule's actions the first is run: `return` answers with its `code`; `limit-count` and `limit-conn` take the configuration of these
//! plugins, count for this rule alone, and stand in for the plugin of that name on the same route.
//!
//! Differences from APISIX: a `case` that cannot be read is refused, where APISIX takes it as one that always holds. A rule
//! whose list of actions is empty ends the search and does nothing, where APISIX answers 500.
//
// Read in apisix/plugins/workflow.lua; limit-count/init.lua and limit-conn/init.lua for `_vid`.
use crate::traffic_label::expression;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_expr::Expr;
use sluice_model::Schema;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Registry, Reply, Scope};
use smallvec::SmallVec;
use std::sync::Arc;

/// A rule.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Rule {
    /// An expression as in a route's `vars`.
    #[serde(default)]
    #[schemars(schema_with = "expression")]
    case: Option<Value>,
    /// `[["return", {"code": 403}]]`, or the name and configuration of `limit-count` or `limit-conn`. The first is run.
    #[schemars(schema_with = "actions")]
    actions: Vec<Vec<Value>>,
}

/// The plugin's configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// The first that holds counts.
    rules: Vec<Rule>,
}

fn actions(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "array", "items": {"type": "array", "minItems": 1}})
}

/// Plugins that can be actions.
const PLUGINS: [&str; 2] = ["limit-conn", "limit-count"];

enum Action {
    Return(Reply),
    Plugin(&'static str, Arc<dyn Plugin>),
}

struct Compiled {
    /// `None`: the rule always holds.
    case: Option<Expr>,
    action: Option<Action>,
}

/// The plugin.
pub struct Workflow {
    rules: Vec<Compiled>,
    reads_body: bool,
}

impl Define for Workflow {
    const INFO: Info = Info::new("workflow", 1006, Phases::ACCESS.and(Phases::LOG)).request_body().refuses();
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        let mut cases = config.rules.iter().filter_map(|rule| rule.case.as_ref());
        cases.try_for_each(|case| compile(case).map(drop))
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let rules = config.rules.iter().enumerate().map(|(number, rule)| {
            let case = rule.case.as_ref().map(compile).transpose()?;
            let action = rule.actions.first().map(|action| build(number + 1, action, env)).transpose()?;
            Ok(Compiled { case, action })
        });
        let rules = rules.collect::<Result<Vec<_>, BuildError>>()?;
        let reads_body = rules.iter().any(|rule| rule.case.as_ref().is_some_and(Expr::needs_request_body));
        Ok(Workflow { rules, reads_body })
    }
}

fn compile(case: &Value) -> Result<Expr, BuildError> {
    Expr::compile(case).map_err(|e| BuildError(format!("failed to validate the 'case' expression: {e}")))
}

fn build(number: usize, action: &[Value], env: &Env) -> Result<Action, BuildError> {
    let config = action.get(1).unwrap_or(&Value::Null);
    let name = action.first().and_then(Value::as_str).unwrap_or_default();
    if name == "return" {
        let code = config["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(403);
        return Ok(Action::Return(Reply::error_msg(code, "rejected by workflow")));
    }
    let name = PLUGINS.into_iter().find(|known| *known == name).ok_or_else(|| unsupported(name))?;
    // Each rule counts for itself.
    let env = env.for_resource(&format!("{}:{number}", env.resource_key), env.version);
    Ok(Action::Plugin(name, env.plugin(name, config).map_err(BuildError)?))
}

fn unsupported(name: &str) -> BuildError {
    BuildError(format!("unsupported action: {name}"))
}

/// Checks and completes the actions.
pub fn check_actions(config: &mut Value, registry: &Registry) -> Result<(), BuildError> {
    let rules = config.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten();
    let actions = rules.filter_map(|rule| rule.get_mut("actions")?.as_array_mut()).flatten();
    for action in actions.filter_map(Value::as_array_mut) {
        if action.len() == 1 {
            action.push(json!({}));
        }
        let [name, config, ..] = action.as_mut_slice() else { continue };
        let name = name.as_str().unwrap_or_default();
        let failed = |e: String| BuildError(format!("failed to validate the '{name}' action: {e}"));
        if name == "return" {
            return_schema()?.check(config).map_err(|e| failed(e.message))?;
            continue;
        }
        if !PLUGINS.contains(&name) || registry.get(name).is_none() {
            return Err(unsupported(name));
        }
        registry.check(name, Scope::Route, config).map_err(|e| failed(e.0))?;
        if config.get("group").is_some() {
            return Err(failed("group is not supported".into()));
        }
    }
    Ok(())
}

fn return_schema() -> Result<Schema, BuildError> {
    let schema = json!({
        "type": "object",
        "properties": {"code": {"type": "integer", "minimum": 100, "maximum": 599}},
        "required": ["code"]
    });
    Schema::new(schema).map_err(BuildError::new)
}

/// The actions that ran for this request, whose `log` is still to come.
struct Ran(SmallVec<[Arc<dyn Plugin>; 1]>);

impl Workflow {
    fn matching(&self, cx: &Context) -> Option<&Compiled> {
        self.rules.iter().find(|rule| rule.case.as_ref().is_none_or(|case| case.eval(cx)))
    }
}

impl Plugin for Workflow {
    fn wants_request_body(&self, cx: &Context) -> bool {
        let wants = |rule: &Compiled| match &rule.action {
            Some(Action::Plugin(_, plugin)) => plugin.wants_request_body(cx),
            _ => false,
        };
        self.reads_body || self.rules.iter().any(wants)
    }

    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        match self.matching(cx).and_then(|rule| rule.action.as_ref()) {
            None => Flow::Next,
            Some(Action::Return(reply)) => Flow::reply(reply.clone()),
            Some(Action::Plugin(name, plugin)) => {
                cx.skip_plugins.push(name);
                match cx.get_mut::<Ran>() {
                    Some(ran) => ran.0.push(plugin.clone()),
                    None => cx.insert(Ran(smallvec::smallvec![plugin.clone()])),
                }
                plugin.access(cx)
            }
        }
    }

    fn log(&self, cx: &mut Context) {
        for plugin in cx.take::<Ran>().into_iter().flat_map(|ran| ran.0) {
            plugin.log(cx);
        }
    }
}

#[cfg(test)]
mod tests;
