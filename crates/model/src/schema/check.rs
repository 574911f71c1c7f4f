//! The walk over a value: validates and injects defaults in one pass, in the order of the schema. The order of checks
//! inside one schema is the original's (type, object, array, string, number, enum, allOf, anyOf, oneOf, if, not, format,
//! const, contains), because the first error is the one users see.

use super::Violation;
use super::compile::{Array, Dependency, Format, Items, Node, Number, Object, Rules, Text, Type};
use super::lua;
use super::nearest::nearest;
use super::pattern::is_match;
use serde_json::{Map, Value};

/// A violation on its way up; the path is collected from the innermost segment outwards.
pub(super) struct Failure {
    message: String,
    segments: Vec<String>,
    expected: Option<String>,
    nearest: Option<String>,
}

impl Failure {
    fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), segments: Vec::new(), expected: None, nearest: None }
    }

    fn expected(mut self, expected: impl Into<String>) -> Failure {
        self.expected = Some(expected.into());
        self
    }

    fn below(mut self, segment: impl Into<String>, prefix: &str) -> Failure {
        self.message.insert_str(0, prefix);
        self.segments.push(segment.into());
        self
    }

    pub fn finish(self) -> Violation {
        let mut path = String::new();
        for segment in self.segments.iter().rev() {
            path.push('/');
            path.push_str(&segment.replace('~', "~0").replace('/', "~1"));
        }
        Violation { message: self.message, path, expected: self.expected, nearest: self.nearest }
    }
}

type Checked = Result<(), Failure>;

pub(super) fn check(node: &Node, value: &mut Value) -> Checked {
    let rules = match node {
        Node::Any => return Ok(()),
        Node::Never => return Err(Failure::new("expect false always").expected("nothing")),
        Node::Rules(rules) => rules,
    };
    if is_secret_reference(rules, value) {
        return Ok(());
    }
    check_type(rules, value)?;
    if let Some(object) = &rules.object {
        if is_object(value) {
            check_object(object, value)?;
        }
        if object.must_be_empty && !is_empty_table(value) {
            return Err(Failure::new("the input data should be an empty table").expected("{}"));
        }
    }
    if let Some(array) = &rules.array {
        match array.items {
            Items::True => return Ok(()),
            Items::False if is_empty_table(value) => return Ok(()),
            Items::False => return Err(Failure::new("expect false always").expected("[]")),
            _ => check_array(array, value)?,
        }
    }
    if let (Some(text), Value::String(string)) = (&rules.text, &*value) {
        check_text(text, string)?;
    }
    if let (Some(number), Value::Number(found)) = (&rules.number, &*value) {
        check_number(number, found.as_f64().unwrap_or(f64::NAN))?;
    }
    if let Some(allowed) = &rules.allowed {
        check_allowed(allowed, value)?;
    }
    check_combined(rules, value)?;
    if let Some(all) = rules.property_names {
        if all || is_empty_table(value) {
            return Ok(());
        }
        return Err(Failure::new("expect false always"));
    }
    if let (Some(format), Value::String(string)) = (&rules.format, &*value) {
        check_format(format, string)?;
    }
    if let Some(constant) = &rules.constant
        && !equal(constant, value)
    {
        return Err(Failure::new("failed to check const value").expected(constant.to_string()));
    }
    match &rules.contains {
        Some(node) => check_contains(node, value),
        None => Ok(()),
    }
}

/// Whether the value matches; what a mismatch inserted is taken back.
fn matches(node: &Node, value: &mut Value) -> bool {
    if !node.writes() {
        return check(node, value).is_ok();
    }
    let before = value.clone();
    let matched = check(node, value).is_ok();
    if !matched {
        *value = before;
    }
    matched
}

/// apisix/secret.lua `is_secret_ref`: references stand for a string that is not known yet.
fn is_secret_reference(rules: &Rules, value: &Value) -> bool {
    let Value::String(text) = value else { return false };
    if !text.starts_with('$') || !(rules.types.is_empty() || (rules.one_type && rules.types == [Type::String])) {
        return false;
    }
    crate::secret::is_reference(text)
}

