//! `mocking`: answers with an example, or with random values made from a JSON Schema, and never asks an upstream. For
//! clients that are written before their API is.
//!
//! The body and `response_headers` may contain variables, also where the body is generated. An `example` in
//! `response_schema` is used as it is where its type fits (apisix/plugins/mocking.lua). Different from APISIX: members
//! keep the schema's order, a property without `type` is left out (APISIX: 500), at most 10,000 values are generated, and a status
//! above 999 is refused.
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_expr::Template;
use sluice_plugin::{BuildError, Clock, Context, Define, Env, Flow, Info, Outcome, Phases, Plugin, Reply, schema_of};
use std::time::Duration;

mod generate;
mod xml;

/// What APISIX 3.18 calls itself.
const MOCKED_BY: &str = "APISIX/3.18.0";
const TYPES: [&str; 5] = ["application/xml", "application/json", "text/plain", "text/html", "text/xml"];

/// Configuration of `mocking`. `response_example` or `response_schema` is required.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Waits so many seconds before it answers.
    #[serde(default)]
    delay: i64,
    /// Status of the response.
    #[serde(default = "ok")]
    #[schemars(range(min = 100))]
    response_status: u32,
    /// `Content-Type` of the response: `application/json`, `application/xml`, `text/xml`, `text/plain` or `text/html`,
    /// with or without parameters. XML and JSON also say how a schema is written out.
    #[serde(default = "json_utf8")]
    content_type: String,
    /// The body; may contain variables.
    #[serde(default)]
    response_example: Option<String>,
    /// A JSON Schema of the body, used where there is no `response_example`.
    #[serde(default)]
    #[schemars(with = "Option<Object>")]
    response_schema: Option<Value>,
    /// Adds `x-mock-by`.
    #[serde(default = "yes")]
    with_mock_header: bool,
    /// Further response headers; values may contain variables.
    #[serde(default)]
    #[schemars(with = "Option<Object>")]
    response_headers: Option<Map<String, Value>>,
}

/// An object of any members.
#[derive(JsonSchema)]
struct Object {}

fn ok() -> u32 {
    200
}
fn json_utf8() -> String {
    "application/json;charset=utf8".into()
}
fn yes() -> bool {
    true
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Json,
    Xml,
    Nothing,
}

enum Body {
    Example(Template),
    Generated { schema: Value, form: Form },
}

/// The plugin.
pub struct Mocking {
    status: u16,
    body: Body,
    content_type: Box<str>,
    with_mock_header: bool,
    headers: Vec<(Box<str>, Template)>,
    delay: Option<Duration>,
    reads_body: bool,
    clock: Clock,
}

/// The media type: everything before the last `;`.
fn media_type(content_type: &str) -> &str {
    content_type.rsplit_once(';').map_or(content_type, |(kind, _)| kind)
}

impl Define for Mocking {
    const INFO: Info = Info::new("mocking", 10900, Phases::ACCESS).request_body();
    type Config = Config;

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        schema["anyOf"] = json!([{"required": ["response_example"]}, {"required": ["response_schema"]}]);
        crate::reply_parts::describe_headers(&mut schema["properties"]["response_headers"]);
        schema
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        if !TYPES.contains(&media_type(&config.content_type)) {
            return Err(BuildError::new("unsupported content type!"));
        }
        crate::reply_parts::status(config.response_status).map(|_| ())
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let form = match media_type(&config.content_type) {
            "application/xml" | "text/xml" => Form::Xml,
            "application/json" | "text/plain" => Form::Json,
            _ => Form::Nothing,
        };
        let body = match (config.response_example, config.response_schema) {
            (Some(example), _) => Body::Example(Template::compile(&example)),
            (None, schema) => Body::Generated { schema: schema.unwrap_or_default(), form },
        };
        if matches!(body, Body::Generated { form: Form::Nothing, .. }) {
            tracing::error!("mocking: json schema body only support xml and json content type");
        }
        let mut content_type = config.content_type;
        let mut headers = crate::reply_parts::headers(&config.response_headers.unwrap_or_default());
        // There is one Content-Type; what is added last stands.
        headers.retain(|(name, value)| match value.constant() {
            Some(value) if name.eq_ignore_ascii_case("content-type") => {
                content_type = value.to_string();
                false
            }
            _ => true,
        });
        let reads = |template: &Template| template.variables().any(|v| v.needs_request_body());
        let reads_body =
            matches!(&body, Body::Example(example) if reads(example)) || headers.iter().any(|(_, t)| reads(t));
        Ok(Mocking {
            status: crate::reply_parts::status(config.response_status)?,
            body,
            content_type: content_type.into(),
            with_mock_header: config.with_mock_header,
            headers,
            delay: u64::try_from(config.delay).ok().filter(|s| *s > 0).map(Duration::from_secs),
            reads_body,
            clock: env.clock.clone(),
        })
    }
}

impl Mocking {
    fn reply(&self, cx: &Context) -> Box<Reply> {
        let body = match &self.body {
            Body::Example(example) => example.render(cx, ""),
            Body::Generated { schema, form } => {
                let text = match form {
                    Form::Json => generate::json_text(&generate::object(schema)),
                    Form::Xml => xml::document(&generate::object(schema)),
                    Form::Nothing => String::new(),
                };
                match text.contains('$') {
                    true => Template::compile(&text).render(cx, ""),
                    false => text.into_bytes(),
                }
            }
        };
        let mut reply = Reply::text(self.status, body).header("Content-Type", self.content_type.as_bytes());
        if self.with_mock_header {
            reply = reply.header("x-mock-by", MOCKED_BY);
        }
        for (name, value) in &self.headers {
            reply = reply.header(name.to_string(), value.render(cx, ""));
        }
        Box::new(reply)
    }
}

impl Plugin for Mocking {
    fn wants_request_body(&self, _cx: &Context) -> bool {
        self.reads_body
    }

    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        match self.delay {
            None => Flow::Reply(self.reply(cx)),
            Some(delay) => Flow::wait(async move {
                self.clock.sleep(delay).await;
                Outcome::Reply(self.reply(cx))
            }),
        }
    }
}

#[cfg(test)]
mod tests;
