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
use crate::compression::{self, Conditions, Encoder, TypesConfig, http11, one_type, twenty};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluice_http::Method;
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Info, Phases, Plugin};

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

fn one() -> u32 {
    1
}
fn thirty_two() -> u64 {
    32
}
fn page() -> u64 {
    4096
}

/// The plugin.
pub struct Gzip {
    conditions: Conditions,
    level: u32,
    vary: bool,
}

impl Define for Gzip {
    const INFO: Info = Info::new("gzip", 995, Phases::HEADER_FILTER.and(Phases::BODY_FILTER)).encodes();
    type Config = Config;

    fn schema() -> Value {
        compression::schema::<Config>()
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        Ok(Gzip {
            conditions: Conditions::new(config.types, config.min_length, config.http_version),
            level: config.comp_level,
            vary: config.vary == Some(true),
        })
    }
}

impl Gzip {
    fn identity(&self) -> usize {
        std::ptr::from_ref(self) as usize
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
        // What the configuration says comes first (apisix/plugins/gzip.lua), then what nginx says.
        if !self.conditions.hold(cx, length) {
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