fn is_object(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn is_empty_table(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn check_type(rules: &Rules, value: &mut Value) -> Checked {
    if rules.types.is_empty() {
        return Ok(());
    }
    for wanted in &rules.types {
        if is_type(*wanted, value) {
            if *wanted == Type::Integer {
                write_as_integer(value);
            }
            return Ok(());
        }
    }
    let names: Vec<&str> = rules.types.iter().map(|wanted| wanted.name()).collect();
    let names = names.join(", ");
    let one_of = if rules.one_type { "" } else { "one of " };
    Err(Failure::new(format!("wrong type: expected {one_of}{names}, got {}", lua::type_name(value))).expected(names))
}

fn is_type(wanted: Type, value: &Value) -> bool {
    match wanted {
        Type::Object => is_object(value),
        Type::Array => value.is_array() || is_empty_table(value),
        Type::Table => value.is_array() || value.is_object(),
        Type::Integer => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        Type::Number => value.is_number(),
        Type::String => value.is_string(),
        Type::Boolean => value.is_boolean(),
        Type::Null => value.is_null(),
        Type::Function => false,
    }
}

/// `1.0` is an integer to Lua and is printed as `1`: kept that way.
fn write_as_integer(value: &mut Value) {
    if let Value::Number(number) = value
        && number.is_f64()
        && let Some(float) = number.as_f64()
        && float.abs() < 9_007_199_254_740_992.0
    {
        *value = Value::from(float as i64);
    }
}

fn check_object(object: &Object, value: &mut Value) -> Checked {
    for property in &object.properties {
        match value.get_mut(&property.name) {
            Some(inner) => {
                check(&property.node, inner).map_err(|failure| {
                    failure.below(&property.name, &format!("property \"{}\" validation failed: ", property.name))
                })?;
                if let Some(dependency) = &property.dependency {
                    check_dependency(&property.name, dependency, value)?;
                }
            }
            None if property.required => return Err(missing(&property.name)),
            None => {
                if let Some(default) = &property.default {
                    insert(value, &property.name, default.clone());
                }
            }
        }
    }
    for name in &object.required {
        if value.get(name).is_none() {
            return Err(missing(name));
        }
    }
    for (name, dependency) in &object.dependencies {
        if value.get(name).is_some() {
            check_dependency(name, dependency, value)?;
        }
    }
    if let Value::Object(fields) = value {
        check_other_properties(object, fields)?;
    }
    let count = value.as_object().map_or(0, Map::len) as u64;
    if let Some(least) = object.at_least.filter(|least| count < *least) {
        return Err(Failure::new(format!("expect object to have at least {least} properties")));
    }
    if let Some(most) = object.at_most.filter(|most| count > *most) {
        return Err(Failure::new(format!("expect object to have at most {most} properties")));
    }
    Ok(())
}

fn missing(name: &str) -> Failure {
    Failure::new(format!("property \"{name}\" is required")).expected(name)
}

fn insert(value: &mut Value, name: &str, default: Value) {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    if let Value::Object(fields) = value {
        fields.insert(name.to_owned(), default);
    }
}

fn check_dependency(name: &str, dependency: &Dependency, value: &mut Value) -> Checked {
    match dependency {
        Dependency::Names(names) => match names.iter().find(|other| value.get(other.as_str()).is_none()) {
            Some(other) => {
                Err(Failure::new(format!("property \"{other}\" is required when \"{name}\" is set")).expected(other))
            }
            None => Ok(()),
        },
        Dependency::Schema(node) => check(node, value).map_err(|mut failure| {
            failure.message.insert_str(0, &format!("failed to validate dependent schema for \"{name}\": "));
            failure
        }),
    }
}

fn check_other_properties(object: &Object, fields: &mut Map<String, Value>) -> Checked {
    if object.patterns.is_empty() && object.additional.is_none() {
        return Ok(());
    }
    for (name, inner) in fields.iter_mut() {
        let mut known = object.names.contains(name);
        for (source, regex, node) in &object.patterns {
            if is_match(regex, name) {
                check(node, inner).map_err(|failure| {
                    failure.below(name, &format!("failed to validate {name} (matching \"{source}\"): "))
                })?;
                known = true;
            }
        }
        if known {
            continue;
        }
        match &object.additional {
            None => {}
            Some(Node::Never) => {
                let mut failure = Failure::new(format!("additional properties forbidden, found {name}"));
                let names = object.properties.iter().map(|property| property.name.as_str());
                failure.nearest = nearest(name, names).map(str::to_owned);
                failure.segments.push(name.clone());
                return Err(failure);
            }
            Some(node) => check(node, inner)
                .map_err(|failure| failure.below(name, &format!("failed to validate additional property {name}: ")))?,
        }
    }
    Ok(())
}

fn check_array(array: &Array, value: &mut Value) -> Checked {
    let mut none = Vec::new();
    let items = match value {
        Value::Array(items) => items,
        Value::Object(fields) if fields.is_empty() => &mut none,
        _ => return Ok(()),
    };
    let count = items.len() as u64;
    if let Some(least) = array.at_least.filter(|least| count < *least) {
        return Err(Failure::new(format!("expect array to have at least {least} items")));
    }
    if let Some(most) = array.at_most.filter(|most| count > *most) {
        return Err(Failure::new(format!("expect array to have at most {most} items")));
    }
    match &array.items {
        Items::Each(node) => {
            for (i, item) in items.iter_mut().enumerate() {
                check_item(node, i, item, "item")?;
            }
        }
        Items::Tuple { first, rest } => {
            for (i, (node, item)) in first.iter().zip(items.iter_mut()).enumerate() {
                check_item(node, i, item, "item")?;
            }
            for (i, item) in items.iter_mut().enumerate().skip(first.len()) {
                match rest {
                    None => break,
                    Some(Node::Never) => {
                        let mut failure = Failure::new("found unexpected extra items in array");
                        failure.segments.push(i.to_string());
                        return Err(failure);
                    }
                    Some(node) => check_item(node, i, item, "additional item")?,
                }
            }
        }
        Items::Unchecked | Items::True | Items::False => {}
    }
    if array.unique { check_unique(items) } else { Ok(()) }
}

fn check_item(node: &Node, i: usize, item: &mut Value, what: &str) -> Checked {
    check(node, item).map_err(|failure| failure.below(i.to_string(), &format!("failed to validate {what} {}: ", i + 1)))
}

/// Items are compared by their canonical text, so that long lists cost no quadratic time.
fn check_unique(items: &[Value]) -> Checked {
    let mut seen = std::collections::HashMap::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        if let Some(first) = seen.insert(canonical(item), i) {
            let message = format!("expected unique items but items {} and {} are equal", first + 1, i + 1);
            let mut failure = Failure::new(message);
            failure.segments.push(i.to_string());
            return Err(failure);
        }
    }
    Ok(())
}

fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), |float| float.to_string()),
        Value::Array(items) if !items.is_empty() => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(fields) if !fields.is_empty() => {
            let mut entries: Vec<String> = fields
                .iter()
                .map(|(name, inner)| format!("{}:{}", Value::from(name.as_str()), canonical(inner)))
                .collect();
            entries.sort_unstable();
            format!("{{{}}}", entries.join(","))
        }
        Value::Array(_) | Value::Object(_) => String::from("{}"),
        other => other.to_string(),
    }
}

