//! `response-rewrite` changes the response: status, header fields, body; wholly, or by regular expressions (`filters`).
//!
//! Use it to hide or repair what an upstream answers. With `vars`, only responses for which the expression holds are
//! changed. `filters` need the whole body in memory (up to `max_resp_body_size`, the rest is cut off) and read gzip, brotli
//! and zstd bodies; the changed body is sent uncompressed. The header fields `Content-Length`, `Content-Encoding`,
//! `Last-Modified` and `ETag` go when the body changes.
//!
//! Differences from APISIX:
//! - A filter whose pattern does not compile is refused when it is written (APISIX would answer with empty bodies); one
//!   whose replacement is malformed is left out with a warning.
//! - Where a compressed body cannot be read, all of it is sent as it came (APISIX sends its last piece).
//! - A compressed body is unpacked up to `max_resp_body_size`.
//! - `Content-Length`, `Transfer-Encoding` and `Connection` cannot be set: they frame the message.
//!
//! Source: apisix/plugins/response-rewrite.lua, apisix/utils/content-decode.lua.
use base64::Engine;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_expr::Expr;
use sluice_model::secret::is_reference;
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Info, Phases, Plugin};
use smallvec::SmallVec;

mod decode;
pub(crate) mod filter;
mod headers;
#[cfg(test)]
mod tests;

use filter::{Filter, FilterConfig};
use headers::HeaderEdits;

#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// Bytes of body that `filters` hold in memory; what is longer is cut off.
    max_resp_body_size: u64,
    /// Header fields to set, or an object of `add`, `set` and `remove`.
    headers: Option<Value>,
    /// New body.
    body: Option<String>,
    /// `body` is base64.
    body_base64: bool,
    /// New status.
    status_code: Option<u16>,
    /// Only responses for which this expression holds are changed.
    vars: Option<Value>,
    /// Replacements by regular expressions.
    filters: Option<Vec<FilterConfig>>,
}

enum Body {
    Keep,
    New(Vec<u8>),
    Filter(Vec<Filter>),
}

pub struct ResponseRewrite {
    status: Option<u16>,
    headers: HeaderEdits,
    body: Body,
    vars: Option<Expr>,
    max_body: usize,
}

/// What one instance has to do with the body of the response under way.
struct Pending {
    /// The instance; a global rule and a route may both have the plugin.
    owner: usize,
    held: Vec<u8>,
    done: bool,
    encoding: Option<Box<[u8]>>,
}

#[derive(Default)]
struct PendingBodies(SmallVec<[Pending; 1]>);

/// Standard base64; the padding may be missing, as nginx's decoder allows.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    LENIENT.decode(text).ok()
}

impl Define for ResponseRewrite {
    const INFO: Info = Info::new("response-rewrite", 899, Phases::HEADER_FILTER.and(Phases::BODY_FILTER));
    type Config = Config;

