//! Environment variables in configuration: `${{VAR}}` and `${{VAR:=default}}` (apisix/cli/file.lua). The surprise: in
//! config.yaml and apisix.json a string is replaced after parsing, and one that then reads as a number or boolean
//! becomes one; in apisix.yaml the text is replaced before parsing, so that YAML's quotes decide.

use crate::position::{Children, Node, Position, join};
use serde_json::{Map, Number, Value};
use std::collections::HashMap;
use std::fmt;

/// Where variables come from: the process, or a fixed set.
#[derive(Clone, Debug)]
pub enum Environment {
    Process,
    Fixed(HashMap<String, String>),
}

/// Text after replacement, and how its offsets map to those of the original.
#[derive(Debug)]
pub struct Substitution {
    pub text: String,
    /// (start in the new text, start in the original, copied as it was), ascending.
    segments: Vec<(usize, usize, bool)>,
}

/// A variable that is not set and has no default.
#[derive(Clone, Debug, PartialEq)]
pub struct MissingVariable {
    pub name: String,
    /// Byte offset of its `${{` in the text.
    pub offset: usize,
}

impl fmt::Display for MissingVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the environment variable {} is not set: set it, or give a default with ${{{{{}:=value}}}}",
            self.name, self.name
        )
    }
}

impl Substitution {
    /// The offset in the original text of an offset in the new one; within a replaced part, that part's `${{`.
    pub fn original_offset(&self, offset: usize) -> usize {
        let index = self.segments.partition_point(|(start, _, _)| *start <= offset);
        match index.checked_sub(1).and_then(|index| self.segments.get(index)) {
            Some((start, original, true)) => original + (offset - start),
            Some((_, original, false)) => *original,
            None => offset,
        }
    }
}

