//! `request-rewrite` changes a request on its way to the upstream: method, header fields, query and body.
//!
//! Use it where the upstream expects another form than clients send. `headers` is that of `proxy-rewrite`, `query` that of
//! `uri-rewrite`. The body is replaced (`body.template`, with variables; or `body.base64`), or edited: `body.replace` is
//! a list of regular expressions as the `filters` of `response-rewrite`, `body.json` a list of changes of a JSON body by JSON
//! Pointers (RFC 6901). Texts in `body.json` may hold variables. With `vars`, only requests for which the expression holds are
//! changed.
//!
//! A body that must be read and is too large gets 413, one that is no JSON 400 with the place, one with a `Content-Encoding` 415;
//! JSON may be 128 levels deep. It is Sluice's own, on the mechanism of `proxy-rewrite`. The surprise: a change of `body.json`
//! never fails; what a path cannot reach is made on the way (`set`, `add`) or is not there (`remove`).
use crate::proxy_rewrite::header_forms;
use crate::proxy_rewrite::headers::{self, HeaderEdits};
use crate::query_edits::{self, QueryEdits};
use crate::response_rewrite::decode_base64;
use crate::response_rewrite::filter::{self, Filter, FilterConfig};
use crate::uri_escape;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_expr::{Expr, Template};
use sluice_http::target;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Reply};

mod patch;
#[cfg(test)]
mod tests;

use patch::{Change, ChangeConfig};

/// Configuration of `request-rewrite`.
#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// Only requests for which this expression holds are changed.
    vars: Option<Value>,
    /// New method.
    method: Option<String>,
    /// Header fields to set, or an object of `add`, `set` and `remove`.
    headers: Option<Map<String, Value>>,
    /// Changes of the query.
    #[schemars(with = "Option<Value>")]
    query: Option<query_edits::Config>,
    /// A new body, or changes of the body.
    #[schemars(with = "Option<Value>")]
    body: Option<BodyConfig>,
    /// The largest body that is read, in bytes.
    max_body_size: u64,
}

#[derive(Deserialize)]
struct BodyConfig {
    template: Option<String>,
    base64: Option<String>,
    replace: Option<Vec<FilterConfig>>,
    json: Option<Vec<ChangeConfig>>,
    content_type: Option<String>,
}

enum Body {
    Keep,
    New(Vec<u8>),
    Template(Template),
    Replace(Vec<Filter>),
    Json(Box<[Change]>),
}

/// The plugin.
pub struct RequestRewrite {
    vars: Option<Expr>,
    method: Option<Box<str>>,
    headers: HeaderEdits,
    query: Option<QueryEdits>,
    body: Body,
    content_type: Option<Box<str>>,
    max_body: u64,
}

impl Define for RequestRewrite {
    const INFO: Info = Info::new("request-rewrite", 1004, Phases::REWRITE).request_body();
    type Config = Config;

    fn schema() -> Value {
        json!({
            "type": "object",
            "anyOf": [{"required": ["method"]}, {"required": ["headers"]}, {"required": ["query"]}, {"required": ["body"]}],
            "properties": {
                "vars": {"description": "Only requests for which this expression holds are changed.", "type": "array"},
                "method": {"description": "New method.", "type": "string", "pattern": "^[A-Z]{1,32}$"},
                "headers": {
                    "description": "Header fields to set, or an object of `add`, `set` and `remove`; values may hold variables.",
                    "oneOf": header_forms()
                },
                "query": query_edits::schema(),
                "body": {
                    "description": "A new body, or changes of the body.",
                    "type": "object", "additionalProperties": false,
                    "oneOf": [
                        {"required": ["template"]}, {"required": ["base64"]},
                        {"required": ["replace"]}, {"required": ["json"]}
                    ],
                    "properties": {
                        "template": {"description": "New body; may hold variables.", "type": "string"},
                        "base64": {"description": "New body, in base64.", "type": "string"},
                        "replace": filter::schema(),
                        "json": patch::schema(),
                        "content_type": {"description": "New `Content-Type`.", "type": "string", "minLength": 1, "pattern": "^[ -~]+$"}
                    }
                },
                "max_body_size": {
                    "description": "The largest body that is read, in bytes.",
                    "type": "integer", "minimum": 1, "default": 1_048_576
                }
            }
        })
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        if let Some(vars) = &config.vars {
            Expr::compile(vars).map_err(|e| BuildError(format!("failed to validate the 'vars' expression: {e}")))?;
        }
        if let Some(fields) = &config.headers {
            headers::check(fields)?;
        }
        let Some(body) = &config.body else { return Ok(()) };
        if body.base64.as_deref().is_some_and(|text| decode_base64(text).is_none()) {
            return Err(BuildError::new("body.base64: invalid base64 content"));
        }
        body.replace.iter().flatten().try_for_each(filter::check)?;
        body.json.iter().flatten().try_for_each(|change| Change::compile(change).map(drop))
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let mut content_type = None;
        let body = match config.body {
            None => Body::Keep,
            Some(body) => {
                content_type = body.content_type.map(Into::into);
                match (body.template, body.base64, body.replace, body.json) {
                    (Some(text), ..) => match Template::compile(&text).constant() {
                        Some(text) => Body::New(text.as_bytes().to_vec()),
                        None => Body::Template(Template::compile(&text)),
                    },
                    (_, Some(text), ..) => Body::New(decode_base64(&text).unwrap_or_default()),
                    (_, _, Some(filters), _) => {
                        Body::Replace(filters.into_iter().filter_map(Filter::compile).collect())
                    }
                    (_, _, _, changes) => {
                        let changes = changes.iter().flatten().map(Change::compile);
                        Body::Json(changes.collect::<Result<_, _>>()?)
                    }
                }
            }
        };
        Ok(RequestRewrite {
            vars: config.vars.as_ref().map(Expr::compile).transpose().map_err(BuildError::new)?,
            method: config.method.map(Into::into),
            headers: config.headers.as_ref().map(HeaderEdits::compile).unwrap_or_default(),
            query: config.query.as_ref().map(QueryEdits::compile),
            body,
            content_type,
            max_body: config.max_body_size,
        })
    }
}

