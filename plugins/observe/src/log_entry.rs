//! The entry that loggers write for a request: everything about it, or what `log_format` says (apisix/utils/log-util.lua).
//! Shared by all loggers. The surprise: `log_format` replaces the entry, `log_format_extra` only adds to the full one.
mod full;
#[cfg(test)]
mod tests;
mod values;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use sluice_expr::{Expr, Lookup, Variable};
use sluice_plugin::{BodyChunk, BuildError, Context};
use std::sync::atomic::{AtomicU64, Ordering};
use values::text;

pub use full::latencies;

/// Deepest nesting of objects in a `log_format`; what is deeper becomes an empty object.
const MAX_DEPTH: usize = 5;

fn half_mebibyte() -> u64 {
    512 * 1024
}

fn object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object"})
}
fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "minItems": 1, "items": {"type": "array"}})
}
fn matches(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 20, "items": {"type": "array"}})
}

/// What loggers have in common in their configuration; flatten it into a logger's own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct LogOptions {
    /// The entry: names to texts, `$variables` or objects of the same.
    #[serde(default)]
    #[schemars(schema_with = "object")]
    pub log_format: Option<Map<String, Json>>,
    /// What is added to the full entry, in the form of `log_format`.
    #[serde(default)]
    #[schemars(schema_with = "object")]
    pub log_format_extra: Option<Map<String, Json>>,
    /// The full entry holds the request's body.
    #[serde(default)]
    pub include_req_body: bool,
    /// Only where this expression holds.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub include_req_body_expr: Option<Json>,
    /// The full entry holds the response's body.
    #[serde(default)]
    pub include_resp_body: bool,
    /// Only where this expression holds.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub include_resp_body_expr: Option<Json>,
    /// Bytes of the request's body that are logged at most.
    #[serde(default = "half_mebibyte")]
    #[schemars(range(min = 1))]
    pub max_req_body_bytes: u64,
    /// Bytes of the response's body that are logged at most.
    #[serde(default = "half_mebibyte")]
    #[schemars(range(min = 1))]
    pub max_resp_body_bytes: u64,
    /// Only requests for which one of these expressions holds are logged.
    #[serde(default, rename = "match")]
    #[schemars(schema_with = "matches")]
    pub matches: Option<Vec<Json>>,
}

impl LogOptions {
    /// Whether `match` is an expression; the message is APISIX's.
    pub fn check_match(&self) -> Result<(), BuildError> {
        let Some(matches) = &self.matches else { return Ok(()) };
        Expr::compile(&Json::Array(matches.clone()))
            .map(drop)
            .map_err(|e| BuildError(format!("failed to validate the 'match' expression: {e}")))
    }

    /// Whether the body expressions can be used (`check_log_schema`; not all loggers of APISIX ask).
    pub fn check_body_expressions(&self) -> Result<(), BuildError> {
        let expressions = [
            ("include_req_body_expr", &self.include_req_body_expr),
            ("include_resp_body_expr", &self.include_resp_body_expr),
        ];
        for (name, expression) in expressions {
            if let Some(Err(e)) = expression.as_ref().map(Expr::compile) {
                return Err(BuildError(format!("failed to validate the '{name}' expression: {e}")));
            }
        }
        Ok(())
    }
}

/// When a body is logged.
#[derive(Debug)]
enum Include {
    Never,
    Always,
    Where(Expr),
}

impl Include {
    fn compile(include: bool, expression: Option<&Json>) -> Include {
        match (include, expression.map(Expr::compile)) {
            (false, _) => Include::Never,
            (true, None) => Include::Always,
            (true, Some(Ok(expression))) => Include::Where(expression),
            (true, Some(Err(error))) => {
                tracing::error!(%error, "bodies are not logged, as the expression that selects them cannot be read");
                Include::Never
            }
        }
    }
    fn holds(&self, cx: &Context) -> bool {
        match self {
            Include::Never => false,
            Include::Always => true,
            Include::Where(expression) => expression.eval(cx),
        }
    }
}

