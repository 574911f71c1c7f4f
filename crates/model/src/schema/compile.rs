//! From a schema document to the tree of rules that `check` walks. Surprise: keywords the original validator ignores
//! (`title`, `examples`, unknown formats) are ignored here too, and `$ref` is followed by compiling its target in place.

use super::{SchemaError, pattern};
use fancy_regex::Regex;
use serde_json::{Map, Value};
use std::collections::HashSet;

const DEEPEST: usize = 64;
/// Sub-schemas compiled at most: references that recurse in several places would otherwise multiply.
const LARGEST: usize = 50_000;

/// A sub-schema.
pub(super) enum Node {
    Any,
    Never,
    Rules(Box<Rules>),
}

#[derive(Default)]
pub(super) struct Rules {
    /// Empty: any type. `one_type` decides the wording.
    pub types: Vec<Type>,
    pub one_type: bool,
    pub object: Option<Object>,
    pub array: Option<Array>,
    pub text: Option<Text>,
    pub number: Option<Number>,
    pub allowed: Option<Vec<Value>>,
    pub all_of: Vec<Node>,
    pub any_of: Option<AnyOf>,
    pub one_of: Option<Vec<Node>>,
    pub condition: Option<Condition>,
    pub not: Option<Node>,
    pub property_names: Option<bool>,
    pub format: Option<Format>,
    pub constant: Option<Value>,
    pub contains: Option<Node>,
    /// Whether a check may insert a default somewhere below: such a branch is undone when it does not match.
    pub writes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Object,
    Array,
    Table,
    Integer,
    Number,
    String,
    Boolean,
    Null,
    Function,
}

impl Type {
    pub fn name(self) -> &'static str {
        match self {
            Type::Object => "object",
            Type::Array => "array",
            Type::Table => "table",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::String => "string",
            Type::Boolean => "boolean",
            Type::Null => "null",
            Type::Function => "function",
        }
    }

    fn from_name(name: &str) -> Option<Type> {
        Some(match name {
            "object" => Type::Object,
            "array" => Type::Array,
            "table" => Type::Table,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "string" => Type::String,
            "boolean" => Type::Boolean,
            "null" => Type::Null,
            "function" => Type::Function,
            _ => return None,
        })
    }
}

#[derive(Default)]
pub(super) struct Object {
    pub properties: Vec<Property>,
    pub names: HashSet<String>,
    /// Required names that are not among `properties`.
    pub required: Vec<String>,
    /// `required: []` asks for an empty table.
    pub must_be_empty: bool,
    /// Dependencies of names that are not among `properties`.
    pub dependencies: Vec<(String, Dependency)>,
    pub patterns: Vec<(String, Regex, Node)>,
    /// `None`: anything goes.
    pub additional: Option<Node>,
    pub at_least: Option<u64>,
    pub at_most: Option<u64>,
}

pub(super) struct Property {
    pub name: String,
    pub node: Node,
    pub required: bool,
    pub default: Option<Value>,
    pub dependency: Option<Dependency>,
}

pub(super) enum Dependency {
    Names(Vec<String>),
    Schema(Node),
}

pub(super) struct Array {
    pub items: Items,
    pub at_least: Option<u64>,
    pub at_most: Option<u64>,
    pub unique: bool,
}

pub(super) enum Items {
    Unchecked,
    /// `items: true` ends the whole check with success.
    True,
    /// `items: false` ends it too: only an empty table passes.
    False,
    Each(Node),
    Tuple {
        first: Vec<Node>,
        rest: Option<Node>,
    },
}

#[derive(Default)]
pub(super) struct Text {
    pub at_least: Option<u64>,
    pub at_most: Option<u64>,
    pub pattern: Option<(String, Regex)>,
}

#[derive(Default)]
pub(super) struct Number {
    pub minimum: Option<f64>,
    pub exclusive_minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: Option<f64>,
    pub multiple_of: Option<f64>,
}

pub(super) struct AnyOf {
    pub branches: Vec<Node>,
    pub message: String,
}

pub(super) struct Condition {
    pub test: Node,
    pub then: Option<Node>,
    pub otherwise: Option<Node>,
}

