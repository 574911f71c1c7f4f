//! `acl` admits requests by labels: the consumer's, or what an identity provider says of the user.
//!
//! Use it behind an auth plugin, to open a route to some teams only. A label's value may be one text, a list split by
//! commas, or a JSON array. Denied labels win. Differences from APISIX: a separator that is no pattern is refused when it
//! is written (APISIX then ignores all labels), and JSONPath filters are not supported. Read in apisix/plugins/acl.lua.
use crate::json_path::JsonPath;
use crate::pattern;
use foldhash::HashSet;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluice_expr::Regex;
use sluice_plugin::{BuildError, Context, Define, Env, ExternalUser, Flow, Info, Phases, Plugin, Reply};
use std::borrow::Cow;
use std::collections::BTreeMap;

#[derive(Deserialize, JsonSchema)]
#[schemars(extend(
    "allOf" = [{
        "if": {
            "required": ["external_user_label_field_parser"],
            "properties": {"external_user_label_field_parser": {"const": "segmented_text"}}
        },
        "then": {"required": ["external_user_label_field_separator"]}
    }],
    "anyOf" = [{"required": ["allow_labels"]}, {"required": ["deny_labels"]}]
))]
pub struct Config {
    /// JSONPath, or the name, of the label in the description of an external user.
    #[serde(default = "default_field")]
    #[schemars(length(min = 1))]
    external_user_label_field: String,
    /// Name of that label in `allow_labels` and `deny_labels`, where it is not the path itself.
    #[schemars(length(min = 1))]
    external_user_label_field_key: Option<String>,
    /// How the label's value is read; without it, by what it looks like.
    #[serde(default)]
    #[schemars(schema_with = "parsers")]
    external_user_label_field_parser: Option<Parser>,
    /// The separator (a pattern) of the segmented_text parser.
    #[schemars(length(min = 1))]
    external_user_label_field_separator: Option<String>,
    /// Only these values of these labels may pass; one is enough.
    #[serde(default)]
    #[schemars(schema_with = "values_by_label")]
    allow_labels: Option<BTreeMap<String, Vec<String>>>,
    /// None of these values of these labels may pass.
    #[serde(default)]
    #[schemars(schema_with = "values_by_label")]
    deny_labels: Option<BTreeMap<String, Vec<String>>>,
    /// Status of the refusal.
    #[serde(default = "default_code")]
    #[schemars(range(min = 200))]
    rejected_code: i64,
    /// What a refused client reads.
    rejected_msg: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Parser {
    SegmentedText,
    Json,
    Table,
}

fn default_field() -> String {
    "groups".into()
}
fn default_code() -> i64 {
    403
}
fn parsers(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "enum": ["segmented_text", "json", "table"]})
}
fn values_by_label(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "minProperties": 1,
        "patternProperties": {".*": {"type": "array", "minItems": 1, "items": {"type": "string"}}}
    })
}

/// Label → values.
type Labels = Vec<(String, HashSet<String>)>;

pub struct Acl {
    allow: Option<Labels>,
    deny: Option<Labels>,
    field: JsonPath,
    field_key: String,
    parser: Option<Parser>,
    /// Splits `segmented_text`.
    separator: Option<Regex>,
    comma: Regex,
    refusal: Reply,
}

impl Define for Acl {
    const INFO: Info = Info::new("acl", 2410, Phases::ACCESS);
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        path(config)?;
        separator(config).map(drop)
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let (field, separator) = (path(&config)?, separator(&config)?);
        let sets = |labels: BTreeMap<String, Vec<String>>| -> Labels {
            labels.into_iter().map(|(label, values)| (label, values.into_iter().collect())).collect()
        };
        let message = config.rejected_msg.as_deref().unwrap_or("The consumer is forbidden.");
        Ok(Acl {
            allow: config.allow_labels.map(sets),
            deny: config.deny_labels.map(sets),
            field,
            field_key: config.external_user_label_field_key.unwrap_or(config.external_user_label_field),
            parser: config.external_user_label_field_parser,
            separator,
            comma: pattern::compile(r"\s*,\s*")?,
            refusal: Reply::message(u16::try_from(config.rejected_code).unwrap_or(500), message),
        })
    }
}

