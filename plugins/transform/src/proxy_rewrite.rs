//! `proxy-rewrite` changes the request on its way to the upstream: path and query, host, method and header fields.
//!
//! Use it where the upstream serves an API under other paths than the gateway's clients see, or needs fields of its own.
//! `uri` (a template with variables) wins over `regex_uri` (pairs of pattern and replacement; the first pattern that
//! matches counts). The new path is percent-encoded; the client's query is kept behind the new target's own.
//!
//! Differences from APISIX:
//! - Text captured from the client's path that looks like a variable (`$http_…`) goes into header fields as it is; APISIX
//!   would resolve it.
//! - Spaces and control characters are encoded in the query too, and also with `use_real_request_uri_unsafe`, so that no
//!   request can write into the upstream's request line.
//! - `Content-Length` and `Transfer-Encoding` cannot be changed: they frame the message. `Host`, `Connection` and
//!   `Upgrade` have no effect here, as in APISIX; use `host`.
//!
//! Source: apisix/plugins/proxy-rewrite.lua.
use crate::uri_escape;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_expr::{Captures, Regex, Replacement, Template};
use sluice_http::target;
use sluice_model::secret::is_reference;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin};
use std::cell::RefCell;

pub(crate) mod headers;
#[cfg(test)]
mod tests;

use headers::HeaderEdits;
pub(crate) use headers::value_text;

#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// New path (and query) for the upstream; may hold variables.
    uri: Option<String>,
    /// New method for the upstream.
    method: Option<String>,
    /// Pairs of a regular expression on the client's path and its replacement.
    regex_uri: Option<Vec<String>>,
    /// New `Host` for the upstream, with port if need be.
    host: Option<String>,
    /// Header fields to set, or an object of `add`, `set` and `remove`.
    headers: Option<Map<String, Value>>,
    /// Send the target as the client sent it, not normalised.
    use_real_request_uri_unsafe: bool,
}

/// Where the new target comes from.
enum Source {
    /// The client's path.
    Client,
    /// A text without variables, already encoded.
    Constant(Vec<u8>),
    Template(Template),
    Regex(Box<[(Regex, Replacement)]>),
}

pub struct ProxyRewrite {
    source: Source,
    raw: bool,
    host: Option<Vec<u8>>,
    method: Option<Box<str>>,
    headers: HeaderEdits,
}

fn header_value_schema(list: bool) -> Value {
    let mut kinds = vec![json!({"type": "string"}), json!({"type": "number"})];
    if list {
        kinds.push(
            json!({"type": "array", "minItems": 1, "items": {"oneOf": [{"type": "string"}, {"type": "number"}]}}),
        );
    }
    json!({"type": "object", "minProperties": 1, "patternProperties": {"^[^:]+$": {"oneOf": kinds}}})
}

/// The two forms of `headers`.
pub(crate) fn header_forms() -> Value {
    json!([
        {
            "type": "object", "minProperties": 1, "additionalProperties": false,
            "properties": {
                "add": header_value_schema(true),
                "set": header_value_schema(true),
                "remove": {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "^[^:]+$"}}
            }
        },
        header_value_schema(false)
    ])
}

/// Compiles a pattern and its replacement; the error's wording is OpenResty's.
pub(crate) fn compile_pair(pattern: &str, replacement: &str) -> Result<(Regex, Replacement), String> {
    let regex = Regex::new(pattern, "jo").map_err(|e| e.0)?;
    let replacement =
        Replacement::compile(replacement).map_err(|e| format!("failed to compile the replacement template: {e}"))?;
    Ok((regex, replacement))
}

/// As [`compile_pair`] before secrets are known: what refers to one cannot be checked yet.
pub(crate) fn check_pair(pattern: &str, replacement: &str) -> Result<(), String> {
    if is_reference(pattern) {
        return Ok(());
    }
    compile_pair(pattern, if is_reference(replacement) { "" } else { replacement }).map(drop)
}

