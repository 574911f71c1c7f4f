//! Schemas of `discovery.<type>` in config.yaml (apisix/discovery/*/schema.lua). The surprise: `kubernetes` is one cluster, or
//! a list of them, and the defaults of the two differ.

use crate::schema::Schema;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// The kinds of registry that are asked.
pub const TYPES: [&str; 6] = ["dns", "consul", "consul_kv", "nacos", "eureka", "kubernetes"];

/// The schema of a kind of registry, by its name. Of `kubernetes` it is that of one cluster.
pub fn registry(name: &str) -> Option<&'static Schema> {
    Some(match name {
        "dns" => &DNS,
        "consul" => &CONSUL,
        "consul_kv" => &CONSUL_KV,
        "nacos" => &NACOS,
        "eureka" => &EUREKA,
        "kubernetes" => &KUBERNETES,
        _ => return None,
    })
}

/// The schema of one of several clusters of `kubernetes`.
pub fn kubernetes_of_several() -> &'static Schema {
    &KUBERNETES_OF_SEVERAL
}

static DNS: LazyLock<Schema> = LazyLock::new(|| super::built_in(dns()));
static CONSUL: LazyLock<Schema> = LazyLock::new(|| super::built_in(consul()));
static CONSUL_KV: LazyLock<Schema> = LazyLock::new(|| super::built_in(consul_kv()));
static NACOS: LazyLock<Schema> = LazyLock::new(|| super::built_in(nacos()));
static EUREKA: LazyLock<Schema> = LazyLock::new(|| super::built_in(eureka()));
static KUBERNETES: LazyLock<Schema> = LazyLock::new(|| super::built_in(kubernetes()));
static KUBERNETES_OF_SEVERAL: LazyLock<Schema> = LazyLock::new(|| super::built_in(kubernetes_entry()));

fn strings() -> Value {
    json!({"type": "array", "minItems": 1, "items": {"type": "string"}})
}

fn at_least(minimum: u32, default: u32) -> Value {
    json!({"type": "integer", "minimum": minimum, "default": default})
}

fn dns() -> Value {
    json!({
        "type": "object",
        "properties": {
            "servers": strings(),
            "resolv_conf": {"type": "string"},
            "order": {
                "type": "array", "minItems": 1, "maxItems": 5, "uniqueItems": true,
                "items": {"enum": ["last", "SRV", "A", "AAAA", "CNAME"]}
            }
        },
        "oneOf": [{"required": ["servers"]}, {"required": ["resolv_conf"]}]
    })
}

/// What Consul's catalog and its key-value store have in common.
fn consul_base() -> serde_json::Map<String, Value> {
    let Value::Object(properties) = json!({
        "servers": strings(),
        "token": {"type": "string", "default": ""},
        "fetch_interval": at_least(1, 3),
        "keepalive": {"type": "boolean", "default": true},
        "weight": at_least(1, 1),
        "timeout": {
            "type": "object",
            "properties": {"connect": at_least(1, 2000), "read": at_least(1, 2000), "wait": at_least(1, 60)},
            "default": {"connect": 2000, "read": 2000, "wait": 60}
        },
        "dump": {
            "type": "object",
            "properties": {
                "path": {"type": "string", "minLength": 1},
                "load_on_init": {"type": "boolean", "default": true},
                "expire": {"type": "integer", "default": 0}
            },
            "required": ["path"]
        },
        "default_service": {
            "type": "object",
            "properties": {
                "host": {"type": "string"},
                "port": {"type": "integer"},
                "metadata": {
                    "type": "object",
                    "properties": {
                        "fail_timeout": {"type": "integer", "default": 1},
                        "weight": {"type": "integer", "default": 1},
                        "max_fails": {"type": "integer", "default": 1}
                    },
                    "default": {"fail_timeout": 1, "weight": 1, "max_fails": 1}
                }
            }
        }
    }) else {
        return serde_json::Map::new();
    };
    properties
}

fn consul() -> Value {
    let mut properties = consul_base();
    properties.insert("shared_size".into(), shared_size());
    properties.insert("skip_services".into(), strings());
    let sorts = json!(["origin", "host_sort", "port_sort", "combine_sort"]);
    properties.insert("sort_type".into(), json!({"type": "string", "enum": sorts, "default": "origin"}));
    json!({"type": "object", "properties": properties, "required": ["servers"]})
}

