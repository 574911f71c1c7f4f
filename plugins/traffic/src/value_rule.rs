//! What `header-match` and `query-arg` have in common: rules on one named value of a request, each with an upstream.
//!
//! The surprise: a rule without values and expression asks only that the name be there, with whatever value.
use crate::traffic_split::{id, id_text, inline_upstream, upstream};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_expr::Regex;
use sluice_plugin::{BuildError, Env, UpstreamRef, schema_of};

/// One rule.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Rule {
    /// Name of the header or argument.
    #[schemars(length(min = 1, max = 256))]
    name: String,
    /// It has one of these values.
    #[schemars(length(min = 1, max = 256))]
    values: Option<Vec<String>>,
    /// It matches this regular expression (PCRE), anywhere unless anchored.
    #[schemars(length(min = 1))]
    regex: Option<String>,
    /// The rule holds where the rest of it does not.
    #[serde(default)]
    negate: bool,
    /// The stored upstream that gets the request.
    #[serde(default)]
    #[schemars(schema_with = "id")]
    upstream_id: Option<Value>,
    /// The upstream that gets the request.
    #[serde(default)]
    #[schemars(schema_with = "upstream")]
    upstream: Option<Value>,
}

/// The configuration of either plugin.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// The first that holds counts.
    #[schemars(length(min = 1, max = 128))]
    rules: Vec<Rule>,
}

/// Exactly one upstream, and at most one way to compare.
pub fn schema() -> Value {
    let mut schema = schema_of::<Config>();
    if let Some(rule) = schema.pointer_mut("/properties/rules/items").and_then(Value::as_object_mut) {
        rule.insert("oneOf".into(), json!([{"required": ["upstream_id"]}, {"required": ["upstream"]}]));
        rule.insert("not".into(), json!({"required": ["values", "regex"]}));
    }
    schema
}

pub fn check(config: &Config) -> Result<(), BuildError> {
    config.rules.iter().try_for_each(|rule| test(rule).map(drop))
}

fn test(rule: &Rule) -> Result<Test, BuildError> {
    match (&rule.values, &rule.regex) {
        (Some(values), _) => Ok(Test::OneOf(values.iter().map(|v| v.as_bytes().into()).collect())),
        (None, Some(pattern)) => match Regex::new(pattern, "") {
            Ok(regex) => Ok(Test::Matches(regex)),
            Err(e) => Err(BuildError(format!("invalid regex {pattern}: {e}"))),
        },
        (None, None) => Ok(Test::Present),
    }
}

enum Test {
    Present,
    OneOf(Box<[Box<[u8]>]>),
    Matches(Regex),
}

impl Test {
    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Test::Present => true,
            Test::OneOf(values) => values.iter().any(|v| v.as_ref() == value),
            Test::Matches(regex) => regex.is_match(value),
        }
    }
}

struct Compiled {
    name: Box<str>,
    test: Test,
    negate: bool,
    choice: UpstreamRef,
}

/// Compiled rules.
pub struct Rules(Box<[Compiled]>);

impl Rules {
    /// `plugin` goes into the names of the rules' own upstreams.
    pub fn compile(plugin: &str, config: Config, env: &Env) -> Result<Rules, BuildError> {
        let compiled = |(number, rule): (usize, Rule)| {
            let choice = match (&rule.upstream_id, &rule.upstream) {
                (Some(id), _) => UpstreamRef::Id(id_text(id)?.into()),
                (None, inline) => {
                    let inline = inline.as_ref().ok_or_else(|| BuildError::new("a rule has no upstream"))?;
                    inline_upstream(&format!("{plugin}-{number}"), inline, env)?
                }
            };
            Ok(Compiled { test: test(&rule)?, name: rule.name.into(), negate: rule.negate, choice })
        };
        Ok(Rules(config.rules.into_iter().enumerate().map(compiled).collect::<Result<_, BuildError>>()?))
    }

    /// The upstream of the first rule that holds. `any` says whether some value of a name passes a test.
    pub fn choose(&self, mut any: impl FnMut(&str, &dyn Fn(&[u8]) -> bool) -> bool) -> Option<&UpstreamRef> {
        let holds = |rule: &&Compiled| any(&rule.name, &|value| rule.test.holds(value)) != rule.negate;
        self.0.iter().find(holds).map(|rule| &rule.choice)
    }
}
