//! The configuration, with APISIX's schema (apisix/plugins/proxy-cache/init.lua) and what is added to it.
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_engine_cache::Zones;
use sluice_plugin::BuildError;

#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// Largest body in bytes that is taken into memory to be stored.
    pub max_resp_body_size: u64,
    /// Name of the zone.
    pub cache_zone: String,
    /// Kind of the zone.
    pub cache_strategy: String,
    pub cache_key: Vec<String>,
    pub cache_http_status: Vec<u16>,
    pub cache_method: Vec<String>,
    pub hide_cache_headers: bool,
    pub cache_control: bool,
    #[serde(default)]
    pub cache_bypass: Vec<String>,
    #[serde(default)]
    pub no_cache: Vec<String>,
    pub cache_ttl: u64,
    pub consumer_isolation: bool,
    pub cache_set_cookie: bool,
    pub cache_lock: bool,
    pub cache_lock_timeout: f64,
    pub stale_while_revalidate: u64,
    pub stale_if_error: u64,
}

pub(super) fn schema() -> Value {
    const PART: &str = r"(^[^\$].+$|^\$[0-9a-zA-Z_]+$)";
    let parts = json!({"type": "array", "minItems": 1, "items": {"type": "string", "pattern": PART}});
    let describe = |mut schema: Value, text: &str| {
        schema["description"] = text.into();
        schema
    };
    json!({
        "type": "object",
        "properties": {
            "max_resp_body_size": {"type": "integer", "minimum": 1, "default": 67_108_864,
                "description": "Largest body in bytes that is stored in memory, Redis or Memcached; larger ones pass through"},
            "cache_zone": {"type": "string", "minLength": 1, "maxLength": 100, "default": "disk_cache_one",
                "description": "A zone of apisix.proxy_cache.zones in config.yaml"},
            "cache_strategy": {"type": "string", "enum": ["disk", "memory", "redis", "memcached"], "default": "disk",
                "description": "Where the zone keeps answers"},
            "cache_key": {"type": "array", "minItems": 1, "default": ["$host", "$request_uri"],
                "items": {"description": "a key for caching", "type": "string", "pattern": PART},
                "description": "What tells resources apart: texts and variables"},
            "cache_http_status": {"type": "array", "minItems": 1, "uniqueItems": true, "default": [200, 301, 404],
                "items": {"description": "http response status", "type": "integer", "minimum": 200, "maximum": 599},
                "description": "Statuses of answers that are stored"},
            "cache_method": {"type": "array", "minItems": 1, "uniqueItems": true, "default": ["GET", "HEAD"],
                "items": {"description": "supported http method", "type": "string", "enum": ["GET", "POST", "HEAD"]},
                "description": "Methods of requests that are answered from the cache"},
            "hide_cache_headers": {"type": "boolean", "default": false,
                "description": "Clients do not see Cache-Control and Expires"},
            "cache_control": {"type": "boolean", "default": false,
                "description": "The rules of RFC 9111: freshness as the answer says, directives of requests"},
            "cache_bypass": describe(parts.clone(), "Where these together are neither empty nor 0, the upstream is asked"),
            "no_cache": describe(parts, "Where these together are neither empty nor 0, the answer is not stored"),
            "cache_ttl": {"type": "integer", "minimum": 1, "default": 300,
                "description": "Seconds for which an answer is fresh without cache_control; on disk apisix.proxy_cache.cache_ttl"},
            "consumer_isolation": {"type": "boolean", "default": true,
                "description": "Each consumer has answers of his own"},
            "cache_set_cookie": {"type": "boolean", "default": false,
                "description": "Answers with Set-Cookie are stored"},
            "cache_lock": {"type": "boolean", "default": true,
                "description": "Concurrent misses wait for the first one's answer"},
            "cache_lock_timeout": {"type": "number", "exclusiveMinimum": 0, "maximum": 3600, "default": 5,
                "description": "Seconds for which they wait before they ask themselves"},
            "stale_while_revalidate": {"type": "integer", "minimum": 0, "default": 0,
                "description": "Seconds for which a stale answer is used while a new one is fetched, where the answer does not say"},
            "stale_if_error": {"type": "integer", "minimum": 0, "default": 0,
                "description": "Seconds for which a stale answer is used where the upstream fails, where the answer does not say"},
        },
    })
}

impl Config {
    /// apisix/plugins/proxy-cache/init.lua `check_schema`.
    pub(super) fn check_zone(&self, zones: &Zones) -> Result<(), BuildError> {
        if !zones.known {
            return Ok(());
        }
        let strategy = &self.cache_strategy;
        match zones.settings(&self.cache_zone) {
            None => Err(BuildError::new(format!("cache_zone {} not found", self.cache_zone))),
            Some(zone) if zone.place.strategy() != strategy => {
                Err(BuildError::new(format!("invalid or empty cache_zone for cache_strategy: {strategy}")))
            }
            Some(_) => Ok(()),
        }
    }
}