fn consul_kv() -> Value {
    let mut properties = consul_base();
    properties.insert("prefix".into(), json!({"type": "string", "default": "upstreams"}));
    properties.insert("skip_keys".into(), strings());
    json!({"type": "object", "properties": properties, "required": ["servers"]})
}

/// Room in nginx's shared memory; taken and without meaning here.
fn shared_size() -> Value {
    json!({"type": "string", "pattern": "^[1-9][0-9]*m$", "default": "64m"})
}

fn times() -> Value {
    json!({
        "type": "object",
        "properties": {"connect": at_least(1, 2000), "send": at_least(1, 2000), "read": at_least(1, 5000)}
    })
}

fn nacos() -> Value {
    let mut timeout = times();
    timeout["default"] = json!({"connect": 2000, "send": 2000, "read": 5000});
    json!({
        "type": "object",
        "properties": {
            "host": {
                "type": "array", "minItems": 1,
                "items": {
                    "type": "string", "minLength": 2, "maxLength": 100,
                    "pattern": "^https?://([a-zA-Z0-9_.-]+:.+@)?[a-zA-Z0-9_.:-]+$"
                }
            },
            "fetch_interval": at_least(1, 30),
            "prefix": {"type": "string", "pattern": "^[/a-zA-Z0-9_.-]+$", "maxLength": 100, "default": "/nacos/v1/"},
            "weight": at_least(1, 100),
            "timeout": timeout,
            "access_key": {"type": "string", "default": ""},
            "secret_key": {"type": "string", "default": ""}
        },
        "required": ["host"]
    })
}

fn eureka() -> Value {
    json!({
        "type": "object",
        "properties": {
            "host": strings(),
            "fetch_interval": at_least(1, 30),
            "prefix": {"type": "string"},
            "weight": {"type": "integer", "minimum": 0},
            "timeout": times()
        },
        "required": ["host"]
    })
}

const VARIABLE: &str = r"^\$\{[_A-Za-z]([_A-Za-z0-9]*[_A-Za-z])*\}$";

fn host() -> Value {
    let name = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
    json!({"type": "string", "oneOf": [{"pattern": VARIABLE}, {"pattern": name}]})
}

fn port() -> Value {
    let number = r"^([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])$";
    json!({"type": "string", "oneOf": [{"pattern": VARIABLE}, {"pattern": number}]})
}

fn scheme() -> Value {
    json!({"type": "string", "enum": ["http", "https"], "default": "https"})
}

fn token() -> Value {
    json!({
        "type": "string",
        "oneOf": [{"pattern": r"\$\{[_A-Za-z]([_A-Za-z0-9]*[_A-Za-z])*\}$"}, {"pattern": r"^[A-Za-z0-9+/._=-]{0,4096}$"}]
    })
}

