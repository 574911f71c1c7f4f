//! Checks of upstreams, alone or embedded (apisix/upstream.lua `check_upstream_conf`). Surprise: the Admin API refuses an
//! IPv6 node without brackets, while a node fed by etcd or a file adds them.

use super::{Checked, Checks, Invalid, balancing, ssl};
use crate::kind::Kind;
use crate::node::{is_bare_ipv6, split_address};
use crate::schema::Schema;
use crate::{id, schemas, secret};
use serde_json::Value;

pub(super) fn check(base: &str, follow: bool, body: &mut Value, checks: &Checks<'_>) -> Checked {
    let bare = nodes(body).any(|node| node.get("host").and_then(Value::as_str).is_some_and(is_bare_ipv6));
    if bare {
        let message = "invalid configuration: IPv6 address must be enclosed with '[' and ']'";
        return Err(Invalid::at(&format!("{base}/nodes"), message));
    }
    check_fallback(base, body, checks)?;
    schemas::schema(Kind::Upstream)
        .check(body)
        .map_err(|violation| Invalid::by_schema("invalid configuration: ", base, violation))?;
    for address in body.get("nodes").and_then(Value::as_object).into_iter().flat_map(|nodes| nodes.keys()) {
        if let (_, Some(port)) = split_address(address)
            && !(1..=65535).contains(&port)
        {
            return Err(Invalid::at(&format!("{base}/nodes"), format!("invalid port {port}")));
        }
    }
    if follow && let Some(id) = body.get("tls").and_then(|tls| id::field(tls, "client_cert_id")) {
        let fail = |cause: &str| {
            let message = format!("failed to fetch ssl info by ssl id [{id}], {cause}");
            Err(Invalid::at(&format!("{base}/tls/client_cert_id"), message))
        };
        match checks.references.get(Kind::Ssl, &id) {
            None => return fail("response code: 404"),
            Some(ssl) if ssl.get("type").and_then(Value::as_str) != Some("client") => return fail("wrong ssl type"),
            Some(_) => {}
        }
    }
    if follow
        && let Some(id) = body.get("circuit_breaker").and_then(|breaker| id::field(breaker, "fallback"))
        && !checks.references.exists(Kind::Upstream, &id)
    {
        let message = format!("failed to fetch upstream info by upstream id [{id}], response code: 404");
        return Err(Invalid::at(&format!("{base}/circuit_breaker/fallback"), message));
    }
    check_content(base, body, checks)
}

/// `circuit_breaker.fallback` where it is an upstream; ours. By itself, as the upstream's schema would only say that a clause
/// did not match.
pub(super) fn check_fallback(base: &str, body: &mut Value, checks: &Checks<'_>) -> Checked {
    let Some(fallback) = body.pointer_mut("/circuit_breaker/fallback").filter(|own| own.is_object()) else {
        return Ok(());
    };
    let path = format!("{base}/circuit_breaker/fallback");
    let prefix = "invalid configuration: circuit_breaker.fallback: ";
    schemas::FALLBACK.check(fallback).map_err(|violation| Invalid::by_schema(prefix, &path, violation))?;
    check_content(&path, fallback, checks)
}

/// What nodes check in their own data, too.
pub(super) fn check_content(base: &str, body: &Value, checks: &Checks<'_>) -> Checked {
    let field = |name: &str| body.get(name).and_then(Value::as_str);
    if field("pass_host") == Some("rewrite") && field("upstream_host").unwrap_or_default().is_empty() {
        let message = "`upstream_host` can't be empty when `pass_host` is `rewrite`";
        return Err(Invalid::at(&format!("{base}/upstream_host"), message));
    }
    let wait = |name| body.get("retry_backoff").and_then(|backoff| backoff.get(name)).and_then(Value::as_f64);
    if let (Some(first), Some(max)) = (wait("base_interval"), wait("max_interval"))
        && max < first
    {
        let message = "`max_interval` must not be less than `base_interval`";
        return Err(Invalid::at(&format!("{base}/retry_backoff/max_interval"), message));
    }
    if let Some(tls) = body.get("tls")
        && let Some(cert) = tls.get("client_cert").and_then(Value::as_str)
        && !secret::is_reference(cert)
    {
        let key = tls.get("client_key").and_then(Value::as_str);
        ssl::check_pair(cert, key.filter(|key| !secret::is_reference(key)), checks)
            .map_err(|message| Invalid::at(&format!("{base}/tls"), message))?;
    }
    if let Some(limit) = body.get("concurrency_limit").filter(|own| own.get("limit").is_none())
        && limit.get("type").and_then(Value::as_str) != Some("gradient")
    {
        // said here, as a schema would only say that a clause did not match
        let message = "concurrency_limit: `limit` is required unless `type` is `gradient`";
        return Err(Invalid::at(&format!("{base}/concurrency_limit/limit"), message));
    }
    balancing::check(base, body)?;
    if field("type") == Some("chash") { check_chash(base, body) } else { Ok(()) }
}

/// `chash` needs a key that fits what is hashed.
fn check_chash(base: &str, body: &Value) -> Checked {
    let path = format!("{base}/key");
    let hash_on = body.get("hash_on").and_then(Value::as_str).unwrap_or("vars");
    if matches!(hash_on, "consumer" | "client_ip" | "uri") {
        return Ok(());
    }
    let Some(key) = body.get("key") else { return Err(Invalid::at(&path, "missing key")) };
    let schema: &Schema = match hash_on {
        "vars" => &schemas::HASH_VARS,
        "header" | "cookie" | "query_arg" => &schemas::HASH_HEADER,
        "vars_combinations" => &schemas::HASH_VARS_COMBINATIONS,
        other => return Err(Invalid::at(&path, format!("type is chash, err: invalid hash_on type {other}"))),
    };
    schema.check(&mut key.clone()).map_err(|violation| Invalid::by_schema("invalid configuration: ", &path, violation))
}

/// Adds the brackets that IPv6 nodes lack.
pub(super) fn bracket_nodes(body: &mut Value) {
    let Some(Value::Array(nodes)) = body.get_mut("nodes") else { return };
    for node in nodes {
        if let Some(Value::String(host)) = node.get_mut("host")
            && is_bare_ipv6(host)
        {
            *host = format!("[{host}]");
        }
    }
}

fn nodes(body: &Value) -> impl Iterator<Item = &Value> {
    body.get("nodes").and_then(Value::as_array).into_iter().flatten()
}