impl Define for ProxyRewrite {
    const INFO: Info = Info::new("proxy-rewrite", 1008, Phases::REWRITE);
    type Config = Config;

    fn schema() -> Value {
        json!({
            "type": "object",
            "minProperties": 1,
            "properties": {
                "uri": {
                    "description": "New path (and query) for the upstream; may hold variables.",
                    "type": "string", "minLength": 1, "maxLength": 4096, "pattern": "^\\/.*"
                },
                "method": {
                    "description": "New method for the upstream.",
                    "type": "string",
                    "enum": ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "MKCOL", "COPY", "MOVE", "PROPFIND", "LOCK", "UNLOCK", "PATCH", "TRACE"]
                },
                "regex_uri": {
                    "description": "Pairs of a regular expression on the client's path and its replacement. `uri` wins over it.",
                    "type": "array", "minItems": 2, "items": {"type": "string"}
                },
                "host": {
                    "description": "New `Host` for the upstream, with port if need be.",
                    "type": "string", "pattern": "^[0-9a-zA-Z-.]+(:\\d{1,5})?$"
                },
                "headers": {
                    "description": "Header fields to set, or an object of `add`, `set` and `remove`.",
                    "oneOf": header_forms()
                },
                "use_real_request_uri_unsafe": {
                    "description": "Send the target as the client sent it, not normalised. Unsafe: path checks are bypassed.",
                    "type": "boolean", "default": false
                }
            }
        })
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        let pairs = config.regex_uri.as_deref().unwrap_or_default();
        if !pairs.len().is_multiple_of(2) {
            return Err(BuildError::new("The length of regex_uri should be an even number"));
        }
        for pair in pairs.chunks_exact(2) {
            if let [pattern, replacement] = pair {
                check_pair(pattern, replacement)
                    .map_err(|e| BuildError(format!("invalid regex_uri({pattern}, {replacement}): {e}")))?;
            }
        }
        config.headers.as_ref().map_or(Ok(()), headers::check)
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let raw = config.use_real_request_uri_unsafe;
        let source = match (&config.uri, &config.regex_uri) {
            (Some(uri), _) => {
                let template = Template::compile(uri);
                match template.constant() {
                    Some(text) => Source::Constant(encode(text.as_bytes(), raw, true)),
                    None => Source::Template(template),
                }
            }
            (None, Some(pairs)) => {
                let compiled = pairs.chunks_exact(2).filter_map(|pair| match pair {
                    [pattern, replacement] => Some(compile_pair(pattern, replacement)),
                    _ => None,
                });
                Source::Regex(compiled.collect::<Result<_, _>>().map_err(BuildError)?)
            }
            (None, None) => Source::Client,
        };
        Ok(ProxyRewrite {
            source,
            raw,
            host: config.host.map(String::into_bytes),
            method: config.method.map(Into::into),
            headers: config.headers.as_ref().map(HeaderEdits::compile).unwrap_or_default(),
        })
    }
}

/// The target in the form in which it is sent. `separator`: the first `?` begins the query; otherwise it is a part of the
/// path, which came in as `%3F`.
pub(crate) fn encode(text: &[u8], raw: bool, separator: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 64);
    let at = if separator { memchr(text) } else { None };
    match at.and_then(|at| text.split_at_checked(at)) {
        _ if raw => uri_escape::target(text, &mut out),
        Some((path, query)) => {
            uri_escape::path(path, &mut out);
            uri_escape::target(query, &mut out);
        }
        None => uri_escape::path(text, &mut out),
    }
    out
}

fn memchr(text: &[u8]) -> Option<usize> {
    text.iter().position(|b| *b == b'?')
}

/// Values inside a template cannot begin the query.
pub(crate) fn escape_separator(value: &[u8], out: &mut Vec<u8>) {
    for &b in value {
        if b == b'?' { out.extend_from_slice(b"%3F") } else { out.push(b) }
    }
}

thread_local! {
    /// Kept between requests, as making one allocates.
    static CAPTURES: RefCell<Captures> = RefCell::default();
}

