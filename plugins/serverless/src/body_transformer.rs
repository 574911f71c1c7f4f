//! `body-transformer`: makes a request's or a response's body anew from a template.
//!
//! Use it between clients and upstreams that speak different forms: JSON and XML, forms, or anything a template can write. The body
//! is read by `input_format`, or by its `Content-Type`, and its fields are the template's variables. Templates are
//! lua-resty-template's: `{{ value }}` (HTML-escaped), `{* value *}` (as it is), `{% Lua %}`, `{# comment #}`, `{( template )}`,
//! with `_body`, `_ctx`, `_escape_json()`, `_escape_xml()`, `_multipart`. They are compiled once per worker thread.
//!
//! Bounds: the bodies' sizes by `max_req_body_size` (413) and `max_resp_body_size` (cut off); JSON may be 128 levels deep and
//! XML 256; a template has the instructions and the memory of all Lua here, and no files: `{(name)}` takes the name
//! itself for a template.
//!
//! Different from APISIX: a body that is JSON but neither object nor array gets 400 (APISIX: 500); where a response cannot be
//! transformed, the client gets an empty body (APISIX: the last piece of the old one); globals that a template sets are forgotten
//! after it.
//!
//! Source: apisix/plugins/body-transformer.lua. The surprise: with a format other than `encoded` and `args`, a template
//! that happens to be base64 is decoded even without `template_is_base64`, as in APISIX.
use crate::functions::checker;
use crate::host::{Seen, lua_phase};
use crate::scripts::engine;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_engine_lua::{Form, Input, RenderError, Script, check, render};
use sluice_http::{Known, Method};
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Flow, Info, Phase, Phases, Plugin, Reply};
use std::sync::Arc;

/// Configuration of `body-transformer`.
#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// How the request's body is transformed.
    #[schemars(with = "Option<Value>")]
    request: Option<Transform>,
    /// How the response's body is transformed.
    #[schemars(with = "Option<Value>")]
    response: Option<Transform>,
    /// Larger request bodies are refused (bytes).
    max_req_body_size: u64,
    /// Of larger responses the rest is cut off (bytes).
    max_resp_body_size: u64,
}

#[derive(Deserialize)]
struct Transform {
    input_format: Option<Format>,
    template: String,
    #[serde(default)]
    template_is_base64: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Xml,
    Json,
    Encoded,
    Args,
    Plain,
    Multipart,
}

impl Format {
    /// The engine's name of it; a plain body is not read.
    fn decoder(self) -> Option<&'static str> {
        match self {
            Format::Xml => Some("xml"),
            Format::Json => Some("json"),
            Format::Encoded => Some("encoded"),
            Format::Args => Some("args"),
            Format::Multipart => Some("multipart"),
            Format::Plain => None,
        }
    }

    /// `set_input_format` of apisix/plugins/body-transformer.lua; XML and JSON are looked for in lower case alone.
    fn of_type(content_type: &[u8]) -> Option<Format> {
        let text = String::from_utf8_lossy(content_type);
        let lower = text.to_ascii_lowercase();
        if text.contains("text/xml") {
            Some(Format::Xml)
        } else if text.contains("application/json") {
            Some(Format::Json)
        } else if lower.contains("application/x-www-form-urlencoded") {
            Some(Format::Encoded)
        } else if lower.contains("multipart/") {
            Some(Format::Multipart)
        } else {
            None
        }
    }
}

fn decode_base64(text: &str) -> Option<String> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    LENIENT.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok())
}

/// One direction.
struct Transformer {
    format: Option<Format>,
    plain: Arc<Script>,
    /// The same, where the text is base64 too.
    decoded: Option<Arc<Script>>,
    is_base64: bool,
    direction: &'static str,
}

impl Transformer {
    fn new(direction: &'static str, config: &Transform, env: &Env) -> Transformer {
        let script = |text: String| {
            let name = format!("body-transformer: {direction}");
            Script::new(engine(env), Form::Template, &env.resource_key, &name, &[text], &Value::Null)
        };
        let decoded = decode_base64(&config.template);
        let text = decoded.as_deref().filter(|_| config.template_is_base64).unwrap_or(&config.template);
        // Requests will get 503, as in APISIX; who wrote it should hear of it before.
        if let Err(error) = check(checker(), Form::Template, text) {
            tracing::warn!(plugin = "body-transformer", object = %env.resource_key, %error, "the {direction} template does not compile");
        }
        Transformer {
            format: config.input_format,
            plain: script(config.template.clone()),
            decoded: decoded.map(script),
            is_base64: config.template_is_base64,
            direction,
        }
    }

    fn transform(
        &self,
        format: Option<Format>,
        body: Option<&[u8]>,
        content_type: Option<&[u8]>,
        phase: Phase,
        cx: &mut Context,
    ) -> Result<Vec<u8>, RenderError> {
        // A GET has no body, and its arguments are read all the same.
        let reads = body.is_some() || format == Some(Format::Args) && self.direction == "request";
        let decoder = format.filter(|_| reads).and_then(Format::decoder);
        if reads && format.is_none() {
            tracing::warn!(route = cx.route_id(), "no input format to parse {} body", self.direction);
        }
        let may = format.is_some_and(|f| !matches!(f, Format::Encoded | Format::Args));
        let script = self.decoded.as_ref().filter(|_| self.is_base64 || may).unwrap_or(&self.plain);
        let input = Input { format: decoder, body, content_type };
        let route = cx.route.as_ref().map(|route| route.route_id.clone());
        render(script, lua_phase(phase), &mut Seen::new(cx, phase), input).inspect_err(|error| {
            let route = route.as_deref().unwrap_or_default();
            let size = body.map_or(0, <[u8]>::len);
            tracing::error!(route, "transform(): {} {error}, body size: {size}", self.direction);
        })
    }
}