impl Environment {
    /// A fixed set, for tests and dry runs.
    pub fn fixed<const N: usize>(variables: [(&str, &str); N]) -> Environment {
        Environment::Fixed(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// A variable; absent when it is not set or not UTF-8.
    pub fn get(&self, name: &str) -> Option<String> {
        match self {
            Environment::Process if name.is_empty() || name.contains(['=', '\0']) => None,
            Environment::Process => std::env::var(name).ok(),
            Environment::Fixed(variables) => variables.get(name).cloned(),
        }
    }

    /// Replaces every variable of a text; `None` when there is none in it.
    pub fn substitute(&self, text: &str) -> Result<Option<Substitution>, Vec<MissingVariable>> {
        let mut missing = Vec::new();
        let mut out = Substitution { text: String::new(), segments: Vec::new() };
        let mut copied = 0;
        let mut at = 0;
        while let Some(found) = text.get(at..).and_then(|rest| rest.find("${{")) {
            let start = at + found;
            let Some((expression, end)) = expression(text, start) else {
                at = start + 1;
                continue;
            };
            let (name, default) = match expression.split_once(":=") {
                Some((name, default)) => (name.trim(), Some(default.trim())),
                None => (expression, None),
            };
            out.segments.push((out.text.len(), copied, true));
            out.text.push_str(text.get(copied..start).unwrap_or_default());
            out.segments.push((out.text.len(), start, false));
            match self.get(name).or_else(|| default.map(str::to_owned)) {
                Some(value) => out.text.push_str(&value),
                None => missing.push(MissingVariable { name: name.to_owned(), offset: start }),
            }
            copied = end;
            at = end;
        }
        if !missing.is_empty() {
            return Err(missing);
        }
        if copied == 0 {
            return Ok(None);
        }
        out.segments.push((out.text.len(), copied, true));
        out.text.push_str(text.get(copied..).unwrap_or_default());
        Ok(Some(out))
    }

    /// Replaces variables in all strings and keys of a value, re-typing strings that become numbers or booleans.
    pub(crate) fn resolve(
        &self,
        value: &mut Value,
        node: &mut Node,
        path: &str,
        report: &mut dyn FnMut(Position, &str, String),
    ) {
        match value {
            Value::String(text) => match self.substitute(text) {
                Ok(None) => {}
                Ok(Some(new)) => *value = retype(new.text),
                Err(missing) => missing.iter().for_each(|name| report(node.position, path, name.to_string())),
            },
            Value::Array(values) => {
                let Children::Items(nodes) = &mut node.children else { return };
                for (index, (value, node)) in values.iter_mut().zip(nodes).enumerate() {
                    self.resolve(value, node, &format!("{path}[{index}]"), report);
                }
            }
            Value::Object(map) => {
                let Children::Entries(nodes) = &mut node.children else { return };
                let mut renamed = false;
                for (key, node) in nodes.iter_mut() {
                    if let Some(value) = map.get_mut(&**key) {
                        self.resolve(value, node, &join(path, key), report);
                    }
                    renamed |= key.contains("${{");
                }
                if renamed {
                    *map = self.rename(std::mem::take(map), nodes, path, report);
                }
            }
            _ => {}
        }
    }

    fn rename(
        &self,
        map: Map<String, Value>,
        nodes: &mut [(Box<str>, Node)],
        path: &str,
        report: &mut dyn FnMut(Position, &str, String),
    ) -> Map<String, Value> {
        let mut out = Map::new();
        for (key, value) in map {
            let new = match self.substitute(&key) {
                Ok(None) => key,
                Ok(Some(new)) => {
                    for (name, _) in nodes.iter_mut().filter(|(name, _)| **name == *key) {
                        *name = new.text.as_str().into();
                    }
                    new.text
                }
                Err(missing) => {
                    let position = nodes.iter().find(|(name, _)| **name == *key).map(|(_, node)| node.position);
                    missing.iter().for_each(|name| report(position.unwrap_or_default(), path, name.to_string()));
                    key
                }
            };
            out.insert(new, value);
        }
        out
    }
}

/// The inside of the `${{ … }}` that opens at `start`, without blanks around it, and where it ends. It must begin with a
/// letter, a digit or `_`; anything else is left as it is.
fn expression(text: &str, start: usize) -> Option<(&str, usize)> {
    let inside = text.get(start + 3..)?;
    let close = inside.find("}}")?;
    let expression = inside.get(..close)?.trim();
    let valid = expression.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    valid.then_some((expression, start + 3 + close + 2))
}

/// Lua's `tonumber` (decimal, fraction, exponent, hexadecimal) and the two booleans.
fn retype(text: String) -> Value {
    match text.as_str() {
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        _ => {}
    }
    let trimmed = text.trim();
    if let Ok(number) = trimmed.parse::<i64>() {
        return Value::Number(Number::from(number));
    }
    let (sign, digits) = match trimmed.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, trimmed),
    };
    if let Some(hexadecimal) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"))
        && hexadecimal.bytes().all(|b| b.is_ascii_hexdigit())
        && let Ok(number) = i64::from_str_radix(hexadecimal, 16)
    {
        return Value::Number(Number::from(sign * number));
    }
    let numeric = trimmed.bytes().any(|b| b.is_ascii_digit())
        && trimmed.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    match numeric.then(|| trimmed.parse::<f64>().ok()).flatten() {
        Some(number) if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 => {
            let number = number as i64;
            Value::Number(Number::from(number))
        }
        Some(number) => Number::from_f64(number).map_or(Value::String(text), Value::Number),
        None => Value::String(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn environment() -> Environment {
        Environment::fixed([("PORT", "9080"), ("HOST", "h"), ("ON", "true"), ("HEX", "0x10"), ("F", "1.5"), ("E", "")])
    }

    fn text(text: &str) -> String {
        match environment().substitute(text) {
            Ok(Some(new)) => new.text,
            Ok(None) => text.to_owned(),
            Err(missing) => format!("missing {}", missing[0].name),
        }
    }

    #[test]
    fn replaces_as_apisix_does() {
        for (before, after) in [
            ("a${{HOST}}b${{ PORT }}", "ahb9080"),
            ("${{NONE:=x y}}", "x y"),
            ("${{ NONE := x }}", "x"),
            ("${{HOST:=x}}", "h"),
            ("${{ HOST := x }}", "h"),
            ("${{NONE:=}}", ""),
            ("${{E:=x}}", ""),
            ("${{NONE}}", "missing NONE"),
            ("${{NONE-x}}", "missing NONE-x"),
            ("${{}} ${{ }} ${{-}} ${HOST} $HOST ${{HOST", "${{}} ${{ }} ${{-}} ${HOST} $HOST ${{HOST"),
            ("${{HOST}}}", "h}"),
        ] {
            assert_eq!(text(before), after, "{before}");
        }
    }

    #[test]
    fn offsets_lead_back_to_the_text_as_written() {
        let new = environment().substitute("x ${{PORT}} y").unwrap().unwrap();
        assert_eq!(new.text, "x 9080 y");
        assert_eq!(new.original_offset(0), 0);
        assert_eq!(new.original_offset(3), 2, "inside a value: its ${{{{");
        assert_eq!(new.original_offset(7), 12);
    }

    #[test]
    fn strings_become_numbers_and_booleans() {
        for (text, value) in [
            ("9080", json!(9080)),
            ("0x10", json!(16)),
            ("1.5", json!(1.5)),
            ("1e2", json!(100)),
            ("true", json!(true)),
            ("True", json!("True")),
            ("", json!("")),
            ("1.2.3", json!("1.2.3")),
            ("-", json!("-")),
        ] {
            assert_eq!(retype(text.to_owned()), value, "{text}");
        }
    }
}
