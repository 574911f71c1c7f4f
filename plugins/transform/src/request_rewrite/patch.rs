//! Changes of a JSON value by JSON Pointers (RFC 6901). The surprise: `-` names the place behind an array's last item, and an
//! index beyond it does too.
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_expr::Template;
use sluice_plugin::{BuildError, Context};

/// Items that a path may have.
const MAX_STEPS: usize = 64;

#[derive(Deserialize)]
pub(super) struct ChangeConfig {
    op: Op,
    path: String,
    /// A `null` is a value.
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Op {
    /// Puts a value there, whatever was there.
    Set,
    /// Puts a value there if nothing is.
    Add,
    Remove,
}

pub(super) fn schema() -> Value {
    json!({
        "description": "Changes of a JSON body, one after the other.",
        "type": "array", "minItems": 1, "maxItems": 256,
        "items": {
            "type": "object", "additionalProperties": false, "required": ["op", "path"],
            "properties": {
                "op": {
                    "description": "`set` puts a value there, `add` only where there is none, `remove` takes it away.",
                    "type": "string", "enum": ["set", "add", "remove"]
                },
                "path": {
                    "description": "A JSON Pointer: `/user/roles/0`; `-` is behind the last item of an array.",
                    "type": "string", "pattern": "^(/.*)?$"
                },
                "value": {"description": "Any JSON; texts in it may hold variables."}
            }
        }
    })
}

/// A value with its texts compiled.
enum Maker {
    Plain(Value),
    Text(Template),
    Array(Vec<Maker>),
    Object(Vec<(String, Maker)>),
}

impl Maker {
    fn new(value: &Value) -> Maker {
        match value {
            Value::String(text) => {
                let template = Template::compile(text);
                if template.constant().is_some() { Maker::Plain(value.clone()) } else { Maker::Text(template) }
            }
            Value::Array(items) => Maker::Array(items.iter().map(Maker::new).collect()),
            Value::Object(fields) => Maker::Object(fields.iter().map(|(n, v)| (n.clone(), Maker::new(v))).collect()),
            other => Maker::Plain(other.clone()),
        }
    }

    fn make(&self, cx: &Context) -> Value {
        match self {
            Maker::Plain(value) => value.clone(),
            Maker::Text(template) => Value::from(String::from_utf8_lossy(&template.render(cx, ""))),
            Maker::Array(items) => items.iter().map(|item| item.make(cx)).collect(),
            Maker::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value.make(cx))).collect(),
        }
    }
}

/// A compiled change.
pub(super) struct Change {
    op: Op,
    path: Box<[Box<str>]>,
    value: Maker,
}

impl Change {
    pub(super) fn compile(config: &ChangeConfig) -> Result<Change, BuildError> {
        if config.op != Op::Remove && config.value.is_none() {
            return Err(BuildError(format!("body.json: {} has no value", config.path)));
        }
        let steps = config.path.split('/').skip(1).map(|s| s.replace("~1", "/").replace("~0", "~").into());
        let path: Box<[Box<str>]> = steps.collect();
        if path.len() > MAX_STEPS {
            return Err(BuildError(format!("body.json: the path has more than {MAX_STEPS} steps")));
        }
        Ok(Change { op: config.op, path, value: Maker::new(config.value.as_ref().unwrap_or(&Value::Null)) })
    }

    pub(super) fn apply(&self, root: &mut Value, cx: &Context) {
        let Some((last, way)) = self.path.split_last() else {
            if self.op == Op::Set {
                *root = self.value.make(cx);
            }
            return;
        };
        let mut at = root;
        for step in way {
            let next = if self.op == Op::Remove { find(at, step) } else { reach(at, step) };
            match next {
                Some(next) => at = next,
                None => return,
            }
        }
        match (self.op, at) {
            (Op::Remove, Value::Object(fields)) => {
                fields.shift_remove(&**last);
            }
            (Op::Remove, Value::Array(items)) => {
                if let Some(i) = index(last).filter(|i| *i < items.len()) {
                    items.remove(i);
                }
            }
            (Op::Remove, _) => {}
            (op, at) => {
                let there = find(at, last).is_some();
                if (op == Op::Set || !there)
                    && let Some(place) = reach(at, last)
                {
                    *place = self.value.make(cx);
                }
            }
        }
    }
}

fn index(step: &str) -> Option<usize> {
    let digits = !step.is_empty() && step.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| step.parse().ok()).flatten()
}

fn find<'v>(value: &'v mut Value, step: &str) -> Option<&'v mut Value> {
    match value {
        Value::Object(fields) => fields.get_mut(step),
        Value::Array(items) => items.get_mut(index(step)?),
        _ => None,
    }
}

/// As [`find`], but makes what is missing. What is neither object nor array becomes an object.
fn reach<'v>(value: &'v mut Value, step: &str) -> Option<&'v mut Value> {
    if let Value::Array(items) = value {
        let at = if step == "-" { items.len() } else { index(step)?.min(items.len()) };
        if at == items.len() {
            items.push(Value::Null);
        }
        return items.get_mut(at);
    }
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    Some(value.as_object_mut()?.entry(step).or_insert(Value::Null))
}
