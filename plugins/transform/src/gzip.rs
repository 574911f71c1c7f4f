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
use flate2::{Compress, Compression, FlushCompress, Status};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_http::{Known, Method, Version};
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Info, Phases, Plugin, schema_of};
use std::cell::RefCell;

mod accept;

/// Compressors that a thread keeps for later responses (each some 300 KiB).
const IDLE_COMPRESSORS: usize = 8;
/// zlib's window for gzip, as a power of two: 32 KiB.
const WINDOW_BITS: u8 = 15;
/// The level that stands for 1: zlib-rs's own makes responses 15 to 25 % larger than that of zlib, which nginx has; its
/// 2 makes them as small as zlib's 1, in less time.
const FASTEST: u32 = 2;

/// Configuration of `gzip`.
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

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Types {
    These(Vec<String>),
    All(#[allow(dead_code, reason = "the schema lets nothing but `*` through")] String),
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

fn html() -> Types {
    Types::These(vec!["text/html".into()])
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
    /// `None`: all.
    types: Option<Box<[Box<[u8]>]>>,
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
        Ok(Gzip {
            types: match config.types {
                Types::These(types) => Some(types.into_iter().map(|t| t.into_bytes().into()).collect()),
                Types::All(_) => None,
            },
            min_length: config.min_length,
            level: config.comp_level.max(FASTEST),
            lowest_version: if config.http_version < 1.1 { Version::Http10 } else { Version::Http11 },
            vary: config.vary == Some(true),
        })
    }
}

/// A compressor at work on one response.
struct Encoding {
    /// The instance that began it; a global rule and a route may both have one.
    owner: usize,
    level: u32,
    compress: Option<Compress>,
    /// Every piece is flushed.
    streams: bool,
    begun: bool,
}

thread_local! {
    static IDLE: RefCell<Vec<(u32, Compress)>> = const { RefCell::new(Vec::new()) };
}

fn compressor(level: u32) -> Compress {
    let idle = IDLE.with_borrow_mut(|idle| {
        let at = idle.iter().position(|(l, _)| *l == level)?;
        Some(idle.swap_remove(at).1)
    });
    idle.unwrap_or_else(|| Compress::new_gzip(Compression::new(level), WINDOW_BITS))
}

impl Drop for Encoding {
    fn drop(&mut self) {
        let Some(mut compress) = self.compress.take() else { return };
        compress.reset();
        // The thread may be ending; then nothing is kept.
        let _ = IDLE.try_with(|idle| {
            let Ok(mut idle) = idle.try_borrow_mut() else { return };
            if idle.len() < IDLE_COMPRESSORS {
                idle.push((self.level, compress));
            }
        });
    }
}

impl Gzip {
    fn identity(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    /// What the configuration says (apisix/plugins/gzip.lua).
    fn fits(&self, cx: &Context, length: Option<u64>) -> bool {
        let Some(kind) = cx.response.headers.known(Known::ContentType) else { return false };
        if let Some(types) = &self.types {
            let kind = kind.split(|b| *b == b';').next().unwrap_or_default();
            if !types.iter().any(|t| **t == *kind) {
                return false;
            }
        }
        length.is_none_or(|length| length >= self.min_length) && cx.request.version >= self.lowest_version
    }
}

/// What nginx says (ngx_http_gzip_filter_module, `ngx_http_gzip_ok` with `gzip_proxied off`).
fn compressible(cx: &Context) -> bool {
    let (request, response) = (&cx.request, &cx.response);
    matches!(response.status, 200 | 403 | 404)
        && request.method != Method::Head
        && response.headers.get("content-encoding").is_none_or(<[u8]>::is_empty)
        && request.headers.get("accept-encoding").is_some_and(accept::gzip)
        && !request.headers.contains("via")
}

impl Plugin for Gzip {
    fn header_filter(&self, cx: &mut Context) {
        let text = cx.response.headers.known(Known::ContentLength).and_then(|v| std::str::from_utf8(v).ok());
        let length = text.and_then(|t| t.parse().ok());
        if !self.fits(cx, length) {
            return;
        }
        let compress = compressible(cx);
        let headers = &mut cx.response.headers;
        if self.vary {
            headers.append("Vary", "Accept-Encoding");
        }
        if !compress {
            return;
        }
        headers.remove("content-length");
        headers.remove("accept-ranges");
        headers.set("Content-Encoding", "gzip");
        let etag = headers.get("etag").map(|tag| (tag.first().copied(), tag.starts_with(b"W/"), [b"W/", tag].concat()));
        match etag {
            None | Some((_, true, _)) => {}
            Some((Some(b'"'), false, weak)) => headers.set("ETag", weak),
            Some(_) => {
                headers.remove("etag");
            }
        }
        // The gateway's own answers come in one piece.
        let streams = length.is_none() && !cx.own_response;
        let compress = Some(compressor(self.level));
        cx.insert(Encoding { owner: self.identity(), level: self.level, compress, streams, begun: false });
        cx.filter_body();
    }

    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        let owner = self.identity();
        if cx.get::<Encoding>().is_none_or(|e| e.owner != owner || !e.begun && !still_gzip(cx)) {
            return;
        }
        let Some(encoding) = cx.get_mut::<Encoding>() else { return };
        encoding.begun = true;
        if chunk.data.is_empty() && !chunk.last {
            return;
        }
        let Some(compress) = &mut encoding.compress else { return };
        let flush = match (chunk.last, encoding.streams) {
            (true, _) => FlushCompress::Finish,
            (false, true) => FlushCompress::Sync,
            (false, false) => FlushCompress::None,
        };
        let mut out = Vec::with_capacity(chunk.data.len() / 2 + 64);
        deflate(compress, &chunk.data, flush, &mut out);
        chunk.data = out;
        if chunk.last {
            cx.take::<Encoding>();
        }
    }
}

/// Whether no later plugin has put another body in place of the one that this was to compress.
fn still_gzip(cx: &Context) -> bool {
    cx.response.headers.get("content-encoding") == Some(b"gzip")
}

/// Feeds the whole input and appends all output that is there.
fn deflate(compress: &mut Compress, input: &[u8], flush: FlushCompress, out: &mut Vec<u8>) {
    let begin = compress.total_in();
    loop {
        let used = (compress.total_in() - begin) as usize;
        let rest = input.get(used..).unwrap_or_default();
        if out.capacity() - out.len() < 64 {
            out.reserve(out.capacity().max(1024));
        }
        match compress.compress_vec(rest, out, flush) {
            Ok(Status::StreamEnd) => return,
            // zlib is done with a flush when it leaves room in the output.
            Ok(Status::Ok) | Ok(Status::BufError) => {
                let all_in = (compress.total_in() - begin) as usize == input.len();
                if all_in && flush != FlushCompress::Finish && out.len() < out.capacity() {
                    return;
                }
            }
            // Cannot happen with a stream that was begun and not ended; what is out so far is all there is.
            Err(e) => {
                tracing::error!(error = %e, "gzip failed");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