impl Plugin for ProxyRewrite {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if let Some(host) = &self.host {
            cx.upstream.host = Some(host.clone());
        }
        match &self.source {
            Source::Regex(pairs) => {
                let mut captures = CAPTURES.take();
                let subject = self.rewrite_by_regex(pairs, cx, &mut captures);
                let found = subject.as_deref().map(|subject| (subject, &captures));
                self.headers.apply(cx, found);
                CAPTURES.set(captures);
            }
            _ => {
                self.rewrite_target(cx);
                self.headers.apply(cx, None);
            }
        }
        if let Some(method) = &self.method {
            cx.set_method(method);
        }
        Flow::Next
    }
}

impl ProxyRewrite {
    fn rewrite_target(&self, cx: &mut Context) {
        let mut new = match &self.source {
            Source::Constant(encoded) => {
                let mut new = Vec::with_capacity(encoded.len() + 1 + cx.request.query().map_or(0, str::len));
                new.extend_from_slice(encoded);
                new
            }
            Source::Template(template) => {
                let mut text = Vec::new();
                template.render_escaped(cx, "", &escape_separator, &mut text);
                encode(&text, self.raw, true)
            }
            // The target as it was sent; nothing has to be encoded again.
            _ if self.raw || is_untouched(cx) => {
                cx.upstream.target = self.raw.then(|| cx.request.target().as_bytes().to_vec());
                return;
            }
            _ => encode(cx.request.path_bytes(), false, false),
        };
        let query = if self.raw {
            target::split(cx.request.target().as_bytes()).1
        } else {
            cx.request.query().map(str::as_bytes)
        };
        append_query(&mut new, query, self.raw);
        cx.upstream.target = Some(new);
    }

    /// The subject that a pattern matched, for `captures`; `None` where none did.
    fn rewrite_by_regex(
        &self,
        pairs: &[(Regex, Replacement)],
        cx: &mut Context,
        captures: &mut Captures,
    ) -> Option<Vec<u8>> {
        let subject = if self.raw { cx.request.target().as_bytes() } else { cx.request.path_bytes() };
        let Some((_, replacement)) = pairs.iter().find(|(regex, _)| regex.captures_into(subject, captures)) else {
            self.rewrite_unmatched(cx);
            return None;
        };
        let (start, end) = captures.get(0).unwrap_or_default();
        let mut text = Vec::with_capacity(subject.len() + 64);
        text.extend_from_slice(subject.get(..start).unwrap_or_default());
        replacement.expand_into(subject, captures, &mut text);
        text.extend_from_slice(subject.get(end..).unwrap_or_default());
        let mut new = encode(&text, self.raw, memchr(subject).is_none());
        let subject = subject.to_vec();
        if !self.raw {
            append_query(&mut new, cx.request.query().map(str::as_bytes), false);
        }
        cx.upstream.target = Some(new);
        Some(subject)
    }

    fn rewrite_unmatched(&self, cx: &mut Context) {
        if self.raw {
            cx.upstream.target = Some(cx.request.target().as_bytes().to_vec());
        } else if is_untouched(cx) {
            cx.upstream.target = None;
        } else {
            let mut new = encode(cx.request.path_bytes(), false, false);
            append_query(&mut new, cx.request.query().map(str::as_bytes), false);
            cx.upstream.target = Some(new);
        }
    }
}

/// Whether path and query still are what the client sent, and need no encoding.
fn is_untouched(cx: &Context) -> bool {
    let (path, query) = target::split(cx.request.target().as_bytes());
    path == cx.request.path_bytes()
        && query == cx.request.query().map(str::as_bytes)
        && query != Some(b"")
        && uri_escape::is_plain(path)
}

/// Puts the client's query behind the target's own.
pub(crate) fn append_query(new: &mut Vec<u8>, query: Option<&[u8]>, even_empty: bool) {
    if let Some(query) = query.filter(|q| even_empty || !q.is_empty()) {
        new.push(if memchr(new).is_some() { b'&' } else { b'?' });
        new.extend_from_slice(query);
    }
}