/// A `log_format`, compiled.
#[derive(Debug)]
enum Field {
    Constant(Json),
    Variable(Variable),
    RequestBody,
    Object(Vec<(String, Field)>),
}

fn compile_format(format: &Map<String, Json>, depth: usize) -> Vec<(String, Field)> {
    let field = |value: &Json| match value {
        Json::Object(_) | Json::Array(_) if depth >= MAX_DEPTH => {
            tracing::warn!("log_format nesting exceeds max depth {MAX_DEPTH}, truncating");
            Field::Object(Vec::new())
        }
        Json::Object(nested) => Field::Object(compile_format(nested, depth + 1)),
        Json::String(s) => match s.strip_prefix('$') {
            Some("request_body") => Field::RequestBody,
            Some(name) => Field::Variable(Variable::parse(name)),
            None => Field::Constant(value.clone()),
        },
        other => Field::Constant(other.clone()),
    };
    format.iter().map(|(name, value)| (name.clone(), field(value))).collect()
}

fn reads_request_body(fields: &[(String, Field)]) -> bool {
    fields.iter().any(|(_, field)| match field {
        Field::RequestBody => true,
        Field::Variable(variable) => variable.needs_request_body(),
        Field::Object(nested) => reads_request_body(nested),
        Field::Constant(_) => false,
    })
}

/// Response bodies that loggers collect, by [`LogEntry::id`].
#[derive(Default)]
struct Collected(Vec<(u64, Vec<u8>)>);

/// Builds the entries of one logger.
#[derive(Debug)]
pub struct LogEntry {
    /// Tells the loggers of one request apart.
    id: u64,
    format: Option<Vec<(String, Field)>>,
    extra: Vec<(String, Field)>,
    matches: Option<Vec<Expr>>,
    request_body: Include,
    response_body: Include,
    format_reads_body: bool,
    max_request_body: usize,
    max_response_body: usize,
}

impl LogEntry {
    /// Compiles a logger's configuration; `metadata` is the plugin's, whose formats stand in where it has none.
    pub fn compile(options: &LogOptions, metadata: Option<&Json>) -> Result<LogEntry, BuildError> {
        static ID: AtomicU64 = AtomicU64::new(0);
        let of_metadata = |name: &str| metadata.and_then(|m| m.get(name)).and_then(Json::as_object);
        let format = options.log_format.as_ref().or_else(|| of_metadata("log_format").filter(|f| !f.is_empty()));
        let extra = options.log_format_extra.as_ref().or_else(|| of_metadata("log_format_extra"));
        let format = format.map(|f| compile_format(f, 1));
        let extra = match (&format, extra) {
            (None, Some(extra)) => compile_format(extra, 1),
            _ => Vec::new(),
        };
        let matches = match &options.matches {
            None => None,
            Some(all) => Some(all.iter().map(compile_match).collect::<Result<Vec<_>, _>>()?),
        };
        let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Ok(LogEntry {
            id: ID.fetch_add(1, Ordering::Relaxed),
            format_reads_body: reads_request_body(format.as_deref().unwrap_or(&extra)),
            format,
            extra,
            matches,
            request_body: Include::compile(options.include_req_body, options.include_req_body_expr.as_ref()),
            response_body: Include::compile(options.include_resp_body, options.include_resp_body_expr.as_ref()),
            max_request_body: bytes(options.max_req_body_bytes),
            max_response_body: bytes(options.max_resp_body_bytes),
        })
    }

    /// Whether the entry will need this request's body; for [`sluice_plugin::Plugin::wants_request_body`].
    pub fn wants_request_body(&self, cx: &Context) -> bool {
        self.format_reads_body || self.request_body.holds(cx)
    }

    /// Asks for the response's body where the entry will need it; call it from `header_filter`.
    pub fn header_filter(&self, cx: &mut Context) {
        if self.response_body.holds(cx) {
            cx.filter_body();
            match cx.get_mut::<Collected>() {
                Some(collected) => collected.0.push((self.id, Vec::new())),
                None => cx.insert(Collected(vec![(self.id, Vec::new())])),
            }
        }
    }

