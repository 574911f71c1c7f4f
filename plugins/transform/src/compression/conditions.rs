//! What `gzip` and `brotli` have in common in their configuration: which responses are worth compressing, for which requests.
use super::types::{Config, Types, types_schema};
use schemars::JsonSchema;
use serde_json::{Value, json};
use sluice_http::{Known, Version};
use sluice_plugin::{Context, schema_of};

/// `types`, `min_length` and `http_version`, compiled.
pub(crate) struct Conditions {
    types: Types,
    /// Bytes.
    min_length: u64,
    lowest_version: Version,
}

impl Conditions {
    pub(crate) fn new(types: Config, min_length: u64, http_version: f64) -> Conditions {
        let lowest_version = if http_version < 1.1 { Version::Http10 } else { Version::Http11 };
        Conditions { types: Types::new(types), min_length, lowest_version }
    }

    /// `length` is the body's, where it is known.
    pub(crate) fn hold(&self, cx: &Context, length: Option<u64>) -> bool {
        let Some(kind) = cx.response.headers.known(Known::ContentType) else { return false };
        self.types.has(kind)
            && length.is_none_or(|length| length >= self.min_length)
            && cx.request.version >= self.lowest_version
    }
}

/// The schema of a configuration with `types` and `http_version` in APISIX's words.
pub(crate) fn schema<C: JsonSchema>() -> Value {
    let mut schema = schema_of::<C>();
    let properties = &mut schema["properties"];
    let description = properties["types"]["description"].take();
    properties["types"] = types_schema(description);
    let description = properties["http_version"]["description"].take();
    properties["http_version"] = json!({"enum": [1.1, 1.0], "default": 1.1, "description": description});
    schema
}

/// The default of `min_length`, bytes.
pub(crate) fn twenty() -> u64 {
    20
}

/// The default of `http_version`.
pub(crate) fn http11() -> f64 {
    1.1
}
