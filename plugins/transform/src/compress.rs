//! `compress`: compresses responses with Brotli, zstd or gzip, whichever the client likes best.
//!
//! Use it instead of `gzip` and `brotli` side by side. The client's qualities in `Accept-Encoding` decide; among equals the
//! order of `algorithms` does. `types` and `exclude_types` say what is compressed; an entry may end with `/*`. Shorter
//! responses than `min_length` stay as they are. `Vary: Accept-Encoding` tells caches wherever the choice is the client's,
//! compressed or not; `ETag` becomes weak, `Content-Length` and `Accept-Ranges` go.
//!
//! What stays as it is: answers to HEAD, parts of a body (206), statuses without a body, what is encoded already, what
//! `Cache-Control: no-transform` of the request or the response protects, and what a digest of its bytes comes with
//! (`Content-Digest`, `Digest`, `Content-MD5`). A response of unknown length, such as server-sent events, is flushed with every
//! piece, so nothing is held back.
//!
//! It is Sluice's own. The surprise: its hooks run after those of all plugins that do not encode, on the route and in global
//! rules, so a body that another plugin put in place is compressed too.
use crate::compression::{self, Encoder, STREAM_WINDOW};
use brotli::enc::BrotliEncoderParams;
use brotli::enc::backward_references::BrotliEncoderMode;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_http::{Headers, Known, Method};
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Info, Phases, Plugin};

/// Brotli's window as a power of two: 4 MiB, as browsers expect of content.
const BROTLI_WINDOW: i32 = 22;

/// Configuration of `compress`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// What may be used, the most liked first among those that the client likes equally.
    #[serde(default = "algorithms")]
    #[schemars(length(min = 1, max = 3), extend("uniqueItems" = true))]
    algorithms: Vec<Algorithm>,
    /// Media types that are compressed; `text/*` stands for all types that begin so, `*` for all.
    #[serde(default = "types")]
    #[schemars(length(min = 1), inner(length(min = 1)))]
    types: Vec<String>,
    /// Media types that are not, in the same form.
    #[serde(default)]
    #[schemars(inner(length(min = 1)))]
    exclude_types: Vec<String>,
    /// Shorter responses stay as they are, if their length is known (bytes).
    #[serde(default = "min_length")]
    min_length: u64,
    /// How hard each algorithm tries.
    #[serde(default)]
    #[schemars(default = "Levels::default")]
    levels: Levels,
    /// Adds `Vary: Accept-Encoding`.
    #[serde(default = "yes")]
    vary: bool,
}

/// An algorithm by its name in `Content-Encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Algorithm {
    Br,
    Zstd,
    Gzip,
}

impl Algorithm {
    fn as_str(self) -> &'static str {
        match self {
            Algorithm::Br => "br",
            Algorithm::Zstd => "zstd",
            Algorithm::Gzip => "gzip",
        }
    }
}

/// Levels: small numbers are fast, large ones make small responses. Levels of zstd above 9 and of Brotli above 9 take tens of
/// MiB for each response under way.
#[derive(Debug, Deserialize, serde::Serialize, JsonSchema)]
#[schemars(inline)]
struct Levels {
    /// Brotli, 0 to 11.
    #[serde(default = "brotli_level")]
    #[schemars(range(min = 0, max = 11))]
    br: i32,
    /// zstd, 1 to 19.
    #[serde(default = "zstd_level")]
    #[schemars(range(min = 1, max = 19))]
    zstd: u32,
    /// gzip, 1 to 9.
    #[serde(default = "gzip_level")]
    #[schemars(range(min = 1, max = 9))]
    gzip: u32,
}

impl Default for Levels {
    fn default() -> Self {
        Levels { br: brotli_level(), zstd: zstd_level(), gzip: gzip_level() }
    }
}

fn algorithms() -> Vec<Algorithm> {
    vec![Algorithm::Br, Algorithm::Zstd, Algorithm::Gzip]
}
fn types() -> Vec<String> {
    [
        "text/*",
        "application/json",
        "application/ld+json",
        "application/problem+json",
        "application/x-ndjson",
        "application/javascript",
        "application/xml",
        "application/xhtml+xml",
        "application/rss+xml",
        "application/wasm",
        "application/vnd.ms-fontobject",
        "font/otf",
        "font/ttf",
        "image/svg+xml",
    ]
    .map(str::to_owned)
    .to_vec()
}
fn min_length() -> u64 {
    256
}
fn yes() -> bool {
    true
}
fn brotli_level() -> i32 {
    4
}
fn zstd_level() -> u32 {
    3
}
fn gzip_level() -> u32 {
    5
}

/// One entry of a list of types, in lower case.
enum Pattern {
    Exact(Box<[u8]>),
    /// With the `/` at its end; empty for `*`.
    Prefix(Box<[u8]>),
}

impl Pattern {
    fn new(text: &str) -> Pattern {
        let text = text.trim().to_ascii_lowercase();
        match text.strip_suffix('*') {
            Some(prefix) if prefix.ends_with('/') && prefix != "*/" => Pattern::Prefix(prefix.as_bytes().into()),
            Some("" | "*/") => Pattern::Prefix(Box::default()),
            _ => Pattern::Exact(text.as_bytes().into()),
        }
    }