    /// Keeps a piece of the response's body; call it from `body_filter`.
    pub fn body_filter(&self, cx: &mut Context, chunk: &BodyChunk) {
        let Some(collected) = cx.get_mut::<Collected>() else { return };
        let Some((_, body)) = collected.0.iter_mut().find(|(id, _)| *id == self.id) else { return };
        let room = self.max_response_body.saturating_sub(body.len());
        body.extend_from_slice(chunk.data.get(..room).unwrap_or(&chunk.data));
    }

    /// Whether `log_format` replaces the full entry.
    pub fn is_customized(&self) -> bool {
        self.format.is_some()
    }

    /// The entry; `None` where `match` excludes the request. Call it in `log`, once.
    pub fn build(&self, cx: &mut Context) -> Option<Map<String, Json>> {
        if let Some(matches) = &self.matches
            && !matches.iter().any(|m| m.eval(cx))
        {
            return None;
        }
        let response_body = self.take_response_body(cx);
        let cx: &Context = cx;
        let mut entry = match &self.format {
            Some(format) => {
                let mut entry = self.fields(format, cx, response_body.as_ref());
                if let Some(route) = &cx.route {
                    if let Some(id) = &route.service_id {
                        entry.insert("service_id".into(), Json::from(&**id));
                    }
                    entry.insert("route_id".into(), Json::from(&*route.route_id));
                }
                entry
            }
            None => {
                let request_body = if self.request_body.holds(cx) { self.request_body(cx) } else { None };
                let extra = self.fields(&self.extra, cx, response_body.as_ref());
                let mut entry = full::entry(cx, request_body, response_body);
                for (name, value) in extra {
                    // A field of the full entry is never replaced.
                    entry.entry(name).or_insert(value);
                }
                entry
            }
        };
        // Left by plugins that speak to language models.
        for name in ["llm_summary", "llm_request", "llm_response_text"] {
            if let Some(value) = cx.custom_variable(name) {
                entry.insert(name.into(), serde_json::from_slice(value).unwrap_or_else(|_| text(value)));
            }
        }
        Some(entry)
    }

    fn fields(&self, fields: &[(String, Field)], cx: &Context, response_body: Option<&Json>) -> Map<String, Json> {
        let mut entry = Map::with_capacity(fields.len() + 2);
        for (name, field) in fields {
            let value = match field {
                Field::Constant(value) => Some(value.clone()),
                // What this logger collected; an empty text where it collects nothing (apisix/core/ctx.lua).
                Field::Variable(Variable::ResponseBody) => {
                    Some(response_body.cloned().unwrap_or_else(|| Json::from("")))
                }
                Field::Variable(variable) => cx.variable(variable).map(|v| values::json(variable, v)),
                Field::RequestBody => self.request_body(cx),
                Field::Object(nested) => Some(Json::Object(self.fields(nested, cx, response_body))),
            };
            if let Some(value) = value {
                entry.insert(name.clone(), value);
            }
        }
        entry
    }

    fn request_body(&self, cx: &Context) -> Option<Json> {
        let body = cx.upstream.body.as_ref().or(cx.request_body.as_ref())?;
        // nginx has no body data where the body is empty.
        (!body.is_empty()).then(|| text(body.get(..self.max_request_body).unwrap_or(body)))
    }

    fn take_response_body(&self, cx: &mut Context) -> Option<Json> {
        let collected = cx.get_mut::<Collected>()?;
        let at = collected.0.iter().position(|(id, _)| *id == self.id)?;
        let (_, body) = collected.0.swap_remove(at);
        if cx.response.headers.get("content-encoding").is_some_and(|e| e.eq_ignore_ascii_case(b"gzip")) {
            return Some(text(&values::gunzip(&body, self.max_response_body).unwrap_or(body)));
        }
        Some(text(&body))
    }
}

/// One alternative of `match`. A single condition may stand without its own brackets.
fn compile_match(rule: &Json) -> Result<Expr, BuildError> {
    let single = || Expr::compile(&Json::Array(vec![rule.clone()]));
    let compiled = Expr::compile(rule).or_else(|_| single());
    compiled.map_err(|e| BuildError(format!("failed to validate the 'match' expression: {e}")))
}