fn equal(left: &Value, right: &Value) -> bool {
    canonical(left) == canonical(right)
}

fn check_text(text: &Text, string: &str) -> Checked {
    if text.at_least.is_some() || text.at_most.is_some() {
        let length = string.chars().count() as u64;
        if let Some(least) = text.at_least.filter(|least| length < *least) {
            let message = format!("string too short, expected at least {least}, got {length}");
            return Err(Failure::new(message).expected(format!("at least {least} characters")));
        }
        if let Some(most) = text.at_most.filter(|most| length > *most) {
            let message = format!("string too long, expected at most {most}, got {length}");
            return Err(Failure::new(message).expected(format!("at most {most} characters")));
        }
    }
    match &text.pattern {
        Some((source, regex)) if !is_match(regex, string) => {
            let message = format!("failed to match pattern {} with {}", lua::quoted(source), lua::quoted(string));
            Err(Failure::new(message).expected(source))
        }
        _ => Ok(()),
    }
}

fn check_number(rules: &Number, found: f64) -> Checked {
    let fail = |words: &str, bound: f64| {
        let wanted = format!("{words} {}", lua::number(bound));
        Err(Failure::new(format!("expected {} to be {wanted}", lua::number(found))).expected(wanted))
    };
    if let Some(bound) = rules.minimum.filter(|bound| found < *bound) {
        return fail("at least", bound);
    }
    if let Some(bound) = rules.exclusive_minimum.filter(|bound| found <= *bound) {
        return fail("greater than", bound);
    }
    if let Some(bound) = rules.maximum.filter(|bound| found > *bound) {
        return fail("at most", bound);
    }
    if let Some(bound) = rules.exclusive_maximum.filter(|bound| found >= *bound) {
        return fail("smaller than", bound);
    }
    if let Some(step) = rules.multiple_of {
        let steps = found / step;
        let whole = (steps + 0.5).floor();
        let exact = if step.fract() == 0.0 {
            found % step == 0.0
        } else {
            // the quotient of decimal fractions is rarely exact
            (steps - whole).abs() <= 1e-12 * whole.abs().max(1.0)
        };
        if !exact {
            return fail("a multiple of", step);
        }
    }
    Ok(())
}