pub(super) enum Format {
    Ipv4,
    Ipv6,
    Pattern(&'static str, Box<Regex>),
}

impl Node {
    pub fn writes(&self) -> bool {
        matches!(self, Node::Rules(rules) if rules.writes)
    }
}

pub(super) fn compile(document: &Value) -> Result<Node, SchemaError> {
    Compiler { document, writes: false, left: LARGEST }.node(document, &At { path: String::new(), depth: 0 })
}

struct Compiler<'a> {
    document: &'a Value,
    /// Set when the sub-schemas compiled since it was last cleared may insert defaults.
    writes: bool,
    left: usize,
}

struct At {
    path: String,
    depth: usize,
}

impl At {
    fn child(&self, segment: &str) -> At {
        At { path: format!("{}/{segment}", self.path), depth: self.depth + 1 }
    }

    fn bad(&self, keyword: &str) -> SchemaError {
        SchemaError::Keyword { path: self.path.clone(), keyword: keyword.to_owned() }
    }
}

impl Compiler<'_> {
    fn node(&mut self, schema: &Value, at: &At) -> Result<Node, SchemaError> {
        self.left = self.left.saturating_sub(1);
        if at.depth > DEEPEST || self.left == 0 {
            return Err(SchemaError::Depth { path: at.path.clone(), limit: DEEPEST });
        }
        let fields = match schema {
            Value::Bool(true) => return Ok(Node::Any),
            Value::Bool(false) => return Ok(Node::Never),
            Value::Object(fields) => fields,
            // an empty Lua table
            Value::Array(items) if items.is_empty() => return Ok(Node::Rules(Box::default())),
            _ => return Err(SchemaError::NotASchema { path: at.path.clone() }),
        };
        if let Some(Value::String(reference)) = fields.get("$ref") {
            let document = self.document;
            let target = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
            let Some(target) = target else {
                return Err(SchemaError::Reference { path: at.path.clone(), reference: reference.clone() });
            };
            return self.node(target, &at.child("$ref"));
        }
        let outer = std::mem::take(&mut self.writes);
        let mut rules = self.rules(fields, at)?;
        rules.writes = self.writes;
        self.writes |= outer;
        Ok(Node::Rules(Box::new(rules)))
    }

    fn rules(&mut self, fields: &Map<String, Value>, at: &At) -> Result<Rules, SchemaError> {
        let mut rules = Rules::default();
        (rules.types, rules.one_type) = types(fields, at)?;
        rules.object = self.object(fields, at)?;
        rules.array = self.array(fields, at)?;
        rules.text = text(fields, at)?;
        rules.number = number(fields, at)?;
        if let Some(allowed) = fields.get("enum") {
            rules.allowed = Some(list(allowed, "enum", at)?.to_vec());
        }
        if let Some(branches) = fields.get("allOf") {
            rules.all_of = self.branches(branches, "allOf", at)?;
        }
        if let Some(branches) = fields.get("anyOf") {
            let message = any_of_message(list(branches, "anyOf", at)?);
            rules.any_of = Some(AnyOf { branches: self.branches(branches, "anyOf", at)?, message });
        }
        if let Some(branches) = fields.get("oneOf") {
            rules.one_of = Some(self.branches(branches, "oneOf", at)?);
        }
        if let Some(test) = fields.get("if") {
            rules.condition = Some(Condition {
                test: self.node(test, &at.child("if"))?,
                then: self.optional(fields, "then", at)?,
                otherwise: self.optional(fields, "else", at)?,
            });
        }
        rules.not = self.optional(fields, "not", at)?;
        rules.property_names = fields.get("propertyNames").and_then(Value::as_bool);
        rules.format = fields.get("format").and_then(Value::as_str).map(|name| format(name, at)).transpose()?.flatten();
        rules.constant = fields.get("const").cloned();
        rules.contains = self.optional(fields, "contains", at)?;
        Ok(rules)
    }

    fn optional(&mut self, fields: &Map<String, Value>, key: &str, at: &At) -> Result<Option<Node>, SchemaError> {
        fields.get(key).map(|schema| self.node(schema, &at.child(key))).transpose()
    }

    fn branches(&mut self, schemas: &Value, key: &str, at: &At) -> Result<Vec<Node>, SchemaError> {
        list(schemas, key, at)?
            .iter()
            .enumerate()
            .map(|(i, schema)| self.node(schema, &at.child(&format!("{key}/{i}"))))
            .collect()
    }

    fn object(&mut self, fields: &Map<String, Value>, at: &At) -> Result<Option<Object>, SchemaError> {
        const KEYWORDS: [&str; 7] = [
            "properties",
            "additionalProperties",
            "patternProperties",
            "minProperties",
            "maxProperties",
            "dependencies",
            "required",
        ];
        if !KEYWORDS.iter().any(|keyword| fields.contains_key(*keyword)) {
            return Ok(None);
        }
        let mut object = Object {
            at_least: count(fields, "minProperties", at)?,
            at_most: count(fields, "maxProperties", at)?,
            ..Object::default()
        };
        if let Some(required) = fields.get("required") {
            // draft-04's boolean `required` has no meaning here
            if !required.is_boolean() {
                object.required = names(required, "required", at)?;
                object.must_be_empty = object.required.is_empty();
            }
        }
        let mut dependencies = map(fields, "dependencies", at)?
            .into_iter()
            .flatten()
            .map(|(name, dependency)| Ok((name.clone(), self.dependency(name, dependency, at)?)))
            .collect::<Result<Vec<_>, SchemaError>>()?;
        for (name, schema) in map(fields, "properties", at)?.into_iter().flatten() {
            let node = self.node(schema, &at.child(&format!("properties/{name}")))?;
            let default = schema.get("default").filter(|value| !value.is_null()).cloned();
            self.writes |= default.is_some();
            let required = object.required.iter().any(|other| other == name);
            object.required.retain(|other| other != name);
            let dependency = dependencies.iter().position(|(other, _)| other == name);
            let dependency = dependency.map(|i| dependencies.remove(i).1);
            object.names.insert(name.clone());
            object.properties.push(Property { name: name.clone(), node, required, default, dependency });
        }
        object.dependencies = dependencies;
        for (source, schema) in map(fields, "patternProperties", at)?.into_iter().flatten() {
            let node = self.node(schema, &at.child("patternProperties"))?;
            object.patterns.push((source.clone(), regex(source, at)?, node));
        }
        object.additional = match fields.get("additionalProperties") {
            None | Some(Value::Bool(true)) => None,
            Some(schema) => Some(self.node(schema, &at.child("additionalProperties"))?),
        };
        Ok(Some(object))
    }

    fn dependency(&mut self, name: &str, value: &Value, at: &At) -> Result<Dependency, SchemaError> {
        match value {
            Value::Array(items) if !items.is_empty() => Ok(Dependency::Names(names(value, "dependencies", at)?)),
            schema => Ok(Dependency::Schema(self.node(schema, &at.child(&format!("dependencies/{name}")))?)),
        }
    }

    fn array(&mut self, fields: &Map<String, Value>, at: &At) -> Result<Option<Array>, SchemaError> {
        let array = Array {
            items: match fields.get("items") {
                None => Items::Unchecked,
                Some(Value::Bool(true)) => Items::True,
                Some(Value::Bool(false)) => Items::False,
                Some(Value::Array(first)) if !first.is_empty() => Items::Tuple {
                    first: self.branches(&Value::Array(first.clone()), "items", at)?,
                    rest: match fields.get("additionalItems") {
                        Some(Value::Bool(true)) | None => None,
                        Some(schema) => Some(self.node(schema, &at.child("additionalItems"))?),
                    },
                },
                Some(schema) => Items::Each(self.node(schema, &at.child("items"))?),
            },
            at_least: count(fields, "minItems", at)?,
            at_most: count(fields, "maxItems", at)?,
            unique: fields.get("uniqueItems") == Some(&Value::Bool(true)),
        };
        let idle = matches!(array.items, Items::Unchecked)
            && array.at_least.is_none()
            && array.at_most.is_none()
            && !array.unique;
        Ok((!idle).then_some(array))
    }
}

