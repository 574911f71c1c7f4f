//! A route's URI, compiled: where it is filed (exact, by prefix, as a regular expression) and what else it demands.
//!
//! The surprises are lua-resty-radixtree's: `*` and `:name` count as parameters only where they begin a segment, so
//! `/foo*` is a plain prefix and, with parameters on, `/a:b` is the plain prefix `/a`. Literal text between parameters
//! is compared as it is (the Lua library reads it as a regular expression, where `.` matches any character).
use sluice_expr::Regex;
use smallvec::SmallVec;

/// Names and values taken from the path.
pub type Params<'a> = SmallVec<[(&'a str, &'a str); 4]>;

/// The name under which the rest after a bare `*` is known.
pub const REST: &str = ":ext";

#[derive(Debug)]
pub(crate) struct Pattern {
    /// As configured.
    pub(crate) text: Box<str>,
    pub(crate) filing: Filing,
    demand: Demand,
}

/// How a request finds it.
#[derive(Debug, PartialEq)]
pub(crate) enum Filing {
    Exact,
    /// Under the first so many bytes of the text.
    Prefix(usize),
    Regex,
}

#[derive(Debug)]
enum Demand {
    /// Being found is enough.
    Nothing,
    /// The same; everything after the prefix is the parameter.
    Rest(Box<str>),
    Segments(Box<Segments>),
    Regex(Box<Expression>),
}

#[derive(Debug)]
struct Expression {
    regex: Regex,
    names: Box<[(usize, Box<str>)]>,
}

impl Pattern {
    /// `parameters`: whether `:name` is one. A `~` in front makes the rest a regular expression (not in APISIX, where no
    /// path can match it).
    pub(crate) fn compile(text: &str, parameters: bool) -> Result<Pattern, String> {
        if let Some(source) = text.strip_prefix('~') {
            let regex = Regex::new(source, "").map_err(|e| e.to_string())?;
            let names = regex.group_names().into_iter().map(|(i, n)| (i, n.into())).collect();
            return Ok(Pattern {
                text: text.into(),
                filing: Filing::Regex,
                demand: Demand::Regex(Box::new(Expression { regex, names })),
            });
        }
        let colon = if parameters { text.find(':') } else { None };
        let Some(prefix) = colon.or_else(|| text.find('*')) else {
            return Ok(Pattern { text: text.into(), filing: Filing::Exact, demand: Demand::Nothing });
        };
        let segments = Segments::compile(text);
        let demand = match &*segments.tails {
            [] if segments.head.iter().all(|t| matches!(t, Token::Literal(_))) => Demand::Nothing,
            [(name, rest)]
                if rest.is_empty() && matches!(&*segments.head, [Token::Literal(l)] if l.len() == prefix) =>
            {
                Demand::Rest(name.clone())
            }
            [(name, rest)] if rest.is_empty() && segments.head.is_empty() => Demand::Rest(name.clone()),
            _ => Demand::Segments(Box::new(segments)),
        };
        Ok(Pattern { text: text.into(), filing: Filing::Prefix(prefix), demand })
    }

    /// What the prefix tree files it under.
    pub(crate) fn prefix(&self) -> &str {
        match self.filing {
            Filing::Prefix(len) => self.text.get(..len).unwrap_or(""),
            _ => "",
        }
    }

    /// Whether being found is all it takes.
    pub(crate) fn is_direct(&self) -> bool {
        matches!(self.demand, Demand::Nothing | Demand::Rest(_))
    }

    /// Whether `path`, by which it was found, also meets the rest of the demand.
    pub(crate) fn matches(&self, path: &str) -> bool {
        match &self.demand {
            Demand::Nothing | Demand::Rest(_) => true,
            Demand::Segments(segments) => segments.matches(path),
            Demand::Regex(e) => e.regex.is_match(path.as_bytes()),
        }
    }