fn check_allowed(allowed: &[Value], value: &Value) -> Checked {
    if allowed.iter().any(|other| other == value || equal(other, value)) {
        return Ok(());
    }
    let list: Vec<String> = allowed.iter().map(Value::to_string).collect();
    let mut failure = Failure::new("matches none of the enum values").expected(list.join(", "));
    if let Value::String(text) = value {
        failure.nearest = nearest(text, allowed.iter().filter_map(Value::as_str)).map(str::to_owned);
    }
    Err(failure)
}

fn check_combined(rules: &Rules, value: &mut Value) -> Checked {
    for (i, node) in rules.all_of.iter().enumerate() {
        check(node, value).map_err(|mut failure| {
            failure.message.insert_str(0, &format!("allOf {} failed: ", i + 1));
            failure
        })?;
    }
    if let Some(any_of) = &rules.any_of
        && !any_of.branches.iter().any(|node| matches(node, value))
    {
        return Err(Failure::new(any_of.message.clone()));
    }
    if let Some(branches) = &rules.one_of {
        let mut matched = None;
        for (i, node) in branches.iter().enumerate() {
            if !matches(node, value) {
                continue;
            }
            if let Some(first) = matched {
                return Err(Failure::new(format!(
                    "value should match only one schema, but matches both schemas {first} and {}",
                    i + 1
                )));
            }
            matched = Some(i + 1);
        }
        if matched.is_none() {
            return Err(Failure::new("value should match only one schema, but matches none"));
        }
    }
    if let Some(condition) = &rules.condition {
        let (branch, message) = if matches(&condition.test, value) {
            (&condition.then, "then clause did not match")
        } else {
            (&condition.otherwise, "else clause did not match")
        };
        if let Some(node) = branch
            && let Err(cause) = check(node, value)
        {
            // the wording hides the cause, the path need not
            return Err(Failure { message: String::from(message), expected: Some(cause.message), ..cause });
        }
    }
    match &rules.not {
        Some(node) if matches(node, value) => Err(Failure::new("value wasn't supposed to match schema")),
        _ => Ok(()),
    }
}

fn check_format(format: &Format, string: &str) -> Checked {
    let (name, valid) = match format {
        Format::Ipv4 => ("ipv4", string.parse::<std::net::Ipv4Addr>().is_ok()),
        Format::Ipv6 => ("ipv6", string.parse::<std::net::Ipv6Addr>().is_ok()),
        Format::Pattern(name, regex) => (*name, is_match(regex, string)),
    };
    if valid {
        return Ok(());
    }
    Err(Failure::new(format!("expect valid {name} format but got: {string}")).expected(name))
}

fn check_contains(node: &Node, value: &mut Value) -> Checked {
    if let Node::Any | Node::Never = node {
        let (valid, message) = match node {
            Node::Any => {
                (value.as_array().is_some_and(|items| !items.is_empty()), "check contains: expect array table")
            }
            _ => (!value.is_array() && !value.is_object(), "check contains: expect table"),
        };
        return if valid { Ok(()) } else { Err(Failure::new(message)) };
    }
    if is_empty_table(value) {
        return Err(Failure::new("check contains: empty array is invalid"));
    }
    let Value::Array(items) = value else { return Ok(()) };
    if items.iter_mut().any(|item| matches(node, item)) {
        return Ok(());
    }
    Err(Failure::new("failed to check contains"))
}
