//! The entry that loggers write for a request: everything about it, or what `log_format` says (apisix/utils/log-util.lua).
//! Shared by all loggers, and written as JSON text in one go. The surprise: `log_format` replaces the entry,
//! `log_format_extra` only adds to the full one.
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
use values::Object;

pub use full::{latencies, start_millis};
pub use values::{json as write_json, text as write_text};

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

/// A field of a `log_format`.
#[derive(Debug)]
struct Named {
    name: Box<str>,
    /// What always stands under some names is looked for at each request, others need no look.
    given: bool,
    value: Field,
}

/// Left by plugins that speak to language models.
const OF_MODELS: [&str; 3] = ["llm_summary", "llm_request", "llm_response_text"];
/// Names whose values are the gateway's where it has some.
const GIVEN: [&str; 8] = [
    "service_id",
    "route_id",
    "consumer",
    "upstream",
    "upstream_latency",
    "llm_summary",
    "llm_request",
    "llm_response_text",
];

/// A `log_format`, compiled.
#[derive(Debug)]
enum Field {
    Constant(Json),
    Variable(Variable),
    RequestBody,
    Object(Vec<Named>),
}

fn compile_format(format: &Map<String, Json>, depth: usize) -> Vec<Named> {
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
    let named = |(name, value): (&String, &Json)| Named {
        name: name.as_str().into(),
        given: depth == 1 && GIVEN.contains(&name.as_str()),
        value: field(value),
    };
    format.iter().map(named).collect()
}

fn reads_request_body(fields: &[Named]) -> bool {
    fields.iter().any(|field| match &field.value {
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
    format: Option<Vec<Named>>,
    extra: Vec<Named>,
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
            (None, Some(extra)) => {
                let mut extra = compile_format(extra, 1);
                // A field of the full entry is never replaced.
                extra.retain(|field| !full::ALWAYS.contains(&&*field.name));
                extra
            }
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

    /// Appends the entry's JSON; `false`, with nothing written, where `match` excludes the request. `unmatched` stands in as
    /// `route_id` where no route was found. Call it in `log`, once.
    pub fn write(&self, cx: &mut Context, unmatched: Option<&str>, out: &mut Vec<u8>) -> bool {
        if let Some(matches) = &self.matches
            && !matches.iter().any(|m| m.eval(cx))
        {
            return false;
        }
        let response_body = self.take_response_body(cx);
        let response_body = response_body.as_deref();
        let cx: &Context = cx;
        let mut entry = Object::open(out);
        let fields = match &self.format {
            Some(format) => {
                if let Some(route) = &cx.route {
                    if let Some(id) = &route.service_id {
                        values::text(id.as_bytes(), entry.key(b"service_id"));
                    }
                    values::text(route.route_id.as_bytes(), entry.key(b"route_id"));
                }
                format
            }
            None => {
                let request_body = if self.request_body.holds(cx) { self.request_body(cx) } else { None };
                full::entry(cx, request_body, response_body, &mut entry);
                &self.extra
            }
        };
        let models = OF_MODELS.iter().filter_map(|name| Some((*name, cx.custom_variable(name)?)));
        for (name, value) in models.clone() {
            match serde_json::from_slice::<Json>(value) {
                Ok(value) => values::json(&value, entry.key(name.as_bytes())),
                Err(_) => values::text(value, entry.key(name.as_bytes())),
            }
        }
        let has = |name: &str| match self.format {
            // The route's identity is the gateway's to tell (`get_custom_format_log`).
            Some(_) if cx.route.is_some() && matches!(name, "service_id" | "route_id") => true,
            None if full::has(cx, name) => true,
            _ => models.clone().any(|(model, _)| model == name),
        };
        let mut named = false;
        for field in fields {
            if !field.given || !has(&field.name) {
                named |= self.field(field, cx, response_body, &mut entry) && &*field.name == "route_id";
            }
        }
        if let Some(unmatched) = unmatched.filter(|_| cx.route.is_none() && !named) {
            values::text(unmatched.as_bytes(), entry.key(b"route_id"));
        }
        entry.close();
        true
    }

    /// The entry as a value, for tests.
    #[cfg(test)]
    pub fn build(&self, cx: &mut Context) -> Option<Map<String, Json>> {
        let mut out = Vec::new();
        self.write(cx, None, &mut out).then(|| serde_json::from_slice(&out).expect("JSON"))
    }

    /// Writes one field; `false` where it has no value.
    fn field(&self, field: &Named, cx: &Context, response_body: Option<&[u8]>, entry: &mut Object<'_>) -> bool {
        let name = field.name.as_bytes();
        match &field.value {
            Field::Constant(value) => values::json(value, entry.key(name)),
            // What this logger collected; an empty text where it collects nothing (apisix/core/ctx.lua).
            Field::Variable(Variable::ResponseBody) => values::text(response_body.unwrap_or_default(), entry.key(name)),
            Field::Variable(variable) => match cx.variable(variable) {
                Some(value) => values::variable(variable, value, entry.key(name)),
                None => return false,
            },
            Field::RequestBody => match self.request_body(cx) {
                Some(body) => values::text(body, entry.key(name)),
                None => return false,
            },
            Field::Object(nested) => {
                let mut object = Object::open(entry.key(name));
                for field in nested {
                    self.field(field, cx, response_body, &mut object);
                }
                object.close();
            }
        }
        true
    }

    /// The request's body as far as it is logged.
    pub fn request_body<'a>(&self, cx: &'a Context) -> Option<&'a [u8]> {
        let body = cx.upstream.body.as_ref().or(cx.request_body.as_ref())?;
        // nginx has no body data where the body is empty.
        (!body.is_empty()).then(|| body.get(..self.max_request_body).unwrap_or(body))
    }

    fn take_response_body(&self, cx: &mut Context) -> Option<Vec<u8>> {
        let collected = cx.get_mut::<Collected>()?;
        let at = collected.0.iter().position(|(id, _)| *id == self.id)?;
        let (_, body) = collected.0.swap_remove(at);
        let encoding = cx.response.headers.get("content-encoding").unwrap_or_default();
        let decoded = values::decoded(encoding, &body, self.max_response_body);
        Some(decoded.unwrap_or(body))
    }
}

/// One alternative of `match`. A single condition may stand without its own brackets.
fn compile_match(rule: &Json) -> Result<Expr, BuildError> {
    let single = || Expr::compile(&Json::Array(vec![rule.clone()]));
    let compiled = Expr::compile(rule).or_else(|_| single());
    compiled.map_err(|e| BuildError(format!("failed to validate the 'match' expression: {e}")))
}
