//! `brotli`: compresses responses with Brotli for clients that accept it, where type, length and protocol version fit.
//!
//! Beside `gzip` on the same route it comes first: who accepts both gets Brotli, and nothing is compressed twice. `ETag`
//! becomes weak, or goes where it is not well-formed; `Content-Length` and `Accept-Ranges` go. `vary` adds its field to the
//! responses that are compressed.
//!
//! Different from APISIX (apisix/plugins/brotli.lua): answers to HEAD and parts of a body (206) stay as they are; a coding
//! that the client names with quality 0 is refused in each spelling of 0, and also where `*` follows; only responses of
//! unknown length (server-sent events) are flushed with every piece, which makes the others smaller. The surprise: as with
//! `gzip`, its hooks run after those of all plugins that do not encode, so a body that a plugin put in place is compressed too.
use crate::compression::{self, Conditions, Encoder, TypesConfig, http11, one_type, twenty};
use brotli::enc::BrotliEncoderParams;
use brotli::enc::backward_references::BrotliEncoderMode;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluice_http::Method;
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Info, Phases, Plugin};

/// Configuration of `brotli`.
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
    /// What the content is: 0 anything, 1 text in UTF-8, 2 fonts in WOFF 2.0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2))]
    mode: u8,
    /// From 0, fast, to 11, small.
    #[serde(default = "six")]
    #[schemars(range(min = 0, max = 11))]
    comp_level: i32,
    /// The window, as a power of two of bytes; 0 is the smallest.
    #[serde(default = "nineteen")]
    #[schemars(extend("enum" = [0, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]))]
    lgwin: i32,
    /// The largest input block, as a power of two of bytes; 0 leaves it to the level.
    #[serde(default)]
    #[schemars(extend("enum" = [0, 16, 17, 18, 19, 20, 21, 22, 23, 24]))]
    lgblock: i32,
    /// The lowest protocol version of requests.
    #[serde(default = "http11")]
    http_version: f64,
    /// Adds `Vary: Accept-Encoding`.
    #[serde(default)]
    vary: Option<bool>,
}

fn six() -> i32 {
    6
}
fn nineteen() -> i32 {
    19
}

/// The plugin.
pub struct Brotli {
    conditions: Conditions,
    params: BrotliEncoderParams,
    vary: bool,
}

impl Define for Brotli {
    const INFO: Info = Info::new("brotli", 996, Phases::HEADER_FILTER.and(Phases::BODY_FILTER)).encodes();
    type Config = Config;

    fn schema() -> Value {
        compression::schema::<Config>()
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let mode = match config.mode {
            1 => BrotliEncoderMode::BROTLI_MODE_TEXT,
            2 => BrotliEncoderMode::BROTLI_MODE_FONT,
            _ => BrotliEncoderMode::BROTLI_MODE_GENERIC,
        };
        let (quality, lgwin, lgblock) = (config.comp_level, config.lgwin, config.lgblock);
        Ok(Brotli {
            conditions: Conditions::new(config.types, config.min_length, config.http_version),
            params: BrotliEncoderParams { mode, quality, lgwin, lgblock, ..Default::default() },
            vary: config.vary == Some(true),
        })
    }
}

impl Brotli {
    fn identity(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn fits(&self, cx: &Context, length: Option<u64>) -> bool {
        let (request, response) = (&cx.request, &cx.response);
        self.conditions.hold(cx, length)
            && request.method != Method::Head
            && response.status != 206
            && compression::is_plain(&response.headers)
            && compression::accepts(cx, "br").quality().is_some()
    }
}

impl Plugin for Brotli {
    fn header_filter(&self, cx: &mut Context) {
        let length = compression::length(cx);
        if !self.fits(cx, length) {
            return;
        }
        if self.vary {
            cx.response.headers.append("Vary", "Accept-Encoding");
        }
        compression::begin(cx, self.identity(), "br", Encoder::brotli(&self.params, length), length);
    }

    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        compression::body_filter(cx, self.identity(), chunk);
    }
}

#[cfg(test)]
mod tests;
