//! Kong's plugins as APISIX's. The surprise: a plugin that limits in several windows keeps only its shortest, since one
//! `limit-count` counts one window; the others become notes.
use super::{Converted, put_plugin};
use serde_json::{Map, Value, json};
use sluice_plugin::{Registry, Scope};

/// The plugins of an owner; those that cannot be carried over become notes.
pub(super) fn convert(out: &mut Converted, at: &str, plugins: &[&Value], registry: &Registry) -> Map<String, Value> {
    let mut all = Map::new();
    for plugin in plugins {
        let name = plugin["name"].as_str().unwrap_or_default();
        let at = format!("{at}.{name}");
        let mut notes = Vec::new();
        match map(name, &plugin["config"], &mut notes) {
            Ok((name, mut config)) => {
                if plugin["enabled"] == false {
                    config["_meta"] = json!({"disable": true});
                }
                put_plugin(out, &mut all, (name, Scope::Route), config, &at, registry);
            }
            Err(why) => out.note(&at, format!("not carried over: {why}")),
        }
        notes.into_iter().for_each(|note: String| out.note(&at, note));
    }
    all
}

/// Plugins that keep requests out and that have no equivalent with the same settings.
const GUARDS: [&str; 11] = [
    "acl",
    "openid-connect",
    "oauth2",
    "oauth2-introspection",
    "ldap-auth",
    "ldap-auth-advanced",
    "mtls-auth",
    "key-auth-enc",
    "vault-auth",
    "saml",
    "opa",
];

/// Whether an owner had a guard that is not carried over: what it guarded must not become open.
pub(super) fn lost_guard(owner: &Value) -> bool {
    let plugins = owner["plugins"].as_array().into_iter().flatten();
    let mut names = plugins.filter(|plugin| plugin["enabled"] != false).filter_map(|plugin| plugin["name"].as_str());
    names.any(|name| GUARDS.contains(&name))
}

/// Copies fields under other names; null and empty values are left out.
fn carry(config: &Value, names: &[(&str, &str)]) -> Value {
    let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    let fields = names.iter().filter(|(from, _)| !empty(&config[*from]));
    Value::Object(fields.map(|(from, to)| ((*to).to_owned(), config[*from].clone())).collect())
}

fn joined(value: &Value) -> Option<String> {
    let items: Vec<&str> = value.as_array()?.iter().filter_map(Value::as_str).collect();
    (!items.is_empty()).then(|| items.join(","))
}

fn map(name: &str, config: &Value, notes: &mut Vec<String>) -> Result<(&'static str, Value), String> {
    if config["anonymous"].is_string() {
        notes.push("`anonymous` is not carried over: see `anonymous_consumer`".into());
    }
    Ok(match name {
        "key-auth" => {
            let mut out = carry(config, &[("hide_credentials", "hide_credentials")]);
            let names: Vec<&str> =
                config["key_names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if let Some(first) = names.first() {
                out["header"] = (*first).into();
                out["query"] = (*first).into();
            }
            if names.len() > 1 {
                notes.push(format!("only the first of the key_names is carried over: {}", names.join(", ")));
            }
            ("key-auth", out)
        }
        "basic-auth" => ("basic-auth", carry(config, &[("hide_credentials", "hide_credentials")])),
        "jwt" => ("jwt-auth", carry(config, &[("key_claim_name", "key_claim_name")])),
        "hmac-auth" => {
            notes.push("clients must sign as APISIX's hmac-auth wants it".into());
            ("hmac-auth", json!({}))
        }
        "rate-limiting" => ("limit-count", rate_limiting(config, notes)?),
        "cors" => ("cors", cors(config)),
        "ip-restriction" => {
            ("ip-restriction", carry(config, &[("allow", "whitelist"), ("deny", "blacklist"), ("message", "message")]))
        }
        "request-transformer" | "request-transformer-advanced" => ("proxy-rewrite", request_transformer(config, notes)),
        "response-transformer" => {
            let mut headers = headers(config, notes);
            // response-rewrite wants a list of `name:value`, since a header may be added twice.
            if let Some(added) = headers["add"].as_object() {
                let pair = |(name, value): (&String, &Value)| format!("{name}:{}", value.as_str().unwrap_or_default());
                headers["add"] = added.iter().map(pair).collect::<Vec<_>>().into();
            }
            ("response-rewrite", json!({"headers": headers}))
        }
        "correlation-id" => {
            ("request-id", carry(config, &[("header_name", "header_name"), ("echo_downstream", "include_in_response")]))
        }
        "request-size-limiting" => {
            let megabytes = config["allowed_payload_size"].as_u64().unwrap_or(128);
            ("client-control", json!({"max_body_size": megabytes.saturating_mul(1 << 20)}))
        }
        "request-termination" => {
            let body = config["body"].as_str().map(str::to_owned);
            let message = config["message"].as_str().map(|text| json!({"message": text}).to_string());
            let mut abort = json!({"http_status": config["status_code"].as_u64().unwrap_or(503)});
            if let Some(text) = body.or(message) {
                abort["body"] = text.into();
            }
            ("fault-injection", json!({"abort": abort}))
        }
        "bot-detection" => ("ua-restriction", carry(config, &[("allow", "allowlist"), ("deny", "denylist")])),
        "prometheus" => ("prometheus", json!({})),
        "http-log" => ("http-logger", json!({"uri": config["http_endpoint"]})),
        "file-log" => ("file-logger", json!({"path": config["path"]})),
        "tcp-log" => ("tcp-logger", json!({"host": config["host"], "port": config["port"]})),
        "udp-log" => ("udp-logger", json!({"host": config["host"], "port": config["port"]})),
        "openid-connect" | "oauth2" => return Err("see openid-connect; its settings differ".into()),
        "acl" => return Err("see consumer-restriction".into()),
        "proxy-cache" => return Err("see proxy-cache; its zones are settings of the gateway".into()),
        "pre-function" | "post-function" => return Err("it is Lua for Kong's SDK".into()),
        other => return Err(format!("no equivalent of {other:?}")),
    })
}

