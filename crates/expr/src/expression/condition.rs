//! One condition, `[variable, "!"?, operator, operand]`, with its operand prepared for comparison.
//!
//! The surprise: which conversion happens depends on the operand alone. `==` and `~=` convert the variable only when the
//! operand is a number; the order operators convert both sides; nothing else converts.
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::Value as Json;

use super::{ExprError, word};
use crate::{Lookup, Regex, Value, Variable, parse_number};

/// Longest list of strings that is searched one by one; longer ones are hashed.
const LINEAR_LIST: usize = 8;

#[derive(Debug)]
pub(super) struct Condition {
    variable: Variable,
    test: Test,
    negated: bool,
    /// As configured, for messages: operator and operand.
    text: Box<str>,
}

#[derive(Debug)]
enum Test {
    Equal(Operand),
    NotEqual(Operand),
    /// The order operators, with the operand as a number; `None` never holds.
    Order(Order, Option<f64>),
    Matches(Regex),
    In(Members),
    Has(Operand),
    Address(Networks),
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// A JSON value as Lua holds it. Tables are equal to nothing else.
#[derive(Debug, PartialEq)]
enum Operand {
    Nil,
    Text(Box<[u8]>),
    Number(f64),
    Bool(bool),
    Table,
}

impl Operand {
    fn new(value: Option<&Json>) -> Operand {
        match value {
            None | Some(Json::Null) => Operand::Nil,
            Some(Json::String(s)) => Operand::Text(s.as_bytes().into()),
            Some(Json::Number(n)) => Operand::Number(n.as_f64().unwrap_or(f64::NAN)),
            Some(Json::Bool(b)) => Operand::Bool(*b),
            Some(Json::Array(_) | Json::Object(_)) => Operand::Table,
        }
    }

    /// Lua's `==`: types must agree.
    fn same(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Operand::Text(a), Value::Bytes(b)) => **a == **b,
            (Operand::Number(a), Value::Number(b)) => a == b,
            (Operand::Bool(a), Value::Bool(b)) => a == b,
            _ => false,
        }
    }
}

#[derive(Debug)]
enum Members {
    Few(Box<[Operand]>),
    Texts(HashSet<Box<[u8]>, foldhash::fast::RandomState>),
}

impl Members {
    fn new(operand: Option<&Json>) -> Members {
        let Some(Json::Array(items)) = operand else { return Members::Few([].into()) };
        if items.len() > LINEAR_LIST && items.iter().all(Json::is_string) {
            return Members::Texts(items.iter().filter_map(|i| Some(i.as_str()?.as_bytes().into())).collect());
        }
        Members::Few(items.iter().map(|i| Operand::new(Some(i))).collect())
    }

    fn contains(&self, value: &Value<'_>) -> bool {
        match self {
            Members::Few(list) => list.iter().any(|m| m.same(value)),
            Members::Texts(set) => matches!(value, Value::Bytes(b) if set.contains(&**b)),
        }
    }
}

/// Addresses and networks of either family.
#[derive(Debug)]
struct Networks(Box<[IpNet]>);

impl Networks {
    fn new(operand: Option<&Json>) -> Result<Networks, ExprError> {
        let empty = || ExprError::new("invalid ip address");
        let items: &[Json] = match operand {
            None | Some(Json::Bool(false)) => return Err(empty()),
            Some(Json::String(s)) if s.is_empty() => return Err(empty()),
            Some(Json::Array(items)) if items.is_empty() => return Err(empty()),
            Some(Json::Object(_)) => return Err(empty()),
            Some(Json::Array(items)) => items,
            Some(other) => std::slice::from_ref(other),
        };
        let parsed = items.iter().map(|item| {
            let text = item.as_str().map_or_else(|| Cow::Owned(item.to_string()), Cow::Borrowed);
            IpNet::from_str(&text)
                .or_else(|_| IpAddr::from_str(&text).map(IpNet::from))
                .map_err(|_| ExprError::new(format!("invalid ip address: {text}")))
        });
        Ok(Networks(parsed.collect::<Result<_, _>>()?))
    }

    fn contains(&self, value: &Value<'_>) -> bool {
        let Value::Bytes(text) = value else { return false };
        let Some(address) = std::str::from_utf8(text).ok().and_then(|t| t.parse::<IpAddr>().ok()) else { return false };
        self.0.iter().any(|net| net.contains(&address))
    }
}

const OPERATORS: &[&str] = &["==", "~=", ">", ">=", "<", "<=", "~~", "~*", "in", "has", "ipmatch"];