    fn schema() -> Value {
        let fields = json!({
            "type": "object", "minProperties": 1,
            "patternProperties": {"^[^:]+$": {"oneOf": [{"type": "string"}, {"type": "number"}]}}
        });
        json!({
            "type": "object",
            "properties": {
                "max_resp_body_size": {
                    "description": "Bytes of body that `filters` hold in memory; what is longer is cut off.",
                    "type": "integer", "minimum": 1, "default": 67_108_864
                },
                "headers": {
                    "description": "Header fields to set, or an object of `add`, `set` and `remove`.",
                    "anyOf": [
                        fields,
                        {"properties": {
                            "add": {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "^[^:]+:[^:]*[^/]$"}},
                            "set": fields,
                            "remove": {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "^[^:]+$"}}
                        }}
                    ]
                },
                "body": {"description": "New body.", "type": "string"},
                "body_base64": {"description": "`body` is base64.", "type": "boolean", "default": false},
                "status_code": {"description": "New status.", "type": "integer", "minimum": 200, "maximum": 598},
                "vars": {"description": "Only responses for which this expression holds are changed.", "type": "array"},
                "filters": filter::schema()
            },
            "dependencies": {
                "body": {"not": {"required": ["filters"]}},
                "filters": {"not": {"required": ["body"]}}
            }
        })
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        if let Some(headers) = &config.headers {
            headers::check(headers)?;
        }
        let body = config.body.as_deref().unwrap_or_default();
        if config.body_base64 && !is_reference(body) && (body.is_empty() || decode_base64(body).is_none()) {
            return Err(BuildError::new("invalid base64 content"));
        }
        if let Some(vars) = &config.vars {
            Expr::compile(vars).map_err(|e| BuildError(format!("failed to validate the 'vars' expression: {e}")))?;
        }
        config.filters.iter().flatten().try_for_each(filter::check)
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let body = match (config.filters, config.body) {
            (Some(filters), _) => Body::Filter(filters.into_iter().filter_map(Filter::compile).collect()),
            (None, Some(text)) if config.body_base64 => {
                Body::New(decode_base64(&text).ok_or_else(|| BuildError::new("invalid base64 content"))?)
            }
            (None, Some(text)) => Body::New(text.into_bytes()),
            (None, None) => Body::Keep,
        };
        Ok(ResponseRewrite {
            status: config.status_code,
            headers: config.headers.as_ref().map(HeaderEdits::compile).unwrap_or_default(),
            body,
            vars: config.vars.as_ref().map(Expr::compile).transpose().map_err(BuildError::new)?,
            max_body: usize::try_from(config.max_resp_body_size).unwrap_or(usize::MAX),
        })
    }
}

impl ResponseRewrite {
    fn owner(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

impl Plugin for ResponseRewrite {
    fn header_filter(&self, cx: &mut Context) {
        if self.vars.as_ref().is_some_and(|vars| !vars.eval(cx)) {
            return;
        }
        if let Some(status) = self.status {
            cx.response.set_status(status);
        }
        if !matches!(self.body, Body::Keep) {
            let encoding = cx.response.headers.get("content-encoding").filter(|e| !e.is_empty()).map(Into::into);
            for name in ["content-length", "content-encoding", "last-modified", "etag"] {
                cx.response.headers.remove(name);
            }
            cx.filter_body();
            let pending = Pending { owner: self.owner(), held: Vec::new(), done: false, encoding };
            match cx.get_mut::<PendingBodies>() {
                Some(bodies) => bodies.0.push(pending),
                None => cx.insert(PendingBodies(SmallVec::from_iter([pending]))),
            }
        }
        self.headers.apply(cx);
    }

    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        let owner = self.owner();
        let Some(bodies) = cx.get_mut::<PendingBodies>() else { return };
        let Some(pending) = bodies.0.iter_mut().find(|p| p.owner == owner) else { return };
        if pending.done {
            chunk.data.clear();
            return;
        }
        match &self.body {
            Body::Keep => {}
            Body::New(body) => {
                pending.done = true;
                chunk.data.clear();
                chunk.data.extend_from_slice(body);
            }
            Body::Filter(filters) => {
                let room = self.max_body.saturating_sub(pending.held.len());
                let part = chunk.data.get(..room).unwrap_or(&chunk.data);
                pending.held.extend_from_slice(part);
                chunk.data.clear();
                if chunk.last || pending.held.len() >= self.max_body {
                    pending.done = true;
                    let body = std::mem::take(&mut pending.held);
                    chunk.data = self.filter(filters, pending.encoding.as_deref(), body);
                }
            }
        }
    }
}

impl ResponseRewrite {
    fn filter(&self, filters: &[Filter], encoding: Option<&[u8]>, body: Vec<u8>) -> Vec<u8> {
        let body = match encoding {
            None => body,
            Some(encoding) => match decode::decode(encoding, &body, self.max_body) {
                Ok(decoded) => decoded,
                Err(error) => {
                    tracing::error!(plugin = "response-rewrite", "filters may not work as expected {error}");
                    return body;
                }
            },
        };
        filters.iter().fold(body, |body, filter| filter.apply(body))
    }
}
