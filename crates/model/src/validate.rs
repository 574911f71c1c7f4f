//! What the Admin API and the files check beyond the schemas, with the texts of APISIX's answers (apisix/admin/*.lua).
//! Surprise: a check injects defaults into the body it is given, while APISIX's Admin API stores the body as it was sent
//! (plus its `id`): check a clone, store the original.

mod balancing;
mod consumer;
mod plugins;
mod route;
mod ssl;
mod standalone;
mod stream_route;
#[cfg(test)]
mod tests;
mod upstream;

pub use consumer::is_key_field;
pub use standalone::validate_standalone;

use crate::kind::Kind;
use crate::schema::{Schema, Violation};
use crate::{id, schemas};
use serde_json::Value;

/// Where a plugin is configured; decides which of its schemas holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PluginScope {
    /// Routes, services, plugin configs, consumer groups, global rules.
    Route,
    /// Consumers and credentials.
    Consumer,
    Metadata,
    Stream,
}

/// The plugins this gateway has.
pub trait Plugins {
    /// Checks a configuration and injects its defaults; the error is the plugin's own text.
    fn check(&self, name: &str, scope: PluginScope, conf: &mut Value) -> Result<(), String>;
    /// Whether the plugin is enabled (for metadata: whether it exists).
    fn exists(&self, name: &str, scope: PluginScope) -> bool;
    /// Whether the plugin authenticates consumers (type "auth"): only such go into credentials.
    fn is_auth(&self, name: &str) -> bool;
}

/// The resources already there.
pub trait References {
    fn exists(&self, kind: Kind, id: &str) -> bool;
    /// The stored body.
    fn get(&self, kind: Kind, id: &str) -> Option<Value>;
    /// A global rule that has this plugin, other than `except`.
    fn global_rule_with(&self, plugin: &str, except: Option<&str>) -> Option<String>;
    /// Who has this value in the identifying field of an auth plugin.
    fn key_owner(&self, plugin: &str, field: &str, value: &str) -> Option<KeyOwner>;
}

/// A consumer, or one of its credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOwner {
    pub consumer: String,
    pub credential: Option<String>,
}

/// Parsers that live in other crates. Each error is the parser's text; the prefix is added here.
pub trait Parsers {
    /// Compiles a `vars` expression.
    fn vars(&self, expression: &Value) -> Result<(), String>;
    /// Parses a PEM certificate.
    fn certificate(&self, pem: &str) -> Result<(), String>;
    /// Parses a PEM private key, decrypting it first if it was stored encrypted.
    fn private_key(&self, pem: &str) -> Result<(), String>;
    /// Compiles a protobuf definition.
    fn proto(&self, content: &str) -> Result<(), String>;
    /// Checks Lua source. The error is the whole message, but for a `pre_function` Lua's alone. By default nothing is checked.
    fn lua(&self, _purpose: Lua, _source: &str) -> Result<(), String> {
        Ok(())
    }
    /// Checks the protocol of a stream route; the error is the whole answer. By default no protocol is known.
    fn protocol(&self, protocol: &Value) -> Result<(), String> {
        Err(format!("unknown protocol [{}]", protocol.get("name").and_then(Value::as_str).unwrap_or_default()))
    }
}

/// What Lua source is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lua {
    FilterFunc,
    Script,
    PreFunction,
}

/// Everything a check needs from outside.
#[derive(Clone, Copy)]
pub struct Checks<'a> {
    pub plugins: &'a dyn Plugins,
    pub references: &'a dyn References,
    pub parsers: &'a dyn Parsers,
}

/// How a body comes to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// `POST`: the gateway chooses the id.
    Post,
    /// `PUT`. `parent`: the consumer of a credential.
    Put { parent: Option<&'a str> },
    /// The whole body after a `PATCH`: it may hold the timestamps.
    Patch,
}

impl Write<'_> {
    /// `PUT` of a resource without a parent.
    pub const PUT: Write<'static> = Write::Put { parent: None };
}

/// A refusal, as the Admin API answers it with 400 `{"error_msg": message}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    pub message: String,
    /// JSON pointer of the offending value as far as known, `""` for the whole.
    pub path: String,
    /// When a schema refused the body.
    pub violation: Option<Box<Violation>>,
}