    /// The parameters of a path that matches.
    pub(crate) fn params<'a>(&'a self, path: &'a str) -> Params<'a> {
        let mut params = Params::new();
        match &self.demand {
            Demand::Nothing => {}
            Demand::Rest(name) => params.push((&**name, path.get(self.prefix().len()..).unwrap_or(""))),
            Demand::Segments(segments) => segments.params(path, &mut params),
            Demand::Regex(e) if e.names.is_empty() => {}
            Demand::Regex(e) => {
                let found = e.regex.captures(path.as_bytes()).unwrap_or_default();
                params.extend(e.names.iter().filter_map(|(i, name)| {
                    let (from, to) = found.get(*i).copied().flatten()?;
                    Some((&**name, path.get(from..to)?))
                }));
            }
        }
        params
    }
}

#[derive(Debug)]
enum Token {
    Literal(Box<str>),
    /// One segment that is not empty.
    Segment(Box<str>),
}

/// The name of a `*`, and what follows it.
type Tail = (Box<str>, Box<[Token]>);

/// Where tails start and end, the last one first.
type Spans = SmallVec<[(usize, usize); 4]>;

/// Literals and single segments, then for each `*` its tail.
#[derive(Debug)]
struct Segments {
    head: Box<[Token]>,
    tails: Box<[Tail]>,
}

impl Segments {
    fn compile(text: &str) -> Segments {
        let mut groups: Vec<(Box<str>, Vec<Token>)> = vec![("".into(), Vec::new())];
        let mut literal = String::new();
        fn flush(groups: &mut [(Box<str>, Vec<Token>)], literal: &mut String) {
            if let Some((_, tokens)) = groups.last_mut().filter(|_| !literal.is_empty()) {
                tokens.push(Token::Literal(std::mem::take(literal).into()));
            }
        }
        for (i, item) in text.split('/').enumerate() {
            if i > 0 {
                literal.push('/');
            }
            if let Some(name) = item.strip_prefix(':') {
                flush(&mut groups, &mut literal);
                if let Some((_, tokens)) = groups.last_mut() {
                    tokens.push(Token::Segment(name.into()));
                }
            } else if let Some(name) = item.strip_prefix('*') {
                flush(&mut groups, &mut literal);
                groups.push((if name.is_empty() { REST } else { name }.into(), Vec::new()));
            } else {
                literal.push_str(item);
            }
        }
        flush(&mut groups, &mut literal);
        let mut groups = groups.into_iter().map(|(name, tokens)| (name, tokens.into_boxed_slice()));
        let head = groups.next().map(|(_, tokens)| tokens).unwrap_or_default();
        Segments { head, tails: groups.collect() }
    }

    /// Where the head ends, and the tails. Every tail is as far right as
    /// it can be, which makes every `*` from the left as long as it can be, as greedy matching does.
    fn locate(&self, path: &str) -> Option<(usize, Spans)> {
        let head_end = run(&self.head, path, 0)?;
        let mut spans = Spans::new();
        if self.tails.is_empty() {
            return (head_end == path.len()).then_some((head_end, spans));
        }
        let mut limit = path.len();
        for (i, (_, tokens)) in self.tails.iter().rev().enumerate() {
            let (start, end) = if tokens.is_empty() {
                (limit, limit)
            } else {
                // What follows a `*` begins with `/`.
                let mut starts = path
                    .as_bytes()
                    .iter()
                    .enumerate()
                    .take(limit)
                    .skip(head_end)
                    .rev()
                    .filter(|(_, b)| **b == b'/')
                    .map(|(at, _)| at);
                starts.find_map(|at| {
                    run(tokens, path, at)
                        .filter(|end| if i == 0 { *end == path.len() } else { *end <= limit })
                        .map(|end| (at, end))
                })?
            };
            spans.push((start, end));
            limit = start;
        }
        (limit >= head_end).then_some((head_end, spans))
    }

    fn matches(&self, path: &str) -> bool {
        self.locate(path).is_some()
    }

