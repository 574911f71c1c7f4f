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
use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use brotli::enc::backward_references::BrotliEncoderMode;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_http::{Known, Method, Version};
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Info, Phases, Plugin, schema_of};
use std::io::Write;

mod accept;

/// Bytes that the compressor gathers before they go to the response's buffer.
const OUTPUT_BUFFER: usize = 4096;

/// Configuration of `brotli`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Media types that are compressed, or `"*"` for all.
    #[serde(default = "html")]
    #[schemars(with = "Vec<String>")]
    types: Types,
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

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Types {
    These(Vec<String>),
    All(#[allow(dead_code, reason = "the schema lets nothing but `*` through")] String),
}

fn html() -> Types {
    Types::These(vec!["text/html".into()])
}
fn twenty() -> u64 {
    20
}
fn six() -> i32 {
    6
}
fn nineteen() -> i32 {
    19
}
fn http11() -> f64 {
    1.1
}

/// The plugin.
pub struct Brotli {
    /// `None`: all.
    types: Option<Box<[Box<[u8]>]>>,
    min_length: u64,
    params: BrotliEncoderParams,
    lowest_version: Version,
    vary: bool,
}

impl Define for Brotli {
    const INFO: Info = Info::new("brotli", 996, Phases::HEADER_FILTER.and(Phases::BODY_FILTER)).encodes();
    type Config = Config;

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        let properties = &mut schema["properties"];
        let description = properties["types"]["description"].take();
        properties["types"] = json!({
            "anyOf": [{"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}, {"enum": ["*"]}],
            "default": ["text/html"],
            "description": description
        });
        let description = properties["http_version"]["description"].take();
        properties["http_version"] = json!({"enum": [1.1, 1.0], "default": 1.1, "description": description});
        schema
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let mode = match config.mode {
            1 => BrotliEncoderMode::BROTLI_MODE_TEXT,
            2 => BrotliEncoderMode::BROTLI_MODE_FONT,
            _ => BrotliEncoderMode::BROTLI_MODE_GENERIC,
        };
        let (quality, lgwin, lgblock) = (config.comp_level, config.lgwin, config.lgblock);
        Ok(Brotli {
            types: match config.types {
                Types::These(types) => Some(types.into_iter().map(|t| t.into_bytes().into()).collect()),
                Types::All(_) => None,
            },
            min_length: config.min_length,
            params: BrotliEncoderParams { mode, quality, lgwin, lgblock, ..Default::default() },
            lowest_version: if config.http_version < 1.1 { Version::Http10 } else { Version::Http11 },
            vary: config.vary == Some(true),
        })
    }
}

/// A compressor at work on one response.
struct Encoding {
    /// The instance that began it; a global rule and a route may both have one.
    owner: usize,
    compress: CompressorWriter<Vec<u8>>,
    /// Every piece is flushed.
    streams: bool,
    begun: bool,
}

impl Brotli {
    fn identity(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn fits(&self, cx: &Context, length: Option<u64>) -> bool {
        let (request, response) = (&cx.request, &cx.response);
        let Some(kind) = response.headers.known(Known::ContentType) else { return false };
        if let Some(types) = &self.types {
            let kind = kind.split(|b| *b == b';').next().unwrap_or_default();
            if !types.iter().any(|t| **t == *kind) {
                return false;
            }
        }
        length.is_none_or(|length| length >= self.min_length)
            && request.version >= self.lowest_version
            && request.method != Method::Head
            && response.status != 206
            && response.headers.get("content-encoding").is_none_or(<[u8]>::is_empty)
            && request.headers.joined("accept-encoding").is_some_and(|value| accept::brotli(&value))
    }
}

impl Plugin for Brotli {
    fn header_filter(&self, cx: &mut Context) {
        let text = cx.response.headers.known(Known::ContentLength).and_then(|v| std::str::from_utf8(v).ok());
        let length: Option<u64> = text.and_then(|t| t.parse().ok());
        if !self.fits(cx, length) {
            return;
        }
        let headers = &mut cx.response.headers;
        if self.vary {
            headers.append("Vary", "Accept-Encoding");
        }
        headers.remove("content-length");
        headers.remove("accept-ranges");
        headers.set("Content-Encoding", "br");
        let etag = headers.get("etag").map(|tag| (well_formed(tag), tag.starts_with(b"W/"), [b"W/", tag].concat()));
        match etag {
            None | Some((true, true, _)) => {}
            Some((true, false, weak)) => headers.set("ETag", weak),
            Some((false, ..)) => {
                headers.remove("etag");
            }
        }
        // The gateway's own answers come in one piece.
        let streams = length.is_none() && !cx.own_response;
        let size_hint = length.and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
        let params = BrotliEncoderParams { size_hint, ..self.params.clone() };
        let compress = CompressorWriter::with_params(Vec::new(), OUTPUT_BUFFER, &params);
        cx.insert(Encoding { owner: self.identity(), compress, streams, begun: false });
        cx.filter_body();
    }

    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        let owner = self.identity();
        let replaced = cx.response.headers.get("content-encoding") != Some(b"br");
        let Some(encoding) = cx.get_mut::<Encoding>() else { return };
        // Before the first piece a later plugin may have put another body in place.
        if encoding.owner != owner || !encoding.begun && replaced {
            return;
        }
        encoding.begun = true;
        if chunk.data.is_empty() && !chunk.last {
            return;
        }
        let streams = encoding.streams;
        let written = encoding
            .compress
            .write_all(&chunk.data)
            .and_then(|()| if streams && !chunk.last { encoding.compress.flush() } else { Ok(()) });
        // Writing to memory cannot fail; what is out so far is all there is.
        if let Err(error) = written {
            tracing::error!(%error, "brotli failed");
        }
        chunk.data = if chunk.last {
            cx.take::<Encoding>().map(|encoding| encoding.compress.into_inner()).unwrap_or_default()
        } else {
            std::mem::take(encoding.compress.get_mut())
        };
    }
}

/// `"x"` or `W/"x"`, without a quote inside (apisix/plugins/brotli.lua).
fn well_formed(tag: &[u8]) -> bool {
    match tag.strip_prefix(b"W/").unwrap_or(tag) {
        [b'"', inside @ .., b'"'] => !inside.contains(&b'"'),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