fn token_file() -> Value {
    json!({"type": "string", "pattern": r#"^[^\\:*?"<>|]*$"#, "minLength": 1, "maxLength": 500})
}

/// What one cluster has, whether alone or among several.
fn cluster() -> serde_json::Map<String, Value> {
    let namespace = json!({"type": "string", "pattern": "^[a-z0-9]([-a-z0-9_.]*[a-z0-9])?$"});
    let patterns = json!({"type": "array", "minItems": 1, "items": {"type": "string", "pattern": r"^[\x21-\x7e]*$"}});
    let Value::Object(properties) = json!({
        "namespace_selector": {
            "type": "object",
            "properties": {"equal": namespace, "not_equal": namespace, "match": patterns, "not_match": patterns},
            "maxProperties": 1
        },
        "label_selector": {"type": "string"},
        "default_weight": {"type": "integer", "default": 50, "minimum": 0},
        "shared_size": shared_size(),
        "watch_endpoint_slices": {"type": "boolean", "default": false}
    }) else {
        return serde_json::Map::new();
    };
    properties
}

fn kubernetes() -> Value {
    const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let (mut host, mut port) = (host(), port());
    host["default"] = json!("${KUBERNETES_SERVICE_HOST}");
    port["default"] = json!("${KUBERNETES_SERVICE_PORT}");
    let service = json!({
        "type": "object",
        "properties": {"schema": scheme(), "host": host, "port": port, "ssl_verify": {"type": "boolean"}},
        "default": {
            "schema": "https", "host": "${KUBERNETES_SERVICE_HOST}", "port": "${KUBERNETES_SERVICE_PORT}"
        }
    });
    let client = json!({
        "type": "object",
        "properties": {"token": token(), "token_file": token_file()},
        "default": {"token_file": TOKEN_FILE},
        "if": {"not": {"anyOf": [{"required": ["token"]}, {"required": ["token_file"]}]}},
        "then": {"properties": {"token_file": {"default": TOKEN_FILE}}}
    });
    let mut properties = cluster();
    properties.insert("service".into(), service);
    properties.insert("client".into(), client);
    json!({"type": "object", "properties": properties})
}

fn kubernetes_entry() -> Value {
    let mut properties = cluster();
    properties.insert("id".into(), json!({"type": "string", "pattern": "^[a-z0-9]{1,64}$"}));
    let service = json!({"schema": scheme(), "host": host(), "port": port(), "ssl_verify": {"type": "boolean"}});
    properties.insert("service".into(), json!({"type": "object", "properties": service, "required": ["host", "port"]}));
    properties.insert(
        "client".into(),
        json!({
            "type": "object",
            "properties": {"token": token(), "token_file": token_file()},
            "oneOf": [{"required": ["token"]}, {"required": ["token_file"]}]
        }),
    );
    json!({"type": "object", "properties": properties, "required": ["id", "service", "client"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(kind: &str, mut conf: Value) -> Result<Value, String> {
        registry(kind).unwrap().check(&mut conf).map(|()| conf).map_err(|violation| violation.message)
    }

    #[test]
    fn defaults_are_those_of_apisix() {
        let conf = checked("consul_kv", json!({"servers": ["http://127.0.0.1:8500"]})).unwrap();
        let expected = json!({
            "fetch_interval": 3, "keepalive": true, "prefix": "upstreams", "servers": ["http://127.0.0.1:8500"],
            "timeout": {"connect": 2000, "read": 2000, "wait": 60}, "token": "", "weight": 1
        });
        assert_eq!(conf, expected);
        let conf = checked("kubernetes", json!({"client": {}})).unwrap();
        assert_eq!(conf["service"]["port"], "${KUBERNETES_SERVICE_PORT}");
        assert_eq!(conf["client"]["token_file"], "/var/run/secrets/kubernetes.io/serviceaccount/token");
        assert!(checked("nacos", json!({"host": ["http://nacos:nacos@127.0.0.1:8848"]})).is_ok());
        assert!(checked("dns", json!({"servers": ["127.0.0.1:53"], "order": ["last", "SRV"]})).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_in_apisix_words() {
        for (kind, conf, message) in [
            ("consul", json!({}), "property \"servers\" is required"),
            (
                "dns",
                json!({"servers": ["127.0.0.1"], "order": ["A", "A"]}),
                "property \"order\" validation failed: expected unique items but items 1 and 2 are equal",
            ),
            (
                "nacos",
                json!({"host": ["ftp://127.0.0.1"]}),
                "property \"host\" validation failed: failed to validate item 1: failed to match pattern",
            ),
            (
                "kubernetes",
                json!({"service": {"port": "70000"}}),
                "property \"service\" validation failed: property \"port\" validation failed: value should match only \
                 one schema, but matches none",
            ),
            (
                "eureka",
                json!({"host": ["http://127.0.0.1:8761"], "fetch_interval": 0}),
                "property \"fetch_interval\" validation failed: expected 0 to be at least 1",
            ),
        ] {
            let error = checked(kind, conf).unwrap_err();
            assert!(error.starts_with(message), "{kind}: {error}");
        }
        let mut entry = json!({"id": "first", "service": {"host": "a", "port": "6443"}, "client": {}});
        let error = kubernetes_of_several().check(&mut entry).unwrap_err();
        assert!(error.message.contains("matches none"), "{error}");
    }
}
