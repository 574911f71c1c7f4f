//! JSONPath for picking values out of a user's description: names, wildcards, indexes, slices, unions and recursive
//! descent. The leading `$` may be missing (`groups` is `$.groups`). Filters and scripts (`?(…)`, `(…)`) are refused.
use serde_json::Value;

/// A compiled path.
#[derive(Debug)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    /// `..`: applied to the value and to all below it.
    descend: bool,
    selectors: Vec<Selector>,
}

#[derive(Debug)]
enum Selector {
    All,
    Name(String),
    Index(i64),
    /// From, to, step.
    Slice(Option<i64>, Option<i64>, usize),
}

/// What is wrong with a path, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at character {at} of {path}")]
pub struct PathError {
    what: &'static str,
    at: usize,
    path: String,
}

impl JsonPath {
    /// Compiles a path.
    pub fn parse(path: &str) -> Result<JsonPath, PathError> {
        let error = |what, rest: &str| PathError { what, at: path.len() - rest.len() + 1, path: path.to_string() };
        let mut steps = Vec::new();
        let mut rest = path.trim();
        match rest.strip_prefix('$') {
            Some(after) => rest = after,
            None => {
                let (name, after) = name(rest).ok_or_else(|| error("expected a name", rest))?;
                steps.push(Step { descend: false, selectors: vec![name] });
                rest = after;
            }
        }
        while !rest.is_empty() {
            let (descend, after) = match (rest.strip_prefix(".."), rest.strip_prefix('.')) {
                (Some(after), _) => (true, after),
                (None, Some(after)) => (false, after),
                (None, None) if rest.starts_with('[') => (false, rest),
                _ => return Err(error("expected '.' or '['", rest)),
            };
            let (selectors, after) = match after.strip_prefix('[') {
                Some(inside) => union(inside).map_err(|at| error("expected a name, an index, a slice or ']'", at))?,
                None => {
                    let (selector, after) = name(after).ok_or_else(|| error("expected a name", after))?;
                    (vec![selector], after)
                }
            };
            steps.push(Step { descend, selectors });
            rest = after;
        }
        Ok(JsonPath { steps })
    }

    /// All values that the path leads to, in document order of each step.
    pub fn query<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.steps {
            let mut next = Vec::new();
            for value in found {
                step.apply(value, &mut next);
            }
            found = next;
        }
        found
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value, out: &mut Vec<&'a Value>) {
        // The pile instead of recursion: a document's depth costs no stack.
        let mut pile = vec![value];
        while let Some(value) = pile.pop() {
            for selector in &self.selectors {
                selector.select(value, out);
            }
            if self.descend {
                match value {
                    Value::Array(items) => pile.extend(items.iter().rev()),
                    Value::Object(fields) => pile.extend(fields.values().rev()),
                    _ => {}
                }
            }
        }
    }
}

impl Selector {
    fn select<'a>(&self, value: &'a Value, out: &mut Vec<&'a Value>) {
        match (self, value) {
            (Selector::All, Value::Array(items)) => out.extend(items),
            (Selector::All, Value::Object(fields)) => out.extend(fields.values()),
            (Selector::Name(name), Value::Object(fields)) => out.extend(fields.get(name)),
            (Selector::Index(i), Value::Array(items)) => out.extend(place(*i, items.len()).and_then(|i| items.get(i))),
            (Selector::Slice(from, to, step), Value::Array(items)) => {
                let bound = |i: i64| place(i, items.len()).unwrap_or(0).min(items.len());
                let (from, to) = (from.map_or(0, bound), to.map_or(items.len(), bound));
                out.extend(items.get(from..to).unwrap_or_default().iter().step_by(*step));
            }
            _ => {}
        }
    }
}

/// A negative index counts from the end.
fn place(index: i64, len: usize) -> Option<usize> {
    match usize::try_from(index) {
        Ok(i) => Some(i),
        Err(_) => len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?),
    }
}

fn name(text: &str) -> Option<(Selector, &str)> {
    if let Some(after) = text.strip_prefix('*') {
        return Some((Selector::All, after));
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).unwrap_or(text.len());
    let (name, after) = text.split_at_checked(end)?;
    (!name.is_empty()).then(|| (Selector::Name(name.to_string()), after))
}

