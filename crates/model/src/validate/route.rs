//! Checks of routes and services (apisix/admin/routes.lua, services.lua). Surprise: `host` with `hosts` is refused before
//! the schema can say so, in other words.

use super::{Checked, Checks, Invalid, Lua, PluginScope, check_reference, check_schema, plugins, upstream};
use crate::kind::Kind;
use crate::schemas;
use serde_json::Value;

pub(super) fn check(follow: bool, body: &mut Value, checks: &Checks<'_>) -> Checked {
    for (one, several) in [("host", "hosts"), ("remote_addr", "remote_addrs")] {
        if body.get(one).is_some() && body.get(several).is_some() {
            return Err(Invalid::at(&format!("/{one}"), format!("only one of {one} or {several} is allowed")));
        }
    }
    if let Some(inner) = body.get_mut("upstream") {
        upstream::check_fallback("/upstream", inner, checks)?;
    }
    check_schema(schemas::schema(Kind::Route), body)?;
    if let Some(inner) = body.get_mut("upstream") {
        upstream::check("/upstream", follow, inner, checks)?;
    }
    if follow {
        check_reference("upstream_id", Kind::Upstream, "upstream", body, checks)?;
        check_reference("service_id", Kind::Service, "service", body, checks)?;
        check_reference("plugin_config_id", Kind::PluginConfig, "plugin config", body, checks)?;
    }
    plugins::check(PluginScope::Route, "", body, checks)?;
    check_vars(body, checks)?;
    if let Some(Value::String(source)) = body.get("filter_func") {
        let checked = checks.parsers.lua(Lua::FilterFunc, source);
        checked.map_err(|message| Invalid::at("/filter_func", message))?;
    }
    check_script(body, checks)
}

pub(super) fn check_service(follow: bool, body: &mut Value, checks: &Checks<'_>) -> Checked {
    if let Some(inner) = body.get_mut("upstream") {
        upstream::check_fallback("/upstream", inner, checks)?;
    }
    check_schema(schemas::schema(Kind::Service), body)?;
    if let Some(inner) = body.get_mut("upstream") {
        upstream::check("/upstream", follow, inner, checks)?;
    }
    if follow {
        check_reference("upstream_id", Kind::Upstream, "upstream", body, checks)?;
    }
    plugins::check(PluginScope::Route, "", body, checks)?;
    check_script(body, checks)
}

pub(super) fn check_vars(body: &Value, checks: &Checks<'_>) -> Checked {
    let Some(vars) = body.get("vars") else { return Ok(()) };
    checks
        .parsers
        .vars(vars)
        .map_err(|cause| Invalid::at("/vars", format!("failed to validate the 'vars' expression: {cause}")))
}

fn check_script(body: &Value, checks: &Checks<'_>) -> Checked {
    let Some(Value::String(source)) = body.get("script") else { return Ok(()) };
    let checked = checks.parsers.lua(Lua::Script, source);
    checked.map_err(|message| Invalid::at("/script", message))
}
