//! Settings of the plugin and of its metadata, with APISIX's names and defaults. The surprise: a collector's settings are the
//! metadata's, so that all routes share them.
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Reports spans to an OpenTelemetry collector.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Which requests are reported.
    pub sampler: SamplerConfig,
    /// Variables that become attributes.
    pub additional_attributes: Option<Vec<String>>,
    /// Fields of the request that become attributes; all that begin so where a name ends in `*`.
    pub additional_header_prefix_attributes: Option<Vec<String>>,
}

/// A sampler by name.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct SamplerConfig {
    pub name: String,
    #[serde(default)]
    pub options: SamplerOptions,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct SamplerOptions {
    /// Of `trace_id_ratio`.
    #[serde(default)]
    pub fraction: f64,
    /// Of `parent_base`: who decides where nobody called with a trace.
    pub root: Option<Box<SamplerConfig>>,
}

/// `plugin_metadata`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Metadata {
    #[serde(default)]
    pub trace_id_source: TraceIdSource,
    #[serde(default)]
    pub resource: BTreeMap<String, Value>,
    #[serde(default)]
    pub collector: Collector,
    #[serde(default)]
    pub batch_span_processor: Processor,
    #[serde(default)]
    pub set_ngx_var: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
pub enum TraceIdSource {
    #[default]
    #[serde(rename = "random")]
    Random,
    #[serde(rename = "x-request-id")]
    RequestId,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Collector {
    pub address: String,
    pub request_timeout: u64,
    pub request_headers: Map<String, Value>,
}

impl Default for Collector {
    fn default() -> Collector {
        Collector { address: "127.0.0.1:4318".into(), request_timeout: 3, request_headers: Map::new() }
    }
}

/// opentelemetry-lua, trace/batch_span_processor.lua.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Processor {
    pub max_queue_size: u64,
    pub batch_timeout: f64,
    pub inactive_timeout: f64,
    pub max_export_batch_size: u64,
}

impl Default for Processor {
    fn default() -> Processor {
        Processor { max_queue_size: 2048, batch_timeout: 5.0, inactive_timeout: 2.0, max_export_batch_size: 256 }
    }
}

/// Schema of `plugin_metadata`.
pub fn metadata_schema() -> Value {
    let scalar = json!({"oneOf": [{"type": "boolean"}, {"type": "number"}, {"type": "string"}]});
    json!({
        "type": "object",
        "properties": {
            "trace_id_source": {"type": "string", "enum": ["x-request-id", "random"], "default": "random",
                "description": "the source of trace id"},
            "resource": {"type": "object", "description": "additional resource", "additionalProperties": scalar},
            "collector": {
                "type": "object",
                "description": "opentelemetry collector",
                "properties": {
                    "address": {"type": "string", "default": "127.0.0.1:4318",
                        "description": "host:port, a URL, or grpc://host:port"},
                    "request_timeout": {"type": "integer", "default": 3, "description": "seconds for one request"},
                    "request_headers": {"type": "object", "description": "http headers",
                        "additionalProperties": scalar},
                },
                "default": {"address": "127.0.0.1:4318", "request_timeout": 3},
            },
            "batch_span_processor": {
                "type": "object",
                "description": "batch span processor",
                "properties": {
                    "drop_on_queue_full": {"type": "boolean",
                        "description": "kept for APISIX's sake: spans beyond the queue are always dropped"},
                    "max_queue_size": {"type": "integer", "description": "spans that may wait"},
                    "batch_timeout": {"type": "number", "description": "seconds after which a batch is sent"},
                    "inactive_timeout": {"type": "number",
                        "description": "seconds without a new span after which a batch is sent"},
                    "max_export_batch_size": {"type": "integer", "description": "spans of a batch"},
                },
                "default": {},
            },
            "set_ngx_var": {"type": "boolean", "default": false, "description": "set nginx variables"},
        },
    })
}

/// Schema of the configuration (apisix/plugins/opentelemetry.lua).
pub fn schema() -> Value {
    let names = json!(["always_on", "always_off", "trace_id_ratio"]);
    let list = json!({"type": "array", "items": {"type": "string", "minLength": 1}});
    let mut schema = json!({
        "type": "object",
        "properties": {
            "sampler": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "enum": ["always_on", "always_off", "trace_id_ratio", "parent_base"],
                        "description": "sampling strategy", "default": "always_off"},
                    "options": {
                        "type": "object",
                        "properties": {
                            "fraction": {"type": "number", "description": "trace_id_ratio fraction", "default": 0},
                            "root": {
                                "type": "object",
                                "description": "parent_base root sampler",
                                "properties": {
                                    "name": {"type": "string", "enum": names, "description": "sampling strategy",
                                        "default": "always_off"},
                                    "options": {
                                        "type": "object",
                                        "properties": {"fraction": {"type": "number", "default": 0,
                                            "description": "trace_id_ratio fraction parameter"}},
                                        "default": {"fraction": 0},
                                    },
                                },
                                "default": {"name": "always_off", "options": {"fraction": 0}},
                            },
                        },
                        "default": {"fraction": 0, "root": {"name": "always_off"}},
                    },
                },
                "default": {"name": "always_off", "options": {"fraction": 0, "root": {"name": "always_off"}}},
            },
        },
    });
    schema["properties"]["additional_attributes"] = list.clone();
    schema["properties"]["additional_attributes"]["description"] = json!("Variables that become attributes.");
    schema["properties"]["additional_header_prefix_attributes"] = list;
    schema["properties"]["additional_header_prefix_attributes"]["description"] =
        json!("Fields of the request that become attributes; all that begin so where a name ends in `*`.");
    schema
}