impl Invalid {
    pub(crate) fn at(path: &str, message: impl Into<String>) -> Invalid {
        Invalid { message: message.into(), path: path.to_owned(), violation: None }
    }

    fn by_schema(prefix: &str, base: &str, violation: Violation) -> Invalid {
        Invalid {
            message: format!("{prefix}{}", violation.message),
            path: format!("{base}{}", violation.path),
            violation: Some(Box::new(violation)),
        }
    }
}

pub(crate) type Checked = Result<(), Invalid>;

/// All checks of the Admin API on a write. `id`: from the path; a secret's is `<manager>/<id>`, a credential's its own,
/// a plugin metadata's the plugin's name. On success the body has its `id` and its defaults.
pub fn validate(write: Write<'_>, kind: Kind, id: Option<&str>, body: &mut Value, checks: &Checks<'_>) -> Checked {
    let id = check_id(write, kind, id, body)?;
    if !matches!(write, Write::Patch) {
        check_forbidden(body)?;
    }
    let parent = match write {
        Write::Put { parent } => parent,
        Write::Post | Write::Patch => None,
    };
    check_resource(kind, id.as_deref(), parent, true, body, checks)
}

/// The checks of `PUT /apisix/admin/configs` (apisix/admin/config_validate.lua): as [`validate`], but ids are the body's
/// own and references are not followed, since the objects arrive together.
pub fn validate_declared(kind: Kind, body: &mut Value, checks: &Checks<'_>) -> Checked {
    let id = id::field(body, "id");
    let kind = id.as_deref().map_or(kind, |id| kind.of_id(id));
    if kind == Kind::Secret && !id.as_deref().is_some_and(|id| id.contains('/')) {
        return Err(Invalid::at("/id", format!("invalid secret id: {}", id.as_deref().unwrap_or("nil"))));
    }
    let checked_id = if kind == Kind::Consumer { None } else { id.as_deref() };
    check_resource(kind, checked_id, None, false, body, checks)
}

/// apisix/admin/resource.lua `check_conf`: whether there must be an id and whether path and body agree.
fn check_id(write: Write<'_>, kind: Kind, id: Option<&str>, body: &mut Value) -> Result<Option<String>, Invalid> {
    if !kind.needs_id() {
        return Ok(id.map(str::to_owned));
    }
    let name = kind.name();
    let own = id::field(body, "id");
    let chosen = id.map(str::to_owned).or_else(|| own.clone());
    if write == Write::Post {
        return match chosen {
            Some(_) => Err(Invalid::at("/id", format!("wrong {name} id, do not need it"))),
            None => Ok(None),
        };
    }
    let Some(chosen) = chosen else {
        return Err(Invalid::at("/id", format!("missing {name} id")));
    };
    if own.is_some_and(|own| own != chosen) {
        return Err(Invalid::at("/id", format!("wrong {name} id")));
    }
    if let (Some(id), Value::Object(fields)) = (id, body) {
        fields.insert(String::from("id"), Value::from(id));
    }
    Ok(Some(chosen))
}

/// Timestamps belong to the gateway. The two spaces are APISIX's.
fn check_forbidden(body: &Value) -> Checked {
    for part in ["", "upstream", "plugins"] {
        let part_of_body = if part.is_empty() { Some(body) } else { body.get(part) };
        for name in ["create_time", "update_time"] {
            let found = part_of_body.and_then(|part| part.get(name));
            if found.is_some_and(|value| *value != Value::Bool(false)) {
                let dot = if part.is_empty() { "" } else { "." };
                let slash = if part.is_empty() { "" } else { "/" };
                let message = format!("the property is forbidden:  {part}{dot}{name}");
                return Err(Invalid::at(&format!("{slash}{part}/{name}"), message));
            }
        }
    }
    Ok(())
}

