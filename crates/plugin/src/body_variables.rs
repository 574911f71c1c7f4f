//! Variables that read the request's body: `post_arg.PATH` (JSON, urlencoded and multipart bodies) and `graphql_*`
//! (apisix/core/ctx.lua, apisix/core/request.lua).
use crate::context::Context;
use serde_json::Value as Json;
use sluice_expr::Value;
use sluice_http::{Known, target};

/// `post_arg.a.b`: walks objects of a JSON body; for forms, the field of that name. A path with `[`, `*` or `..` is a
/// JSONPath of which object members, indexes, wildcards and recursive descent are understood.
pub fn post_arg(cx: &Context, path: &str) -> Option<Value<'static>> {
    let body = cx.request_body.as_deref()?;
    if body.len() > cx.parsed_bodies.post_args {
        return None;
    }
    let kind = cx.request.headers.known(Known::ContentType).unwrap_or_default();
    let kind = std::str::from_utf8(kind).ok()?;
    if kind.starts_with("application/x-www-form-urlencoded") {
        let (_, value) = target::args(body).find(|(k, _)| k.as_ref() == path.as_bytes())?;
        return Some(Value::owned(value.into_owned()));
    }
    if kind.starts_with("multipart/form-data") {
        let boundary = kind.split(';').find_map(|p| p.trim().strip_prefix("boundary="))?.trim_matches('"');
        return multipart_field(body, boundary, path).map(Value::owned);
    }
    if !kind.starts_with("application/json") {
        return None;
    }
    let json: Json = serde_json::from_slice(body).ok()?;
    if path.contains(['[', '*']) || path.contains("..") {
        let mut found = vec![&json];
        for step in steps(path)? {
            found = found.into_iter().flat_map(|v| step.apply(v)).collect();
        }
        return if found.is_empty() {
            None
        } else {
            Some(Value::List(found.into_iter().filter_map(convert).collect()))
        };
    }
    let found = path.split('.').try_fold(&json, |v, part| v.as_object()?.get(part))?;
    convert(found)
}

fn convert(json: &Json) -> Option<Value<'static>> {
    Some(match json {
        Json::Null => return None,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => Value::Number(n.as_f64()?),
        Json::String(s) => Value::owned(s.clone()),
        Json::Array(items) => Value::List(items.iter().filter_map(convert).collect()),
        Json::Object(_) => Value::owned(json.to_string()),
    })
}

enum Step<'a> {
    Member(&'a str),
    Index(usize),
    Wildcard,
    Descend(&'a str),
}

impl Step<'_> {
    fn apply<'v>(&self, value: &'v Json) -> Vec<&'v Json> {
        match (self, value) {
            (Step::Member(name), Json::Object(o)) => o.get(*name).into_iter().collect(),
            (Step::Index(i), Json::Array(a)) => a.get(*i).into_iter().collect(),
            (Step::Wildcard, Json::Array(a)) => a.iter().collect(),
            (Step::Wildcard, Json::Object(o)) => o.values().collect(),
            (Step::Descend(name), v) => {
                let mut found = Vec::new();
                descend(v, name, &mut found, 0);
                found
            }
            _ => Vec::new(),
        }
    }
}

fn descend<'v>(value: &'v Json, name: &str, found: &mut Vec<&'v Json>, depth: usize) {
    // serde_json refuses deeper documents, so that this bound is never the first.
    if depth > 128 {
        return;
    }
    match value {
        Json::Object(o) => {
            found.extend(o.get(name));
            o.values().for_each(|v| descend(v, name, found, depth + 1));
        }
        Json::Array(a) => a.iter().for_each(|v| descend(v, name, found, depth + 1)),
        _ => {}
    }
}

fn steps(path: &str) -> Option<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (index, after) = inner.split_once(']')?;
            let quoted = index.trim_matches(|c| c == '\'' || c == '"');
            steps.push(match (index, index.parse()) {
                ("*", _) => Step::Wildcard,
                (_, Ok(i)) => Step::Index(i),
                _ => Step::Member(quoted),
            });
            rest = after;
            continue;
        }
        let descend = rest.starts_with("..");
        rest = rest.trim_start_matches('.');
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        match (name, descend) {
            ("", _) => {}
            ("*", _) => steps.push(Step::Wildcard),
            (name, true) => steps.push(Step::Descend(name)),
            (name, false) => steps.push(Step::Member(name)),
        }
        rest = after;
    }
    Some(steps)
}