impl RequestRewrite {
    /// The new body, if there is one.
    fn body(&self, cx: &Context) -> Result<Option<Vec<u8>>, Reply> {
        if matches!(self.body, Body::Replace(_) | Body::Json(_)) {
            let coding = cx.request.headers.get("content-encoding").unwrap_or_default();
            if !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity") {
                return Err(Reply::message(415, "an encoded body cannot be rewritten"));
            }
        }
        let old = cx.request_body.as_deref().unwrap_or_default();
        Ok(Some(match &self.body {
            Body::Keep => return Ok(None),
            Body::New(body) => body.clone(),
            Body::Template(template) => template.render(cx, ""),
            Body::Replace(_) | Body::Json(_) if old.len() as u64 > self.max_body => {
                return Err(Reply::status(413));
            }
            Body::Replace(filters) => filters.iter().fold(old.to_vec(), |body, filter| filter.apply(body)),
            Body::Json(_) if old.is_empty() && !cx.request.headers.contains("content-type") => return Ok(None),
            Body::Json(changes) => {
                let mut value: Value = serde_json::from_slice(old)
                    .map_err(|e| Reply::message(400, &format!("the request's body is not JSON: {e}")))?;
                changes.iter().for_each(|change| change.apply(&mut value, cx));
                value.to_string().into_bytes()
            }
        }))
    }

    fn rewrite_query(&self, edits: &QueryEdits, cx: &mut Context) {
        let (mut target, query) = match &cx.upstream.target {
            Some(target) => {
                let (path, query) = target::split(target);
                (path.to_vec(), query)
            }
            None => {
                let mut path = Vec::new();
                uri_escape::path(cx.request.path_bytes(), &mut path);
                (path, cx.request.query().map(str::as_bytes))
            }
        };
        let query = edits.apply(query, cx);
        if !query.is_empty() {
            target.push(b'?');
            target.extend_from_slice(&query);
        }
        cx.upstream.target = Some(target);
    }
}

impl Plugin for RequestRewrite {
    fn wants_request_body(&self, cx: &Context) -> bool {
        let reads = matches!(self.body, Body::Replace(_) | Body::Json(_) | Body::Template(_));
        reads && self.vars.as_ref().is_none_or(|vars| vars.eval(cx))
    }

    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if self.vars.as_ref().is_some_and(|vars| !vars.eval(cx)) {
            return Flow::Next;
        }
        let body = match self.body(cx) {
            Ok(body) => body,
            Err(reply) => return Flow::reply(reply),
        };
        if let Some(edits) = &self.query {
            self.rewrite_query(edits, cx);
        }
        self.headers.apply(cx, None);
        if let Some(body) = body {
            if matches!(self.body, Body::New(_) | Body::Template(_)) {
                cx.request.headers.remove("content-encoding");
            }
            if let Some(kind) = &self.content_type {
                cx.request.headers.set("Content-Type", kind.as_bytes());
            }
            cx.request_body = Some(body.clone());
            cx.upstream.body = Some(body);
        }
        if let Some(method) = &self.method {
            cx.set_method(method);
        }
        Flow::Next
    }
}