    fn params<'a>(&'a self, path: &'a str, params: &mut Params<'a>) {
        let Some((mut at, spans)) = self.locate(path) else { return };
        take(&self.head, path, 0, params);
        for ((name, tokens), (start, end)) in self.tails.iter().zip(spans.iter().rev()) {
            params.push((name, path.get(at..*start).unwrap_or("")));
            take(tokens, path, *start, params);
            at = *end;
        }
    }
}

/// Matches `tokens` from `at`; where they end.
fn run(tokens: &[Token], path: &str, at: usize) -> Option<usize> {
    let mut at = at;
    for token in tokens {
        let rest = path.get(at..)?;
        at += match token {
            Token::Literal(text) => rest.starts_with(&**text).then_some(text.len())?,
            Token::Segment(_) => Some(rest.find('/').unwrap_or(rest.len())).filter(|len| *len > 0)?,
        };
    }
    Some(at)
}

fn take<'a>(tokens: &'a [Token], path: &'a str, at: usize, params: &mut Params<'a>) {
    let mut at = at;
    for (i, token) in tokens.iter().enumerate() {
        let Some(end) = run(tokens.get(i..=i).unwrap_or_default(), path, at) else { return };
        if let Token::Segment(name) = token {
            params.push((name, path.get(at..end).unwrap_or("")));
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, parameters: bool, path: &str) -> Option<Vec<(String, String)>> {
        let p = Pattern::compile(text, parameters).unwrap();
        let found = match p.filing {
            Filing::Exact => p.text.as_ref() == path,
            Filing::Prefix(_) => path.starts_with(p.prefix()),
            Filing::Regex => true,
        };
        (found && p.matches(path))
            .then(|| p.params(path).iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    fn params(list: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        Some(list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn as_the_lua_library() {
        for (text, with, path, want) in [
            ("/a", false, "/a", params(&[])),
            ("/a/*", false, "/a/b/c", params(&[(REST, "b/c")])),
            ("/a/*", false, "/a/", params(&[(REST, "")])),
            ("/a/*", false, "/a", None),
            ("/a*", false, "/abc/d", params(&[])),
            ("*", false, "/abc", params(&[(REST, "/abc")])),
            ("/a/*name", false, "/a/x/y", params(&[("name", "x/y")])),
            ("/a/:id", false, "/a/1", None),
            ("/a/:id", false, "/a/:id", params(&[])),
            ("/a/:id/*", false, "/a/:id/x", params(&[("id", ":id"), (REST, "x")])),
            ("/a/:id", true, "/a/1", params(&[("id", "1")])),
            ("/a/:id", true, "/a/", None),
            ("/a/:id", true, "/a/1/", None),
            ("/a/:id/", true, "/a/1/", params(&[("id", "1")])),
            ("/a/:id/c/:x", true, "/a/1/c/2", params(&[("id", "1"), ("x", "2")])),
            ("/a/:id/c/*", true, "/a/1/c/", params(&[("id", "1"), (REST, "")])),
            ("/a/:id/c/*", true, "/a/1/d/", None),
            ("/a:b", true, "/axyz", params(&[])),
            ("/a/*/b", false, "/a/1/b/2/b", params(&[(REST, "1/b/2")])),
            ("/a/*/b", false, "/a/1/c", None),
            ("/a/*x/b/*y/c", false, "/a/1/b/2/b/3/c", params(&[("x", "1/b/2"), ("y", "3")])),
            // The first `:` ends the prefix, so a `*` before it is literal text in the tree.
            ("/a/*x/:s/b", true, "/a/1/2/3/b", None),
            ("/a/:q/*x/b/:s/c", true, "/a/0/1/2/b/3/c", params(&[("q", "0"), ("x", "1/2"), ("s", "3")])),
            ("~^/v(?<n>[0-9]+)/", false, "/v12/x", params(&[("n", "12")])),
            ("~^/v[0-9]$", false, "/vx", None),
        ] {
            assert_eq!(check(text, with, path), want, "{text} {path}");
        }
        assert!(Pattern::compile("~(", false).is_err());
    }
}
