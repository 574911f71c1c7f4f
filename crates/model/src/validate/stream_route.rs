//! Checks of stream routes (apisix/admin/stream_routes.lua, apisix/stream/router/ip_port.lua). Surprise: the upstream
//! embedded in a stream route is checked by the schema only.

use super::{Checked, Checks, Invalid, PluginScope, check_reference, check_schema, plugins};
use crate::kind::Kind;
use crate::{id, schemas};
use ipnet::IpNet;
use serde_json::Value;
use std::net::IpAddr;

pub(super) fn check(id: Option<&str>, follow: bool, body: &mut Value, checks: &Checks<'_>) -> Checked {
    check_schema(schemas::schema(Kind::StreamRoute), body)?;
    if follow {
        check_reference("upstream_id", Kind::Upstream, "upstream", body, checks)?;
        check_reference("service_id", Kind::Service, "service", body, checks)?;
        check_superior(id, body, checks)?;
    }
    check_content(false, body, checks)
}

/// What nodes check in their own data, too.
pub(super) fn check_content(skip_unknown: bool, body: &mut Value, checks: &Checks<'_>) -> Checked {
    plugins::check_known(PluginScope::Stream, "", skip_unknown, body, checks)?;
    for name in ["remote_addr", "server_addr"] {
        if let Some(Value::String(text)) = body.get(name)
            && text.parse::<IpNet>().is_err()
            && text.parse::<IpAddr>().is_err()
        {
            return Err(Invalid::at(&format!("/{name}"), format!("invalid {name}: {text}")));
        }
    }
    match body.get("protocol") {
        Some(protocol) => checks.parsers.protocol(protocol).map_err(|message| Invalid::at("/protocol", message)),
        None => Ok(()),
    }
}

/// A subordinate route must name an existing route of the same protocol, and not itself.
fn check_superior(id: Option<&str>, body: &Value, checks: &Checks<'_>) -> Checked {
    const PATH: &str = "/protocol/superior_id";
    let Some(protocol) = body.get("protocol") else { return Ok(()) };
    let Some(superior) = id::field(protocol, "superior_id") else { return Ok(()) };
    if id == Some(superior.as_str()) {
        return Err(Invalid::at(PATH, "stream route can not set itself as superior_id"));
    }
    let Some(route) = checks.references.get(Kind::StreamRoute, &superior) else {
        return Err(Invalid::at(PATH, format!("failed to fetch stream routes[{superior}], response code: 404")));
    };
    let name = |protocol: &Value| protocol.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(other) = route.get("protocol")
        && name(other) != name(protocol)
    {
        let message = format!(
            "protocol mismatch: subordinate protocol [{}] does not match superior protocol [{}]",
            name(protocol),
            name(other)
        );
        return Err(Invalid::at(PATH, message));
    }
    Ok(())
}
