//! `gzip`: compresses responses for clients that accept it, where the type, the length and the protocol version fit.
//!
//! The rules are those of apisix/plugins/gzip.lua, and then of nginx's gzip filter, which does APISIX's work: only
//! statuses 200, 403 and 404, never a response that has a `Content-Encoding`, never for HEAD, nor for a request that came
//! through a proxy (`Via`). `ETag` becomes weak; `Content-Length` and `Accept-Ranges` go. `vary` adds its field wherever
//! the configuration fits, compressed or not.
//!
//! Different from APISIX: a response of unknown length (server-sent events) is flushed with every piece, so nothing is
//! held back; memory is not laid out in `buffers`, which is accepted and has no effect. The surprise: hooks of a plugin
//! that encodes run after those of all chains, so a global rule's gzip compresses the body that a route's plugin put in place.
use crate::compression::{self, Encoder, Types, TypesConfig, one_type, types_schema};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_http::{Known, Method, Version};
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Info, Phases, Plugin, schema_of};

/// Configuration of `gzip`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Media types that are compressed, or `"*"` for all.
    #[serde(default = "one_type")]
    #[schemars(with = "Vec<String>")]
    types: TypesConfig,
    /// Shorter responses stay as they are, if their length is known (bytes).
    #[serde(default = "twenty")]
    #[schemars(range(min = 1))]
    min_length: u64,
    /// From 1, fast, to 9, small.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 9))]
    comp_level: u32,
    /// The lowest protocol version of requests.
    #[serde(default = "http11")]
    http_version: f64,
    /// Accepted for APISIX's sake; without effect.
    #[serde(default)]
    #[schemars(default = "Buffers::default")]
    #[allow(dead_code, reason = "only its form is checked")]
    buffers: Buffers,
    /// Adds `Vary: Accept-Encoding`.
    #[serde(default)]
    vary: Option<bool>,
}

/// The compressor's output memory in nginx.
#[derive(Debug, Deserialize, serde::Serialize, JsonSchema)]
struct Buffers {
    /// How many.
    #[serde(default = "thirty_two")]
    #[schemars(range(min = 1))]
    number: u64,
    /// Of how many bytes each.
    #[serde(default = "page")]
    #[schemars(range(min = 1))]
    size: u64,
}

impl Default for Buffers {
    fn default() -> Self {
        Buffers { number: thirty_two(), size: page() }
    }
}

fn twenty() -> u64 {
    20
}
fn one() -> u32 {
    1
}
fn http11() -> f64 {
    1.1
}
fn thirty_two() -> u64 {
    32
}
fn page() -> u64 {
    4096
}

/// The plugin.
pub struct Gzip {
    types: Types,
    min_length: u64,
    level: u32,
    lowest_version: Version,
    vary: bool,
}

impl Define for Gzip {
    const INFO: Info = Info::new("gzip", 995, Phases::HEADER_FILTER.and(Phases::BODY_FILTER)).encodes();
    type Config = Config;

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        let properties = &mut schema["properties"];
        let description = properties["types"]["description"].take();
        properties["types"] = types_schema(description);
        let description = properties["http_version"]["description"].take();
        properties["http_version"] = json!({"enum": [1.1, 1.0], "default": 1.1, "description": description});
        schema
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        Ok(Gzip {
            types: Types::new(config.types),
            min_length: config.min_length,
            level: config.comp_level,
            lowest_version: if config.http_version < 1.1 { Version::Http10 } else { Version::Http11 },
            vary: config.vary == Some(true),
        })
    }
}

impl Gzip {
    fn identity(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    /// What the configuration says (apisix/plugins/gzip.lua).
    fn fits(&self, cx: &Context, length: Option<u64>) -> bool {
        let Some(kind) = cx.response.headers.known(Known::ContentType) else { return false };
        self.types.has(kind)
            && length.is_none_or(|length| length >= self.min_length)
            && cx.request.version >= self.lowest_version
    }
}

/// What nginx says (ngx_http_gzip_filter_module, `ngx_http_gzip_ok` with `gzip_proxied off`).
fn compressible(cx: &Context) -> bool {
    let (request, response) = (&cx.request, &cx.response);
    matches!(response.status, 200 | 403 | 404)
        && request.method != Method::Head
        && compression::is_plain(&response.headers)
        && compression::accepts(cx, "gzip").by_name()
        && !request.headers.contains("via")
}

impl Plugin for Gzip {
    fn header_filter(&self, cx: &mut Context) {
        let length = compression::length(cx);
        if !self.fits(cx, length) {
            return;
        }
        let compress = compressible(cx);
        if self.vary {
            cx.response.headers.append("Vary", "Accept-Encoding");
        }
        if compress {
            compression::begin(cx, self.identity(), "gzip", Encoder::gzip(self.level), length);
        }
    }

    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        compression::body_filter(cx, self.identity(), chunk);
    }
}

#[cfg(test)]
mod tests;