fn path(config: &Config) -> Result<JsonPath, BuildError> {
    let path = JsonPath::parse(&config.external_user_label_field);
    path.map_err(|e| BuildError(format!("invalid external_user_label_field: {e}")))
}

fn separator(config: &Config) -> Result<Option<Regex>, BuildError> {
    let separator = config.external_user_label_field_separator.as_ref();
    separator.map(|s| pattern::compile(&format!(r"\s*{s}\s*"))).transpose()
}

impl Plugin for Acl {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let admitted = if let Some(found) = &cx.consumer {
            let labels = &found.consumer.labels;
            self.admits(|wanted| {
                wanted.iter().any(|(label, values)| labels.get(label).is_some_and(|v| self.guess(v, values)))
            })
        } else if let Some(ExternalUser(user)) = cx.get() {
            let matches = self.field.query(user);
            self.admits(|wanted| {
                let values = wanted.iter().find(|(label, _)| *label == self.field_key);
                values.is_some_and(|(_, values)| self.any_match(&matches, values))
            })
        } else {
            return Flow::reply(Reply::message(401, "Missing authentication."));
        };
        if admitted { Flow::Next } else { Flow::reply(self.refusal.clone()) }
    }
}

impl Acl {
    fn admits(&self, has: impl Fn(&Labels) -> bool) -> bool {
        !self.deny.as_ref().is_some_and(&has) && self.allow.as_ref().is_none_or(has)
    }

    /// Whether what the path found holds a wanted value. A single match goes through the configured parser; of several,
    /// only texts do, since lists are already split.
    fn any_match(&self, matches: &[&Value], wanted: &HashSet<String>) -> bool {
        let alone = matches.len() == 1;
        matches.iter().any(|value| match self.parser {
            Some(parser) if alone || value.is_string() => self.parse(value, parser, wanted),
            _ => self.guess(value, wanted),
        })
    }

    fn parse(&self, value: &Value, parser: Parser, wanted: &HashSet<String>) -> bool {
        match (parser, value) {
            (Parser::SegmentedText, Value::String(text)) => {
                self.separator.as_ref().is_some_and(|s| split(text, s, wanted))
            }
            (Parser::Json, Value::String(text)) => array(text, wanted),
            (Parser::Table, Value::Array(items)) => listed(items, wanted),
            _ => {
                tracing::warn!("the configured parser does not fit the value of label {}", self.field_key);
                false
            }
        }
    }

    /// Reads a value by what it looks like.
    fn guess(&self, value: &Value, wanted: &HashSet<String>) -> bool {
        match value {
            Value::Array(items) => listed(items, wanted),
            Value::String(text) if text.starts_with('[') => array(text, wanted),
            Value::String(text) if text.contains(',') => split(text, &self.comma, wanted),
            Value::String(text) => wanted.contains(text),
            _ => false,
        }
    }
}

fn listed(items: &[Value], wanted: &HashSet<String>) -> bool {
    items.iter().filter_map(Value::as_str).any(|item| wanted.contains(item))
}

fn array(text: &str, wanted: &HashSet<String>) -> bool {
    match serde_json::from_str::<Vec<Value>>(text) {
        Ok(items) => listed(&items, wanted),
        Err(e) => {
            tracing::warn!("failed to decode labels [{text}] as array, err: {e}");
            false
        }
    }
}

/// Whether a piece between separators is wanted.
fn split(text: &str, separator: &Regex, wanted: &HashSet<String>) -> bool {
    let is_wanted = |piece: &[u8]| {
        let piece = String::from_utf8_lossy(piece);
        matches!(&piece, Cow::Borrowed(p) if wanted.contains(*p))
    };
    let mut rest = text.as_bytes();
    while let Some((from, to)) = separator.find(rest) {
        // A separator that matches nothing splits after each byte.
        let (piece, next) = if to == 0 { (1, 1) } else { (from, to.max(from)) };
        match (rest.get(..piece), rest.get(next..)) {
            (Some(piece), Some(after)) => {
                if is_wanted(piece) {
                    return true;
                }
                rest = after;
            }
            _ => break,
        }
    }
    is_wanted(rest)
}

#[cfg(test)]
mod tests;
