//! Checks of plugin configurations (apisix/plugin.lua `check_single_plugin_schema`, `stream_check_schema`). Surprise: a
//! plugin that is disabled by `_meta.disable` may have a configuration that does not pass.

use super::{Checked, Checks, Invalid, Lua, PluginScope};
use serde_json::Value;

/// Checks each of `body.plugins`; `prefix` goes before every message.
pub(super) fn check(scope: PluginScope, prefix: &str, body: &mut Value, checks: &Checks<'_>) -> Checked {
    check_known(scope, prefix, false, body, checks)
}

/// As [`check`]; `skip_unknown` passes over plugins that are not enabled, as nodes fed by etcd do.
pub(super) fn check_known(
    scope: PluginScope,
    prefix: &str,
    skip_unknown: bool,
    body: &mut Value,
    checks: &Checks<'_>,
) -> Checked {
    let Some(Value::Object(plugins)) = body.get_mut("plugins") else { return Ok(()) };
    for (name, conf) in plugins.iter_mut() {
        check_one(scope, name, skip_unknown, conf, checks).map_err(|message| {
            let path = format!("/plugins/{}", name.replace('~', "~0").replace('/', "~1"));
            Invalid::at(&path, format!("{prefix}{message}"))
        })?;
    }
    Ok(())
}

fn check_one(
    scope: PluginScope,
    name: &str,
    skip_unknown: bool,
    conf: &mut Value,
    checks: &Checks<'_>,
) -> Result<(), String> {
    if !conf.is_object() && !conf.is_array() {
        return Err(format!("invalid plugin conf {conf} for plugin [{name}]"));
    }
    if !checks.plugins.exists(name, scope) {
        return if skip_unknown { Ok(()) } else { Err(format!("unknown plugin [{name}]")) };
    }
    let before = is_disabled(conf).then(|| conf.clone());
    if let Err(cause) = checks.plugins.check(name, scope, conf) {
        match before {
            Some(before) => *conf = before,
            None if scope == PluginScope::Stream => {
                return Err(format!("failed to check the configuration of stream plugin [{name}]: {cause}"));
            }
            None => return Err(format!("failed to check the configuration of plugin {name} err: {cause}")),
        }
    }
    if scope == PluginScope::Stream {
        return Ok(());
    }
    let Some(Value::Object(meta)) = conf.get("_meta") else { return Ok(()) };
    if let Some(filter) = meta.get("filter") {
        let checked = checks.parsers.vars(filter);
        checked.map_err(|cause| format!("failed to validate the 'vars' expression: {cause}"))?;
    }
    if let Some(Value::String(source)) = meta.get("pre_function") {
        let checked = checks.parsers.lua(Lua::PreFunction, source);
        checked.map_err(|cause| format!("failed to load _meta.pre_function in plugin {name}: {cause}"))?;
    }
    Ok(())
}

fn is_disabled(conf: &Value) -> bool {
    conf.get("_meta").and_then(|meta| meta.get("disable")) == Some(&Value::Bool(true))
}