/// What stands behind `[`, up to and with `]`; the error is the text that was not understood.
fn union(mut rest: &str) -> Result<(Vec<Selector>, &str), &str> {
    let mut selectors = Vec::new();
    loop {
        let (selector, after) = member(rest.trim_start())?;
        selectors.push(selector);
        let after = after.trim_start();
        match (after.strip_prefix(','), after.strip_prefix(']')) {
            (Some(more), _) => rest = more,
            (_, Some(end)) => return Ok((selectors, end)),
            _ => return Err(after),
        }
    }
}

fn member(text: &str) -> Result<(Selector, &str), &str> {
    if let Some(after) = text.strip_prefix('*') {
        return Ok((Selector::All, after));
    }
    for quote in ['\'', '"'] {
        if let Some(inside) = text.strip_prefix(quote) {
            let (name, after) = inside.split_once(quote).ok_or(text)?;
            return Ok((Selector::Name(name.to_string()), after));
        }
    }
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '-' || c == ':')).unwrap_or(text.len());
    let (numbers, after) = text.split_at_checked(end).ok_or(text)?;
    let number = |part: &str| match part {
        "" => Ok(None),
        digits => digits.parse::<i64>().map(Some).map_err(|_| text),
    };
    let mut parts = numbers.split(':');
    let selector = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(index), None, ..) => Selector::Index(number(index)?.ok_or(text)?),
        (Some(from), Some(to), step, None) => {
            let step = number(step.unwrap_or(""))?.unwrap_or(1);
            let step = usize::try_from(step).ok().filter(|s| *s > 0).ok_or(text)?;
            Selector::Slice(number(from)?, number(to)?, step)
        }
        _ => return Err(text),
    };
    Ok((selector, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn found(path: &str) -> Vec<Value> {
        let document = json!({
            "groups": ["a", "b", "c"],
            "orgs": {"apache": {"team": "infra"}, "api7": {"team": ["cloud"]}},
            "odd name": 1
        });
        JsonPath::parse(path).unwrap().query(&document).into_iter().cloned().collect()
    }

    #[test]
    fn paths_lead_to_values() {
        let cases = [
            ("groups", json!([["a", "b", "c"]])),
            ("$.groups", json!([["a", "b", "c"]])),
            ("$.groups[*]", json!(["a", "b", "c"])),
            ("$.groups[1]", json!(["b"])),
            ("$.groups[-1]", json!(["c"])),
            ("$.groups[0,2]", json!(["a", "c"])),
            ("$.groups[1:]", json!(["b", "c"])),
            ("$.groups[:-1]", json!(["a", "b"])),
            ("$.groups[::2]", json!(["a", "c"])),
            ("$..team", json!(["infra", ["cloud"]])),
            ("$.orgs..team", json!(["infra", ["cloud"]])),
            ("$.orgs.*.team", json!(["infra", ["cloud"]])),
            ("orgs.api7['team'][0]", json!(["cloud"])),
            ("$[\"odd name\"]", json!([1])),
            ("$..[0]", json!(["a", "cloud"])),
            ("$.missing.deep", json!([])),
            ("$.groups[9]", json!([])),
        ];
        for (path, want) in cases {
            assert_eq!(Value::Array(found(path)), want, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for wrong in
            ["$..([invalid", "", "$.", "$..", "$[", "$[]", "$['a", "$a", "$[?(@.x)]", "$[1:2:0]", "a b", "$[1:2:3:4]"]
        {
            assert!(JsonPath::parse(wrong).is_err(), "{wrong}");
        }
        let error = JsonPath::parse("$..([invalid").unwrap_err();
        assert_eq!(error.to_string(), "expected a name at character 4 of $..([invalid");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn no_text_brings_it_down(text in "[$.\\[\\]*:,'a0-9é -]{0,20}") {
            if let Ok(path) = JsonPath::parse(&text) {
                let items = json!([[1, 2], {"a": [3]}]);
                prop_assert!(path.query(&items).len() < 10_000);
            }
        }
    }
}
