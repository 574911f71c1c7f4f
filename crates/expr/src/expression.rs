//! `vars` expressions in lua-resty-expr's form (resty/expr/v1.lua 1.3).
//!
//! The surprises are that library's: `["arg_x", "Foo"]` means `arg_x == "foo"`, lower-cased; `in` never converts, so
//! `["arg_x", "in", [1]]` is never true; `["arg_x", "=="]` holds when `arg_x` is nil. One thing differs: a pattern that
//! does not compile is an error here, where it silently never matches there.
use serde_json::Value as Json;

use crate::{Lookup, Variable};

mod condition;

use condition::Condition;

/// Levels of nested logical operators and lists.
pub const MAX_DEPTH: usize = 64;

/// A compiled expression.
#[derive(Debug)]
pub struct Expr {
    root: Group,
}

/// Why an expression does not compile, in lua-resty-expr's wording.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ExprError(pub String);

impl ExprError {
    fn new(text: impl Into<String>) -> Self {
        ExprError(text.into())
    }
}

#[derive(Debug)]
enum Node {
    Group(Group),
    Condition(Condition),
}

#[derive(Debug)]
struct Group {
    logic: Logic,
    nodes: Box<[Node]>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Logic {
    And,
    Or,
    NotAnd,
    NotOr,
}

impl Logic {
    fn parse(word: &str) -> Option<Logic> {
        Some(match word.to_ascii_uppercase().as_str() {
            "AND" => Logic::And,
            "OR" => Logic::Or,
            "!AND" => Logic::NotAnd,
            "!OR" => Logic::NotOr,
            _ => return None,
        })
    }
}

impl Expr {
    /// Compiles the JSON form: `[["arg_a", "==", "1"], "OR", …]`. An empty list matches everything.
    pub fn compile(rule: &Json) -> Result<Expr, ExprError> {
        let items = match rule {
            Json::Array(items) => items,
            // An object has no array part in Lua: it is the empty rule.
            Json::Object(_) => &Vec::new(),
            Json::Null | Json::Bool(false) => return Err(ExprError::new("missing argument rule")),
            _ => return Err(ExprError::new("rule should be wrapped inside brackets")),
        };
        let Some(first) = items.first() else {
            return Ok(Expr { root: Group { logic: Logic::And, nodes: [].into() } });
        };
        if !is_table(first) && word(first).and_then(|w| Logic::parse(&w)).is_none() {
            return Err(ExprError::new("rule should be wrapped inside brackets"));
        }
        Ok(match compile(items, 0)? {
            Node::Group(root) => Expr { root },
            condition => Expr { root: Group { logic: Logic::And, nodes: [condition].into() } },
        })
    }

    /// Whether the request matches.
    pub fn eval(&self, lookup: &dyn Lookup) -> bool {
        self.root.eval(lookup)
    }

    /// Whether it matches everything, having no condition.
    pub fn is_empty(&self) -> bool {
        self.root.logic == Logic::And && self.root.nodes.is_empty()
    }

    /// The first condition that does not hold, for `explain`: e.g. `arg_a == "1": arg_a is nil`. `None` when it matches.
    pub fn explain(&self, lookup: &dyn Lookup) -> Option<String> {
        self.root.explain(lookup)
    }

    /// Every variable it may read.
    pub fn variables(&self) -> Vec<&Variable> {
        let mut found = Vec::new();
        self.root.variables(&mut found);
        found
    }
}

/// In the form lua-resty-expr reads; lists of `in` and addresses of `ipmatch` as configured.
impl std::fmt::Display for Expr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.root.fmt(f)
    }
}

fn is_table(value: &Json) -> bool {
    value.is_array() || value.is_object()
}

/// What Lua's string functions make of a value: numbers are strings, too.
fn word(value: &Json) -> Option<String> {
    match value {
        Json::String(s) => Some(s.clone()),
        Json::Number(n) => {
            let mut out = Vec::new();
            crate::write_number(n.as_f64()?, &mut out);
            String::from_utf8(out).ok()
        }
        _ => None,
    }
}

fn compile(items: &[Json], depth: usize) -> Result<Node, ExprError> {
    if depth > MAX_DEPTH {
        return Err(ExprError::new("rule is nested too deep"));
    }
    let Some(first) = items.first() else { return Err(ExprError::new("rule too short")) };
    let group = |logic, rules: &[Json]| -> Result<Node, ExprError> {
        let nodes = rules.iter().map(|rule| match rule {
            Json::Array(items) => compile(items, depth + 1),
            Json::Object(_) => Err(ExprError::new("rule too short")),
            other => Err(ExprError::new(format!("invalid expression: expected a list, got {other}"))),
        });
        Ok(Node::Group(Group { logic, nodes: nodes.collect::<Result<_, _>>()? }))
    };
    if is_table(first) {
        return group(Logic::And, items);
    }
    let head = word(first).ok_or_else(|| ExprError::new("invalid expression"))?;
    match Logic::parse(&head) {
        Some(_) if items.len() <= 2 => Err(ExprError::new("rule too short")),
        Some(logic) => group(logic, items.get(1..).unwrap_or_default()),
        None => Condition::compile(&head, items).map(Node::Condition),
    }
}

impl Group {
    fn eval(&self, lookup: &dyn Lookup) -> bool {
        match self.logic {
            Logic::And => self.nodes.iter().all(|n| n.eval(lookup)),
            Logic::Or => self.nodes.iter().any(|n| n.eval(lookup)),
            Logic::NotAnd => !self.nodes.iter().all(|n| n.eval(lookup)),
            Logic::NotOr => !self.nodes.iter().any(|n| n.eval(lookup)),
        }
    }

    fn explain(&self, lookup: &dyn Lookup) -> Option<String> {
        match self.logic {
            Logic::And => self.nodes.iter().find_map(|n| n.explain(lookup)),
            Logic::Or => {
                let reasons = self.nodes.iter().map(|n| n.explain(lookup)).collect::<Option<Vec<_>>>()?;
                Some(format!("none of OR holds: {}", reasons.join("; ")))
            }
            Logic::NotAnd => (!self.eval(lookup)).then(|| format!("all of {self} hold")),
            Logic::NotOr => {
                let holds = self.nodes.iter().find(|n| n.eval(lookup))?;
                Some(format!("{holds} holds inside !OR"))
            }
        }
    }

    fn variables<'a>(&'a self, found: &mut Vec<&'a Variable>) {
        for node in &self.nodes {
            match node {
                Node::Group(group) => group.variables(found),
                Node::Condition(condition) => found.push(condition.variable()),
            }
        }
    }
}

impl Node {
    fn eval(&self, lookup: &dyn Lookup) -> bool {
        match self {
            Node::Condition(condition) => condition.eval(lookup),
            Node::Group(group) => group.eval(lookup),
        }
    }

    fn explain(&self, lookup: &dyn Lookup) -> Option<String> {
        match self {
            Node::Condition(condition) => condition.explain(lookup),
            Node::Group(group) => group.explain(lookup),
        }
    }
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Node::Condition(condition) => condition.fmt(f),
            Node::Group(group) => group.fmt(f),
        }
    }
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.logic {
            Logic::And => "[\"AND\"",
            Logic::Or => "[\"OR\"",
            Logic::NotAnd => "[\"!AND\"",
            Logic::NotOr => "[\"!OR\"",
        })?;
        for node in &self.nodes {
            write!(f, ", {node}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests;