fn rate_limiting(config: &Value, notes: &mut Vec<String>) -> Result<Value, String> {
    const WINDOWS: [(&str, u64); 6] =
        [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86_400), ("month", 2_592_000), ("year", 31_536_000)];
    let mut given = WINDOWS.iter().filter_map(|(name, seconds)| Some((*name, *seconds, config[*name].as_u64()?)));
    let (_, seconds, count) = given.next().ok_or("no window is set")?;
    for (name, _, count) in given {
        notes.push(format!("{count} a {name} is not carried over: limit-count has one window"));
    }
    let key = match config["limit_by"].as_str().unwrap_or("consumer") {
        "consumer" | "credential" => "consumer_name".to_owned(),
        "ip" => "remote_addr".to_owned(),
        "header" => format!(
            "http_{}",
            config["header_name"].as_str().unwrap_or_default().to_ascii_lowercase().replace('-', "_")
        ),
        "path" => "uri".to_owned(),
        "service" => "service_id".to_owned(),
        other => return Err(format!("limit_by {other:?}")),
    };
    let mut out = json!({
        "count": count,
        "time_window": seconds,
        "key_type": "var",
        "key": key,
        "rejected_code": config["error_code"].as_u64().unwrap_or(429),
    });
    if let Some(message) = config["error_message"].as_str() {
        out["rejected_msg"] = message.into();
    }
    match config["policy"].as_str().unwrap_or("local") {
        "redis" => {
            let redis = if config["redis"].is_object() { &config["redis"] } else { config };
            out["policy"] = "redis".into();
            for (from, old, to) in [
                ("host", "redis_host", "redis_host"),
                ("port", "redis_port", "redis_port"),
                ("password", "redis_password", "redis_password"),
                ("username", "redis_username", "redis_username"),
                ("database", "redis_database", "redis_database"),
            ] {
                let value = if redis[from].is_null() { &redis[old] } else { &redis[from] };
                if !value.is_null() {
                    out[to] = value.clone();
                }
            }
        }
        "local" => {}
        other => notes.push(format!("policy {other:?} became local: each node counts for itself")),
    }
    Ok(out)
}

fn cors(config: &Value) -> Value {
    let mut out = json!({});
    for (from, to) in [
        ("origins", "allow_origins"),
        ("methods", "allow_methods"),
        ("headers", "allow_headers"),
        ("exposed_headers", "expose_headers"),
    ] {
        if let Some(text) = joined(&config[from]) {
            out[to] = text.into();
        }
    }
    if let Some(age) = config["max_age"].as_i64() {
        out["max_age"] = age.into();
    }
    if config["credentials"] == true {
        out["allow_credential"] = true.into();
        // `*` together with credentials is refused by browsers, and by the plugin.
        for field in ["allow_origins", "allow_methods", "allow_headers", "expose_headers"] {
            if out[field].is_null() || out[field] == "*" {
                out[field] = "**".into();
            }
        }
    }
    out
}

fn request_transformer(config: &Value, notes: &mut Vec<String>) -> Value {
    let mut out = json!({});
    let headers = headers(config, notes);
    if headers.as_object().is_some_and(|map| !map.is_empty()) {
        out["headers"] = headers;
    }
    if let Some(uri) = config["replace"]["uri"].as_str() {
        out["uri"] = uri.into();
    }
    if let Some(method) = config["http_method"].as_str() {
        out["method"] = method.into();
    }
    out
}

/// `add`, `set` and `remove` of headers from `["name:value", …]`.
fn headers(config: &Value, notes: &mut Vec<String>) -> Value {
    let mut out = json!({});
    for (action, to) in [("add", "add"), ("append", "add"), ("replace", "set")] {
        for pair in config[action]["headers"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if let Some((name, value)) = pair.split_once(':') {
                out[to][name.trim()] = value.trim().into();
            }
        }
    }
    let removed = &config["remove"]["headers"];
    if removed.as_array().is_some_and(|names| !names.is_empty()) {
        out["remove"] = removed.clone();
    }
    for action in ["add", "append", "replace", "remove", "rename"] {
        for part in ["body", "querystring", "json", "headers"] {
            let carried = part == "headers" && action != "rename";
            if !carried && config[action][part].as_array().is_some_and(|items| !items.is_empty()) {
                notes.push(format!("{action}.{part} is not carried over"));
            }
        }
    }
    out
}