fn types(fields: &Map<String, Value>, at: &At) -> Result<(Vec<Type>, bool), SchemaError> {
    let one = |name: &Value| {
        name.as_str()
            .and_then(Type::from_name)
            .ok_or_else(|| SchemaError::Type { path: at.path.clone(), found: name.to_string() })
    };
    match fields.get("type") {
        None => Ok((Vec::new(), true)),
        Some(Value::Array(several)) => Ok((several.iter().map(one).collect::<Result<_, _>>()?, false)),
        Some(name) => Ok((vec![one(name)?], true)),
    }
}

fn text(fields: &Map<String, Value>, at: &At) -> Result<Option<Text>, SchemaError> {
    let pattern = match fields.get("pattern") {
        None => None,
        Some(Value::String(source)) => Some((source.clone(), regex(source, at)?)),
        Some(_) => return Err(at.bad("pattern")),
    };
    let text = Text { at_least: count(fields, "minLength", at)?, at_most: count(fields, "maxLength", at)?, pattern };
    let idle = text.at_least.is_none() && text.at_most.is_none() && text.pattern.is_none();
    Ok((!idle).then_some(text))
}

fn number(fields: &Map<String, Value>, at: &At) -> Result<Option<Number>, SchemaError> {
    let bound = |key: &str| match fields.get(key) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| at.bad(key)),
    };
    let number = Number {
        minimum: bound("minimum")?,
        exclusive_minimum: bound("exclusiveMinimum")?,
        maximum: bound("maximum")?,
        exclusive_maximum: bound("exclusiveMaximum")?,
        multiple_of: bound("multipleOf")?,
    };
    let idle = [number.minimum, number.exclusive_minimum, number.maximum, number.exclusive_maximum, number.multiple_of]
        .iter()
        .all(Option::is_none);
    Ok((!idle).then_some(number))
}

