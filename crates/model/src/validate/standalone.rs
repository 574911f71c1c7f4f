//! The checks a node makes on its own data, from etcd or from a file (the `checker`s given to `core.config.new`).
//! Surprises: messages have no "invalid configuration: " before them, references are not followed, and an upstream
//! embedded in a route is checked by the schema only.

use super::{Checked, Checks, Invalid, PluginScope, check_proto, plugins, route, ssl, stream_route, upstream};
use crate::kind::Kind;
use crate::schema::Schema;
use crate::{id, schemas};
use serde_json::Value;

/// Checks an object of a file or of etcd and injects its defaults. `skip_unknown`: pass over plugins that are not enabled
/// (APISIX does with etcd, and does not with files). An object whose id says that it stands below another (a credential among consumers) is checked as such.
pub fn validate_standalone(kind: Kind, skip_unknown: bool, body: &mut Value, checks: &Checks<'_>) -> Checked {
    let id = id::field(body, "id");
    let kind = id.as_deref().map_or(kind, |id| kind.of_id(id));
    match kind {
        Kind::PluginMetadata => return check_metadata(id.as_deref(), body, checks),
        Kind::Secret => return check_secret(id.as_deref(), body),
        _ => check_schema(schemas::schema(kind), body)?,
    }
    let of_route = |body: &mut Value| plugins::check_known(PluginScope::Route, "", skip_unknown, body, checks);
    match kind {
        Kind::Route => {
            of_route(body)?;
            route::check_vars(body, checks)
        }
        Kind::Service | Kind::ConsumerGroup | Kind::PluginConfig | Kind::GlobalRule => of_route(body),
        Kind::Upstream => {
            upstream::bracket_nodes(body);
            upstream::check_content("", body, checks)
        }
        Kind::Consumer | Kind::Credential => {
            plugins::check_known(PluginScope::Consumer, "", skip_unknown, body, checks)
        }
        Kind::Ssl => {
            if !skip_unknown {
                ssl::check_fields("", body, checks)?;
            }
            ssl::check(body, checks)
        }
        Kind::Proto => check_proto(body, checks),
        Kind::StreamRoute => stream_route::check_content(skip_unknown, body, checks),
        Kind::PluginMetadata | Kind::Secret | Kind::GraphqlCostDecoration => Ok(()),
    }
}

fn check_schema(schema: &Schema, body: &mut Value) -> Checked {
    schema.check(body).map_err(|violation| Invalid::by_schema("", "", violation))
}

/// Metadata of a plugin that is not enabled is ignored.
fn check_metadata(name: Option<&str>, body: &mut Value, checks: &Checks<'_>) -> Checked {
    let Some(name) = name.filter(|name| checks.plugins.exists(name, PluginScope::Metadata)) else { return Ok(()) };
    let checked = checks.plugins.check(name, PluginScope::Metadata, body);
    checked.map_err(|cause| Invalid::at("", format!("failed to check the configuration of plugin {name} err: {cause}")))
}

/// apisix/secret.lua `check_secret`
fn check_secret(id: Option<&str>, body: &mut Value) -> Checked {
    let Some((manager, _)) = id.and_then(|id| id.split_once('/')) else {
        return Err(Invalid::at("/id", "no secret id"));
    };
    match schemas::secret::manager(manager) {
        Some(schema) => check_schema(schema, body),
        None => Err(Invalid::at("/id", format!("secret manager not exits, manager: {manager}"))),
    }
}