/// The plugin.
pub struct BodyTransformer {
    request: Option<Transformer>,
    response: Option<Transformer>,
    max_request: u64,
    max_response: usize,
}

/// The response's body so far.
struct Held {
    /// A global rule and a route may both have the plugin.
    owner: usize,
    body: Vec<u8>,
    content_type: Option<Vec<u8>>,
    format: Option<Format>,
    done: bool,
}

#[derive(Default)]
struct HeldBodies(Vec<Held>);

fn transform_schema(description: &str) -> Value {
    json!({
        "description": description,
        "type": "object",
        "required": ["template"],
        "properties": {
            "input_format": {
                "description": "How the body is read; by default its `Content-Type` tells. The query of a GET is read as `args`.",
                "type": "string", "enum": ["xml", "json", "encoded", "args", "plain", "multipart"]
            },
            "template": {"description": "The template.", "type": "string"},
            "template_is_base64": {"description": "The template is base64.", "type": "boolean"}
        }
    })
}

impl Define for BodyTransformer {
    const INFO: Info =
        Info::new("body-transformer", 1080, Phases::REWRITE.and(Phases::HEADER_FILTER).and(Phases::BODY_FILTER))
            .request_body();
    type Config = Config;

    fn schema() -> Value {
        let size = |text: &str| json!({"description": text, "type": "integer", "minimum": 1, "default": 67_108_864});
        json!({
            "type": "object",
            "properties": {
                "request": transform_schema("How the request's body is transformed."),
                "response": transform_schema("How the response's body is transformed."),
                "max_req_body_size": size("Larger request bodies are refused (bytes)."),
                "max_resp_body_size": size("Of larger responses the rest is cut off (bytes).")
            },
            "anyOf": [{"required": ["request"]}, {"required": ["response"]}, {"required": ["request", "response"]}]
        })
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let transformer = |direction, config: Option<&Transform>| config.map(|c| Transformer::new(direction, c, env));
        Ok(BodyTransformer {
            request: transformer("request", config.request.as_ref()),
            response: transformer("response", config.response.as_ref()),
            max_request: config.max_req_body_size,
            max_response: usize::try_from(config.max_resp_body_size).unwrap_or(usize::MAX),
        })
    }
}

impl BodyTransformer {
    fn owner(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

impl Plugin for BodyTransformer {
    fn wants_request_body(&self, _cx: &Context) -> bool {
        self.request.is_some()
    }

    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let Some(transformer) = &self.request else { return Flow::Next };
        let body = cx.request_body.clone().filter(|body| !body.is_empty());
        if body.as_ref().is_some_and(|body| body.len() as u64 > self.max_request) {
            return Flow::reply(Reply::status(413));
        }
        let content_type = cx.request.headers.known(Known::ContentType).map(<[u8]>::to_vec);
        let format = match cx.request.method {
            Method::Get => Some(Format::Args),
            _ => transformer.format.or_else(|| Format::of_type(content_type.as_deref()?)),
        };
        let made = transformer.transform(format, body.as_deref(), content_type.as_deref(), Phase::Rewrite, cx);
        match made {
            Ok(body) => {
                cx.request_body = Some(body.clone());
                cx.upstream.body = Some(body);
                Flow::Next
            }
            Err(error) => {
                let status = if matches!(error, RenderError::Decode(_)) { 400 } else { 503 };
                Flow::reply(Reply::message(status, &format!("request {error}")))
            }
        }
    }

    fn header_filter(&self, cx: &mut Context) {
        let Some(transformer) = &self.response else { return };
        let content_type = cx.response.headers.known(Known::ContentType).map(<[u8]>::to_vec);
        let format = transformer.format.or_else(|| Format::of_type(content_type.as_deref()?));
        cx.body_modified();
        let held = Held { owner: self.owner(), body: Vec::new(), content_type, format, done: false };
        match cx.get_mut::<HeldBodies>() {
            Some(bodies) => bodies.0.push(held),
            None => cx.insert(HeldBodies(vec![held])),
        }
    }

    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        let Some(transformer) = &self.response else { return };
        let owner = self.owner();
        let found = cx.get_mut::<HeldBodies>().and_then(|bodies| bodies.0.iter_mut().find(|held| held.owner == owner));
        let Some(held) = found else { return };
        let piece = std::mem::take(&mut chunk.data);
        if held.done {
            return;
        }
        let room = self.max_response.saturating_sub(held.body.len());
        held.body.extend_from_slice(piece.get(..room).unwrap_or(&piece));
        if !chunk.last && held.body.len() < self.max_response {
            return;
        }
        held.done = true;
        let (body, kind, format) = (std::mem::take(&mut held.body), held.content_type.take(), held.format);
        let made = transformer.transform(format, Some(&body), kind.as_deref(), Phase::BodyFilter, cx);
        // An error was logged; what could not be transformed is not for the client to see.
        chunk.data = made.unwrap_or_default();
    }
}

#[cfg(test)]
mod tests;