    fn matches(&self, kind: &[u8]) -> bool {
        match self {
            Pattern::Exact(text) => kind.eq_ignore_ascii_case(text),
            Pattern::Prefix(prefix) => kind.get(..prefix.len()).is_some_and(|k| k.eq_ignore_ascii_case(prefix)),
        }
    }
}

/// The plugin.
pub struct Compress {
    algorithms: Box<[Algorithm]>,
    types: Box<[Pattern]>,
    exclude: Box<[Pattern]>,
    min_length: u64,
    brotli: BrotliEncoderParams,
    /// With a window for streams.
    streams: BrotliEncoderParams,
    zstd_level: u32,
    gzip_level: u32,
    vary: bool,
}

impl Define for Compress {
    const INFO: Info = Info::new("compress", 997, Phases::HEADER_FILTER.and(Phases::BODY_FILTER)).encodes();
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let patterns = |texts: &[String]| texts.iter().map(|t| Pattern::new(t)).collect();
        let brotli = |lgwin| BrotliEncoderParams {
            mode: BrotliEncoderMode::BROTLI_MODE_GENERIC,
            quality: config.levels.br,
            lgwin,
            ..Default::default()
        };
        Ok(Compress {
            brotli: brotli(BROTLI_WINDOW),
            streams: brotli(STREAM_WINDOW as i32),
            algorithms: config.algorithms.into(),
            types: patterns(&config.types),
            exclude: patterns(&config.exclude_types),
            min_length: config.min_length,
            zstd_level: config.levels.zstd,
            gzip_level: config.levels.gzip,
            vary: config.vary,
        })
    }
}

impl Compress {
    fn identity(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    /// Whether the response is one that is compressed for clients that want it.
    fn fits(&self, cx: &Context, length: Option<u64>) -> bool {
        let response = &cx.response;
        let Some(kind) = response.headers.known(Known::ContentType) else { return false };
        let kind = kind.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        let any = |patterns: &[Pattern]| patterns.iter().any(|p| p.matches(kind));
        !matches!(response.status, 100..200 | 204 | 206 | 304)
            && length.is_none_or(|length| length >= self.min_length)
            && any(&self.types)
            && !any(&self.exclude)
            && compression::is_plain(&response.headers)
            && !["content-range", "content-digest", "digest", "content-md5"]
                .iter()
                .any(|n| response.headers.contains(n))
            && !no_transform(&response.headers)
    }

    /// What the client likes best; what it likes equally is in our order.
    fn choose(&self, cx: &Context) -> Option<Algorithm> {
        if !cx.request.headers.contains("accept-encoding") {
            return None;
        }
        let mut best = None;
        for algorithm in &self.algorithms {
            let quality = compression::accepts(cx, algorithm.as_str()).quality();
            if let Some(quality) = quality
                && best.is_none_or(|(most, _)| quality > most)
            {
                best = Some((quality, *algorithm));
            }
        }
        best.map(|(_, algorithm)| algorithm)
    }

    fn encoder(&self, algorithm: Algorithm, length: Option<u64>) -> std::io::Result<Encoder> {
        Ok(match algorithm {
            Algorithm::Br => match length {
                Some(_) => Encoder::brotli(&self.brotli, length),
                None => Encoder::brotli(&self.streams, None),
            },
            Algorithm::Zstd => Encoder::zstd(self.zstd_level, length)?,
            Algorithm::Gzip => Encoder::gzip(self.gzip_level),
        })
    }
}

/// `Cache-Control: no-transform` (RFC 9111, 5.2.1.6 and 5.2.2.6).
fn no_transform(headers: &Headers) -> bool {
    headers.joined("cache-control").is_some_and(|value| {
        value.split(|b| *b == b',').any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
    })
}

/// Names `Accept-Encoding` in `Vary`, where nothing does yet.
fn vary(headers: &mut Headers) {
    let named = |value: &[u8]| {
        let mut names = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
        names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding"))
    };
    if !headers.get_all("vary").any(named) {
        headers.append("Vary", "Accept-Encoding");
    }
}

impl Plugin for Compress {
    fn header_filter(&self, cx: &mut Context) {
        let length = compression::length(cx);
        if !self.fits(cx, length) {
            return;
        }
        if self.vary {
            vary(&mut cx.response.headers);
        }
        if cx.client_sent_head() || cx.request.method == Method::Head || no_transform(&cx.request.headers) {
            return;
        }
        let Some(algorithm) = self.choose(cx) else { return };
        match self.encoder(algorithm, length) {
            Ok(encoder) => compression::begin(cx, self.identity(), algorithm.as_str(), encoder, length),
            // Memory is short: the response goes as it is.
            Err(error) => tracing::error!(%error, plugin = "compress", "no encoder"),
        }
    }

    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        compression::body_filter(cx, self.identity(), chunk);
    }
}

#[cfg(test)]
mod tests;