impl Condition {
    /// `name` is the first of `items`.
    pub(super) fn compile(name: &str, items: &[Json]) -> Result<Condition, ExprError> {
        let invalid = || ExprError::new("invalid expression");
        let (negated, op, operand) = if items.len() == 4 {
            if items.get(1).and_then(Json::as_str) != Some("!") {
                return Err(ExprError::new("bad 'not' expression"));
            }
            (true, items.get(2), items.get(3))
        } else {
            (false, items.get(1), items.get(2))
        };
        let op = word(op.ok_or_else(invalid)?).ok_or_else(invalid)?.to_ascii_lowercase();
        // The short form `[name, value]`, kept by lua-resty-expr for compatibility: the value has been lower-cased.
        let short = Json::String(op.clone());
        let (op, operand) = if operand.is_none() && !OPERATORS.contains(&op.as_str()) {
            ("==", Some(&short))
        } else {
            (op.as_str(), operand)
        };
        let number = || match operand {
            Some(Json::Number(n)) => n.as_f64(),
            Some(Json::String(s)) => parse_number(s.as_bytes()),
            _ => None,
        };
        let test = match op {
            "==" => Test::Equal(Operand::new(operand)),
            "~=" => Test::NotEqual(Operand::new(operand)),
            ">" => Test::Order(Order::Greater, number()),
            ">=" => Test::Order(Order::GreaterOrEqual, number()),
            "<" => Test::Order(Order::Less, number()),
            "<=" => Test::Order(Order::LessOrEqual, number()),
            "~~" => Test::Matches(regex(operand, "jo")?),
            "~*" => Test::Matches(regex(operand, "joi")?),
            "in" => Test::In(Members::new(operand)),
            "has" => Test::Has(Operand::new(operand)),
            "ipmatch" => Test::Address(Networks::new(operand)?),
            other => return Err(ExprError::new(format!("invalid operator '{other}'"))),
        };
        let text = match operand {
            Some(operand) => format!("{op} {operand}"),
            None => format!("{op} nil"),
        };
        Ok(Condition { variable: Variable::parse(name), test, negated, text: text.into() })
    }

    pub(super) fn variable(&self) -> &Variable {
        &self.variable
    }

    pub(super) fn eval(&self, lookup: &dyn Lookup) -> bool {
        self.test.holds(lookup.variable(&self.variable).as_ref()) != self.negated
    }

    pub(super) fn explain(&self, lookup: &dyn Lookup) -> Option<String> {
        let value = lookup.variable(&self.variable);
        if self.test.holds(value.as_ref()) != self.negated {
            return None;
        }
        let shown = match &value {
            None => "nil".to_owned(),
            Some(Value::Bytes(b)) => format!("{:?}", String::from_utf8_lossy(b)),
            Some(other) => other.as_str().into_owned(),
        };
        let not = if self.negated { "! " } else { "" };
        Some(format!("{} {not}{}: {} is {shown}", self.variable, self.text, self.variable))
    }
}

/// `["name" ! operator operand]`
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} {}{}]", self.variable, if self.negated { "! " } else { "" }, self.text)
    }
}

fn regex(operand: Option<&Json>, options: &str) -> Result<Regex, ExprError> {
    let pattern = match operand {
        None | Some(Json::Null) => Some("nil".to_owned()),
        Some(Json::Bool(b)) => Some(b.to_string()),
        Some(value) => word(value),
    };
    let pattern = pattern.ok_or_else(|| ExprError::new("invalid regex: expected a string"))?;
    Regex::new(&pattern, options).map_err(|e| ExprError::new(e.0))
}

impl Test {
    fn holds(&self, value: Option<&Value<'_>>) -> bool {
        match self {
            Test::Equal(operand) => equal(value, operand).unwrap_or(false),
            Test::NotEqual(operand) => equal(value, operand).is_none_or(|same| !same),
            Test::Order(order, right) => {
                let (Some(left), Some(right)) = (value.and_then(Value::as_number), *right) else { return false };
                match order {
                    Order::Greater => left > right,
                    Order::GreaterOrEqual => left >= right,
                    Order::Less => left < right,
                    Order::LessOrEqual => left <= right,
                }
            }
            Test::Matches(regex) => match value {
                None | Some(Value::Bool(false)) => false,
                Some(value) => regex.is_match(&value.as_bytes()),
            },
            Test::In(members) => value.is_some_and(|v| members.contains(v)),
            Test::Has(operand) => matches!(value, Some(Value::List(list)) if list.iter().any(|v| operand.same(v))),
            Test::Address(networks) => value.is_some_and(|v| networks.contains(v)),
        }
    }
}

/// `None` when the operand is a number and the variable is not.
fn equal(value: Option<&Value<'_>>, operand: &Operand) -> Option<bool> {
    match operand {
        Operand::Number(right) => Some(value?.as_number()? == *right),
        Operand::Nil => Some(value.is_none()),
        other => Some(value.is_some_and(|v| other.same(v))),
    }
}