/// The required lists of the branches are part of the message, as JSON.
fn any_of_message(branches: &[Value]) -> String {
    let required: Vec<String> =
        branches.iter().filter_map(|branch| branch.get("required")).map(Value::to_string).collect();
    if required.is_empty() {
        String::from("object matches none of the required")
    } else {
        format!("object matches none of the required: {}", required.join(" or "))
    }
}

fn format(name: &str, at: &At) -> Result<Option<Format>, SchemaError> {
    let (name, source) = match name {
        "ipv4" => return Ok(Some(Format::Ipv4)),
        "ipv6" => return Ok(Some(Format::Ipv6)),
        "email" => ("email", r"^[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+\.[A-Za-z]{2,4}$"),
        "hostname" => ("hostname", r"^[a-zA-Z0-9.-]+$"),
        "uuid" => ("uuid", r"^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"),
        "date" => ("date", r"^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])$"),
        "date-time" => (
            "date-time",
            r"^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])[Tt](?:[01]\d|2[0-3])(?::[0-5]\d){2}(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$",
        ),
        "uri" => ("uri", r"^[a-zA-Z][a-zA-Z0-9+.-]*:\S*$"),
        _ => return Ok(None),
    };
    Ok(Some(Format::Pattern(name, Box::new(regex(source, at)?))))
}

fn regex(source: &str, at: &At) -> Result<Regex, SchemaError> {
    pattern::compile(source).map_err(|reason| SchemaError::Pattern {
        path: at.path.clone(),
        pattern: source.to_owned(),
        reason,
    })
}

fn list<'v>(value: &'v Value, keyword: &str, at: &At) -> Result<&'v [Value], SchemaError> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Object(fields) if fields.is_empty() => Ok(&[]),
        _ => Err(at.bad(keyword)),
    }
}

fn names(value: &Value, keyword: &str, at: &At) -> Result<Vec<String>, SchemaError> {
    list(value, keyword, at)?
        .iter()
        .map(|name| name.as_str().map(str::to_owned).ok_or_else(|| at.bad(keyword)))
        .collect()
}

fn map<'v>(
    fields: &'v Map<String, Value>,
    keyword: &str,
    at: &At,
) -> Result<Option<&'v Map<String, Value>>, SchemaError> {
    match fields.get(keyword) {
        None => Ok(None),
        Some(Value::Object(entries)) => Ok(Some(entries)),
        Some(Value::Array(items)) if items.is_empty() => Ok(None),
        Some(_) => Err(at.bad(keyword)),
    }
}

fn count(fields: &Map<String, Value>, keyword: &str, at: &At) -> Result<Option<u64>, SchemaError> {
    match fields.get(keyword) {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) => Ok(Some(number)),
            None if value.as_f64().is_some_and(|number| number >= 0.0 && number.fract() == 0.0) => {
                Ok(value.as_f64().map(|number| number as u64))
            }
            None => Err(at.bad(keyword)),
        },
    }
}