/// The first part of this name (RFC 7578).
fn multipart_field(body: &[u8], boundary: &str, name: &str) -> Option<Vec<u8>> {
    let delimiter = format!("--{boundary}");
    let finder = memchr::memmem::Finder::new(delimiter.as_bytes());
    let starts: Vec<usize> = finder.find_iter(body).collect();
    for pair in starts.windows(2) {
        let [from, to] = pair else { continue };
        let part = body.get(from + delimiter.len()..*to)?;
        let (head, value) = match memchr::memmem::find(part, b"\r\n\r\n") {
            Some(split) => (part.get(..split), part.get(split + 4..)),
            // Lines may end without a carriage return, as APISIX's parser allows.
            None => match memchr::memmem::find(part, b"\n\n") {
                Some(split) => (part.get(..split), part.get(split + 2..)),
                None => continue,
            },
        };
        let head = String::from_utf8_lossy(head.unwrap_or_default());
        let named = head.lines().filter(|l| l.to_ascii_lowercase().starts_with("content-disposition:")).any(|line| {
            line.split(';').any(|p| p.trim().strip_prefix("name=").is_some_and(|v| v.trim_matches('"') == name))
        });
        if named {
            let value = value.unwrap_or_default();
            let value = value.strip_suffix(b"\n").unwrap_or(value);
            return Some(value.strip_suffix(b"\r").unwrap_or(value).to_vec());
        }
    }
    None
}

/// `graphql_operation`, `graphql_name`, `graphql_root_fields` of a GraphQL request (GET `query=`; POST: JSON by exactly that
/// type, else the body itself).
pub fn graphql(cx: &Context, name: &str) -> Option<Value<'static>> {
    let query = graphql_text(cx)?;
    let document = crate::graphql::parse(&query)?;
    match name {
        "operation" => Some(Value::str(document.operation)),
        "name" => Some(Value::owned(document.name)),
        "root_fields" => Some(Value::List(document.root_fields.into_iter().map(Value::owned).collect())),
        _ => None,
    }
}

fn graphql_text(cx: &Context) -> Option<String> {
    if cx.request.method_text() == "GET" {
        return cx.request.arg("query").map(|q| String::from_utf8_lossy(&q).into_owned());
    }
    let body = cx.request_body.as_deref().filter(|body| body.len() <= cx.parsed_bodies.graphql)?;
    if cx.request.headers.known(Known::ContentType) == Some(b"application/json") {
        let json: Json = serde_json::from_slice(body).ok()?;
        return json.get("query")?.as_str().map(str::to_string);
    }
    std::str::from_utf8(body).ok().map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_body(kind: &str, body: &str) -> Context {
        let mut cx = Context::for_tests("POST", "/");
        cx.request.headers.set("Content-Type", kind);
        cx.request_body = Some(body.as_bytes().to_vec());
        cx
    }

    #[test]
    fn json_paths() {
        let cx = with_body("application/json", r#"{"a":{"b":"x","n":3},"l":[{"t":"p"},{"t":"q"}],"on":true}"#);
        assert_eq!(post_arg(&cx, "a.b"), Some(Value::str("x")));
        assert_eq!(post_arg(&cx, "a.n"), Some(Value::Number(3.0)));
        assert_eq!(post_arg(&cx, "on"), Some(Value::Bool(true)));
        assert_eq!(post_arg(&cx, "a.c"), None);
        let both = Some(Value::List(vec![Value::str("p"), Value::str("q")]));
        assert_eq!(post_arg(&cx, "l[*].t"), both);
        assert_eq!(post_arg(&cx, "..t"), both);
        assert_eq!(post_arg(&cx, "l[1].t"), Some(Value::List(vec![Value::str("q")])));
    }

    #[test]
    fn forms() {
        let cx = with_body("application/x-www-form-urlencoded", "a=1&b=%20");
        assert_eq!(post_arg(&cx, "b"), Some(Value::str(" ")));
        let body = "--X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--X\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\ntwo\r\n--X--\r\n";
        let cx = with_body("multipart/form-data; boundary=X", body);
        assert_eq!(post_arg(&cx, "b"), Some(Value::str("two")));
        assert_eq!(post_arg(&cx, "c"), None);
        let bare = "--X\nContent-Disposition: form-data; name=\"a\"\n\n1\n2\n--X--";
        let cx = with_body("multipart/form-data; boundary=X", bare);
        assert_eq!(post_arg(&cx, "a"), Some(Value::str("1\n2")));
    }

    #[test]
    fn graphql_variables() {
        let cx = with_body("application/json", r#"{"query":"query getRepo { owner { name } repo { id } }"}"#);
        assert_eq!(graphql(&cx, "operation"), Some(Value::str("query")));
        assert_eq!(graphql(&cx, "name"), Some(Value::str("getRepo")));
        assert_eq!(graphql(&cx, "root_fields"), Some(Value::List(vec![Value::str("owner"), Value::str("repo")])));
    }
}