fn check_resource(
    kind: Kind,
    id: Option<&str>,
    parent: Option<&str>,
    follow: bool,
    body: &mut Value,
    checks: &Checks<'_>,
) -> Checked {
    match kind {
        Kind::Route => route::check(follow, body, checks),
        Kind::Service => route::check_service(follow, body, checks),
        Kind::Upstream => upstream::check("", follow, body, checks),
        Kind::Consumer => consumer::check(id, follow, body, checks),
        Kind::Credential => consumer::check_credential(id, parent, body, checks),
        Kind::ConsumerGroup | Kind::PluginConfig => {
            check_schema(schemas::schema(kind), body)?;
            plugins::check(PluginScope::Route, "", body, checks)
        }
        Kind::GlobalRule => {
            check_schema(schemas::schema(kind), body)?;
            plugins::check(PluginScope::Route, "", body, checks)?;
            check_global_rule(id, body, checks)
        }
        Kind::PluginMetadata => check_metadata(id, body, checks),
        Kind::Ssl => {
            ssl::check_fields("invalid configuration: ", body, checks)?;
            check_schema(schemas::schema(kind), body)?;
            ssl::check(body, checks)
        }
        Kind::GraphqlCostDecoration => check_schema(schemas::schema(kind), body),
        Kind::Proto => {
            check_schema(schemas::schema(kind), body)?;
            check_proto(body, checks)
        }
        Kind::Secret => check_secret(id, body),
        Kind::StreamRoute => stream_route::check(id, follow, body, checks),
    }
}

/// A schema check with the prefix of the Admin API.
fn check_schema(schema: &Schema, body: &mut Value) -> Checked {
    schema.check(body).map_err(|violation| Invalid::by_schema("invalid configuration: ", "", violation))
}

/// apisix/admin/global_rules.lua: a plugin may be in one global rule only.
fn check_global_rule(id: Option<&str>, body: &Value, checks: &Checks<'_>) -> Checked {
    for name in body.get("plugins").and_then(Value::as_object).into_iter().flat_map(|plugins| plugins.keys()) {
        if let Some(other) = checks.references.global_rule_with(name, id) {
            let message = format!("plugin '{name}' already exists in global rule with id '{other}'");
            return Err(Invalid::at(&format!("/plugins/{name}"), message));
        }
    }
    Ok(())
}

/// apisix/admin/plugin_metadata.lua
fn check_metadata(name: Option<&str>, body: &mut Value, checks: &Checks<'_>) -> Checked {
    let Some(name) = name else {
        return Err(Invalid::at("", "missing plugin name"));
    };
    if !checks.plugins.exists(name, PluginScope::Metadata) {
        return Err(Invalid::at("", "invalid plugin name"));
    }
    check_schema(schemas::schema(Kind::PluginMetadata), body)?;
    let checked = checks.plugins.check(name, PluginScope::Metadata, body);
    checked.map_err(|cause| Invalid::at("", format!("invalid configuration: {cause}")))
}

/// apisix/admin/proto.lua
fn check_proto(body: &Value, checks: &Checks<'_>) -> Checked {
    let content = body.get("content").and_then(Value::as_str).unwrap_or_default();
    checks.parsers.proto(content).map_err(|cause| Invalid::at("/content", format!("invalid content: {cause}")))
}

/// apisix/admin/secrets.lua
fn check_secret(id: Option<&str>, body: &mut Value) -> Checked {
    let Some(manager) = id.and_then(|id| id.split('/').next()).filter(|manager| !manager.is_empty()) else {
        return Err(Invalid::at("/id", "missing secret type"));
    };
    match schemas::secret::manager(manager) {
        Some(schema) => check_schema(schema, body),
        None => Err(Invalid::at("/id", format!("invalid secret manager: {manager}"))),
    }
}

/// `failed to fetch <what> info by <what> id [<id>], response code: 404`, when the object in `field` is not there.
fn check_reference(field: &str, kind: Kind, what: &str, body: &Value, checks: &Checks<'_>) -> Checked {
    match id::field(body, field) {
        Some(id) if !checks.references.exists(kind, &id) => {
            let message = format!("failed to fetch {what} info by {what} id [{id}], response code: 404");
            Err(Invalid::at(&format!("/{field}"), message))
        }
        _ => Ok(()),
    }
}
